#include "quantize/downdate.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "quantize/calibrated_input.h"

namespace arrow_quant {
namespace {

constexpr size_t kChannels = 300;
constexpr double kDamping = 0.02;

/// With damping of this size, whatever the mean of the diagonal.
FeedbackFactor factor_of(const GramMatrix& gram, double added) {
  double mean = 0;
  for (size_t i = 0; i < kChannels; ++i) mean += gram.at(i, i) / static_cast<double>(kChannels);
  ThreadPool pool(1);
  return make_feedback_factor(gram, 4 * kChannels, {.act_order = false, .damping = added / mean},
                              pool);
}

double sum_of_costs(const FeedbackFactor& factor) {
  const std::vector<float>& cost = factor.blocks.at(0).cost;
  return std::accumulate(cost.begin(), cost.end(), 0.0);
}

TEST(Downdate, CostsAreThoseOfTheFactorWithoutTheDirections) {
  const GramMatrix rest = gram_of(correlated_tokens(4 * kChannels, kChannels), kChannels);
  const size_t count = 3;
  std::vector<float> directions(count * kChannels);
  for (size_t g = 0; g < count; ++g) {
    for (size_t c = 0; c < kChannels; ++c) {
      directions[g * kChannels + c] = 9.0F * static_cast<float>((g + 2) * c % 11) - 40.0F;
    }
  }
  GramMatrix whole = rest;
  for (const GramMatrix::Tile& tile : whole.tiles()) {
    for (uint64_t i = 0; i < tile.rows; ++i) {
      for (uint64_t j = 0; j < tile.columns; ++j) {
        for (size_t g = 0; g < count; ++g) {
          const float* v = directions.data() + g * kChannels;
          whole.values()[tile.offset + i * tile.columns + j] +=
              v[tile.row + i] * v[tile.column + j];
        }
      }
    }
  }
  const double added = kDamping * rest.at(0, 0);
  const FeedbackFactor with = factor_of(whole, added), without = factor_of(rest, added);
  const double expected = sum_of_costs(without) / sum_of_costs(with);
  EXPECT_LT(expected, 0.95);
  EXPECT_NEAR(downdate_cost(with, directions, count), expected, 1e-3);
}

TEST(Downdate, CostsStayWhereNothingIsTakenOut) {
  const GramMatrix gram = gram_of(correlated_tokens(4 * kChannels, kChannels), kChannels);
  const std::vector<float> nothing(kChannels, 0.0F);
  EXPECT_EQ(downdate_cost(factor_of(gram, 1.0), nothing, 1), 1.0);
}

}  // namespace
}  // namespace arrow_quant
