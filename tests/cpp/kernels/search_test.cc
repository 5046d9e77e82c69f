#include "kernels/search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/isa_fixture.h"

namespace arrow_quant {
namespace {

ARROW_QUANT_TEST_EVERY_ISA(Search);

using Lanes = std::array<float, kTileLanes>;

/// Groups in rows, and the same in a tile.
struct Groups {
  size_t depth;
  std::vector<float> rows, importance, x, h;
  Lanes low, high;

  explicit Groups(size_t n, bool weighted = false, unsigned seed = 11) : depth(n) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.3F, 1.0F);
    for (size_t i = 0; i < n * kTileLanes; ++i) {
      rows.push_back(normal(random));
      importance.push_back(std::exp(2.0F * normal(random)));
    }
    x = to_tile(rows, 0.5F);
    if (weighted) h = to_tile(importance, 1.0F);
    center_tile(x.data(), n, low.data(), high.data());
  }

  std::vector<float> to_tile(const std::vector<float>& from, float factor) const {
    std::array<const float*, kTileLanes> sources;
    for (size_t lane = 0; lane < kTileLanes; ++lane) sources[lane] = from.data() + lane * depth;
    std::vector<float> tile(from.size());
    fill_tile(sources.data(), depth, factor, tile.data());
    return tile;
  }
  Tile tile() const {
    return {x.data(), h.empty() ? nullptr : h.data(), depth, low.data(), high.data()};
  }
  double weight(size_t lane, size_t i) const { return 0.5 * rows[lane * depth + i]; }

  /// sum h (x - x')^2 with nearest codes, in double.
  double error(size_t lane, int bits, double step, double base, double limit = HUGE_VAL) const {
    const double top = (1 << bits) - 1;
    double sum = 0;
    for (size_t i = 0; i < depth; ++i) {
      const double w = weight(lane, i);
      const double code = std::clamp(std::nearbyint((w - base) / step), 0.0, top);
      const double v = std::clamp(step * code + base, -limit, limit);
      sum += (h.empty() ? 1.0 : importance[lane * depth + i]) * (w - v) * (w - v);
    }
    return sum;
  }
};

TEST_P(Search, CentersEveryGroupOnTheMiddleOfItsRange) {
  for (size_t depth : {1, 5, 32}) {
    const Groups groups(depth);
    for (size_t lane = 0; lane < kTileLanes; ++lane) {
      double low = HUGE_VAL, high = -HUGE_VAL;
      for (size_t i = 0; i < depth; ++i) {
        low = std::min(low, groups.weight(lane, i));
        high = std::max(high, groups.weight(lane, i));
        EXPECT_NEAR(
            groups.x[i * kTileLanes + lane] + tile_middle(groups.low[lane], groups.high[lane]),
            groups.weight(lane, i), 1e-6);
      }
      EXPECT_EQ(groups.low[lane], low);
      EXPECT_EQ(groups.high[lane], high);
    }
  }
}

TEST_P(Search, ComesCloseToAnExhaustiveSearchOfRealParameters) {
  for (int bits : {2, 4}) {
    for (bool weighted : {false, true}) {
      const Groups groups(64, weighted);
      Lanes step, base;
      search_affine(groups.tile(), bits, SearchEffort::kFull, step.data(), base.data());
      double found = 0, least = 0;
      for (size_t lane = 0; lane < kTileLanes; ++lane) {
        found += groups.error(lane, bits, step[lane], base[lane]);
        double best = HUGE_VAL;
        const double range = groups.high[lane] - groups.low[lane];
        const double whole = range / ((1 << bits) - 1);
        for (double f = 0.2; f < 1.2; f += 0.01) {
          for (double shift = -1.0; shift <= 1.0; shift += 0.05) {
            const double s = f * whole;
            const double low = 0.5 * (groups.low[lane] + groups.high[lane]) -
                               0.5 * s * ((1 << bits) - 1) + shift * s;
            best = std::min(best, groups.error(lane, bits, s, low));
          }
        }
        least += best;
      }
      EXPECT_LT(found, 1.03 * least) << bits << " bits, weighted " << weighted;
    }
  }
}

TEST_P(Search, SpansTheRangeWhenNothingCanBeSolved) {
  Groups groups(8, true);
  std::fill(groups.h.begin(), groups.h.end(), 0.0F);
  for (size_t i = 0; i < 8; ++i) groups.x[i * kTileLanes + 3] = 0.0F;
  groups.low[3] = groups.high[3] = 2.5F;
  Lanes step, base;
  search_affine(groups.tile(), 4, SearchEffort::kFull, step.data(), base.data());
  EXPECT_FLOAT_EQ(step[0], (groups.high[0] - groups.low[0]) / 15.0F);
  EXPECT_EQ(base[0], groups.low[0]);
  EXPECT_EQ(step[3], 0.0F);
  EXPECT_EQ(base[3], 2.5F);
}

TEST_P(Search, FindsTheBestIntegersInItsWindow) {
  for (int bits : {2, 4}) {
    for (bool weighted : {false, true}) {
      const Groups groups(32, weighted);
      const float unit = bits == 2 ? 2.0F : 3.0F;
      Lanes step, base, scale, error;
      std::array<uint8_t, kTileLanes> params;
      search_affine(groups.tile(), bits, SearchEffort::kStart, step.data(), base.data());
      for (size_t lane = 0; lane < kTileLanes; ++lane) {
        scale[lane] = step[lane] / (5.0F + 0.8F * static_cast<float>(lane));  // q up to 17
      }
      const TwoLevelWindow everything{-16, 16, 31};
      search_two_level(groups.tile(), {bits, unit, scale.data(), step.data(), base.data()},
                       everything, params.data(), error.data());
      for (size_t lane = 0; lane < kTileLanes; ++lane) {
        double least = HUGE_VAL, chosen = 0;
        const double s = scale[lane];
        for (int byte = 0; byte < 256; ++byte) {
          const int q = byte % 16 + 1, z = byte / 16 - 8;
          const double origin = s * (static_cast<double>(unit) * z - (1 << (bits - 1)) * q);
          const double e = groups.error(lane, bits, s * q, origin, 127.0 * s);
          least = std::min(least, e);
          if (byte == params[lane]) chosen = e;
        }
        EXPECT_NEAR(chosen, least, 1e-4 * least) << lane;
        EXPECT_NEAR(error[lane], chosen, 1e-4 * chosen) << lane;
      }
    }
  }
}

TEST_P(Search, DoesNotDependOnTheOtherLanes) {
  const Groups groups(32, true);
  Groups other = groups;
  for (size_t i = 0; i < 32; ++i) {
    for (size_t lane = 0; lane < kTileLanes; ++lane) {
      if (lane != 5) other.x[i * kTileLanes + lane] *= 3.0F;
    }
  }
  Lanes step_a, base_a, step_b, base_b;
  search_affine(groups.tile(), 4, SearchEffort::kFull, step_a.data(), base_a.data());
  search_affine(other.tile(), 4, SearchEffort::kFull, step_b.data(), base_b.data());
  EXPECT_EQ(step_a[5], step_b[5]);
  EXPECT_EQ(base_a[5], base_b[5]);
}

}  // namespace
}  // namespace arrow_quant
