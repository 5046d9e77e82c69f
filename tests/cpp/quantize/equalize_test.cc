#include "quantize/equalize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace arrow_quant {
namespace {

using Ranges = std::vector<std::vector<float>>;

TEST(Equalize, TakesTheLargestRangeOfAllTimes) {
  const Ranges ranges = {{1, 5, 2}, {3, 4, 2}};
  const std::vector<float> weights = {1, 1, 1};
  EXPECT_EQ(pool_ranges(Pooling::kMax, ranges, weights), (std::vector<float>{3, 5, 2}));
}

TEST(Equalize, WeighsTimesByTheirRankCorrelationWithTheWeights) {
  // One time ranks its channels as the weights do (rho = 1), one the other way round (rho = -1).
  const Ranges ranges = {{1, 2, 3}, {30, 20, 10}};
  const std::vector<float> weights = {0.1F, 0.5F, 0.9F};
  const double low = std::exp(-1.0), high = std::exp(1.0);
  const std::vector<float> pooled = pool_ranges(Pooling::kSpearman, ranges, weights);
  for (size_t j = 0; j < 3; ++j) {
    const double expected =
        (low * static_cast<double>(ranges[0][j]) + high * static_cast<double>(ranges[1][j])) /
        (low + high);
    EXPECT_NEAR(pooled[j], expected, 1e-5);
  }
}

TEST(Equalize, AveragesWithTheEarliestTimeLast) {
  const Ranges ranges = {{1}, {0}, {0}};
  EXPECT_NEAR(pool_ranges(Pooling::kEma, ranges, std::vector<float>{1})[0], 0.05, 1e-6);
  const Ranges last = {{0}, {0}, {1}};
  EXPECT_NEAR(pool_ranges(Pooling::kEma, last, std::vector<float>{1})[0], 0.95 * 0.95, 1e-6);
}

TEST(Equalize, FactorsFollowTheFormulaAndKeepTheMagnitudeOfTheWeights) {
  const std::vector<float> ranges = {4, 1, 0, 16}, weights = {1, 4, 1, 1};
  const std::vector<float> factors = equalization_factors(ranges, weights, 0.5F);
  // sqrt(a / w) = 2, 1/2, -, 4: the geometric mean is 4^(1/3).
  const float mean = std::cbrt(4.0F);
  EXPECT_NEAR(factors[0], 2 / mean, 1e-6);
  EXPECT_NEAR(factors[1], 0.5 / mean, 1e-6);
  EXPECT_EQ(factors[2], 1.0F) << "a channel that is always zero";
  EXPECT_NEAR(factors[3], 4 / mean, 1e-6);
}

TEST(Equalize, FactorsStayWithinBoundsWhateverTheRanges) {
  const std::vector<float> ranges = {1e30F, 1e-30F, 1}, weights = {1e-30F, 1e30F, 1};
  for (const float factor : equalization_factors(ranges, weights, 0.7F)) {
    EXPECT_GE(factor, 1.0F / 4096);
    EXPECT_LE(factor, 4096.0F);
  }
}

TEST(Equalize, TheGramMatrixIsThatOfTheDividedInputs) {
  // 300 channels reach over more than one tile; 3 of them share a factor.
  constexpr uint64_t kChannels = 300;
  GramMatrix gram(kChannels);
  std::mt19937 random(3);
  for (float& value : gram.values()) value = static_cast<float>(random() % 100);
  std::vector<float> factors(kChannels / 3);
  for (float& factor : factors) factor = 0.5F + static_cast<float>(random() % 8);
  const GramMatrix changed = equalized(gram, factors, 3);
  for (uint64_t i = 0; i < kChannels; i += 7) {
    for (uint64_t j = i; j < kChannels; j += 11) {
      const float expected = gram.at(i, j) / (factors[i / 3] * factors[j / 3]);
      EXPECT_NEAR(changed.at(i, j), expected, 1e-5F * expected);
    }
  }
}

}  // namespace
}  // namespace arrow_quant
