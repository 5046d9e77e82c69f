#include "quantize/downdate.h"

#include <algorithm>
#include <vector>

namespace arrow_quant {
namespace {

constexpr size_t kLanes = 16;  // directions side by side, so that loops vectorize

/// to -= factor * from.
void subtract(float factor, const float* from, size_t lanes, float* to) {
  for (size_t i = 0; i < lanes; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) to[i + lane] -= factor * from[i + lane];
  }
}

/// P of L P = V, [size][lanes], for the channels of one block.
std::vector<float> solve(const FeedbackBlock& block, std::span<const float> directions,
                         uint64_t channels, size_t count, size_t lanes) {
  std::vector<float> p(block.size * lanes);
  for (uint64_t k = 0; k < block.size; ++k) {
    float* row = p.data() + k * lanes;
    for (size_t g = 0; g < count; ++g) {
      row[g] = directions[g * channels + block.begin + block.order[k]];
    }
    for (uint64_t r = 0; r < k; ++r) {
      subtract(block.mix[k * block.size + r], p.data() + r * lanes, lanes, row);
    }
  }
  return p;
}

}  // namespace

double downdate_cost(const FeedbackFactor& factor, std::span<const float> directions,
                     size_t count) {
  const size_t lanes = (count + kLanes - 1) / kLanes * kLanes;
  double before = 0, after = 0;
  std::vector<double> s(count * count), u(count);
  for (const FeedbackBlock& block : factor.blocks) {
    const std::vector<float> all = solve(block, directions, factor.channels, count, lanes);
    std::ranges::fill(s, 0.0);
    for (size_t g = 0; g < count; ++g) s[g * count + g] = 1;
    for (uint64_t k = 0; k < block.size; ++k) {
      const float* p = all.data() + k * lanes;
      double taken = 0;
      for (size_t g = 0; g < count; ++g) {
        u[g] = 0;
        for (size_t h = 0; h < count; ++h) u[g] += s[g * count + h] * static_cast<double>(p[h]);
        taken += u[g] * static_cast<double>(p[g]);
      }
      const auto cost = static_cast<double>(block.cost[k]);
      before += cost;
      // Nothing remains but what rounding says.
      if (!(taken < cost)) continue;
      const double left = cost - taken;
      after += left;
      for (size_t g = 0; g < count; ++g) {
        for (size_t h = 0; h < count; ++h) s[g * count + h] += u[g] * u[h] / left;
      }
    }
  }
  return before > 0 ? after / before : 1;
}

}  // namespace arrow_quant
