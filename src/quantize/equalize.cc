#include "quantize/equalize.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "io/equalization_factors.h"

namespace arrow_quant {
namespace {

constexpr double kKeep = 0.95;  // of the average, from one time to the next

/// Rank of each value, ties with their mean rank.
std::vector<double> ranks(std::span<const float> values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, {}, [&](size_t i) { return values[i]; });
  std::vector<double> result(values.size());
  for (size_t first = 0; first < order.size();) {
    size_t last = first;
    while (last < order.size() && values[order[last]] == values[order[first]]) ++last;
    const double mean = 0.5 * static_cast<double>(first + last - 1);
    for (size_t k = first; k < last; ++k) result[order[k]] = mean;
    first = last;
  }
  return result;
}

/// Spearman's rank correlation; 0 when either side is constant.
double rank_correlation(std::span<const float> a, std::span<const float> b) {
  const std::vector<double> x = ranks(a), y = ranks(b);
  const double mean = 0.5 * (static_cast<double>(x.size()) - 1);
  double xx = 0, yy = 0, xy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
    xy += (x[i] - mean) * (y[i] - mean);
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 0;
}

/// Weights of the times, together 1.
std::vector<double> time_weights(Pooling pooling,
                                 std::span<const std::vector<float>> ranges_by_time,
                                 std::span<const float> weight_ranges) {
  const size_t times = ranges_by_time.size();
  std::vector<double> weights(times);
  if (pooling == Pooling::kSpearman) {
    for (size_t t = 0; t < times; ++t) {
      weights[t] = std::exp(-rank_correlation(ranges_by_time[t], weight_ranges));
    }
  } else {
    // Sampling runs from late to early times: the earliest has the last word.
    double left = 1;
    for (size_t t = 0; t + 1 < times; ++t) {
      weights[t] = left * (1 - kKeep);
      left *= kKeep;
    }
    weights[times - 1] = left;
  }
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (double& weight : weights) weight /= sum;
  return weights;
}

}  // namespace

std::string_view to_string(Pooling pooling) noexcept {
  switch (pooling) {
    case Pooling::kMax:
      return "max";
    case Pooling::kSpearman:
      return "spearman";
    case Pooling::kEma:
      return "ema";
    case Pooling::kEnergy:
      return "energy";
  }
  return "";
}

std::vector<float> pool_ranges(Pooling pooling, std::span<const std::vector<float>> ranges_by_time,
                               std::span<const float> weight_ranges) {
  std::vector<float> pooled(weight_ranges.size(), 0.0F);
  if (ranges_by_time.empty()) return pooled;
  if (pooling == Pooling::kMax) {
    for (const std::vector<float>& ranges : ranges_by_time) {
      for (size_t j = 0; j < pooled.size(); ++j) pooled[j] = std::max(pooled[j], ranges[j]);
    }
    return pooled;
  }
  const std::vector<double> weights = time_weights(pooling, ranges_by_time, weight_ranges);
  for (size_t j = 0; j < pooled.size(); ++j) {
    double sum = 0;
    for (size_t t = 0; t < weights.size(); ++t) {
      sum += weights[t] * static_cast<double>(ranges_by_time[t][j]);
    }
    pooled[j] = static_cast<float>(sum);
  }
  return pooled;
}

std::vector<float> equalization_factors(std::span<const float> ranges,
                                        std::span<const float> weight_ranges, float alpha) {
  std::vector<float> factors(ranges.size(), 1.0F);
  double sum = 0;
  size_t live = 0;
  std::vector<float> logs(ranges.size(), 0.0F);
  const auto is_live = [&](size_t j) { return ranges[j] > 0.0F && weight_ranges[j] > 0.0F; };
  for (size_t j = 0; j < ranges.size(); ++j) {
    if (!is_live(j)) continue;
    logs[j] = alpha * std::log2(ranges[j]) - (1.0F - alpha) * std::log2(weight_ranges[j]);
    sum += static_cast<double>(logs[j]);
    ++live;
  }
  if (live == 0) return factors;
  const auto mean = static_cast<float>(sum / static_cast<double>(live));
  for (size_t j = 0; j < ranges.size(); ++j) {
    if (is_live(j)) {
      factors[j] = byte_factor(std::exp2(logs[j] - mean));
    }
  }
  return factors;
}

}  // namespace arrow_quant
