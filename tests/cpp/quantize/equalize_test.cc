#include "quantize/equalize.h"

#include <gtest/gtest.h>

#include <cmath>

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
  // Factors are rounded to the powers of 2^(1/8) that a byte holds.
  EXPECT_NEAR(std::log2(factors[0]), std::log2(2 / mean), 1.0 / 16);
  EXPECT_NEAR(std::log2(factors[1]), std::log2(0.5F / mean), 1.0 / 16);
  EXPECT_EQ(factors[2], 1.0F) << "a channel that is always zero";
  EXPECT_NEAR(std::log2(factors[3]), std::log2(4 / mean), 1.0 / 16);
}

TEST(Equalize, FactorsStayWithinBoundsWhateverTheRanges) {
  const std::vector<float> ranges = {1e30F, 1e-30F, 1}, weights = {1e-30F, 1e30F, 1};
  for (const float factor : equalization_factors(ranges, weights, 0.7F)) {
    EXPECT_GE(factor, 1.0F / 4096);
    EXPECT_LE(factor, 4096.0F);
  }
}

}  // namespace
}  // namespace arrow_quant
