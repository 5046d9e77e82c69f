#include "io/equalization_factors.h"

#include <gtest/gtest.h>

#include <cmath>

namespace arrow_quant {
namespace {

TEST(EqualizationFactors, TakeAByteEachWhenTheyArePowersOfTheEighthRoot) {
  std::vector<float> factors;
  for (int step = -96; step <= 96; ++step) {
    factors.push_back(byte_factor(static_cast<float>(std::exp2(step / 8.0))));
    EXPECT_NEAR(factors.back(), std::exp2(step / 8.0), 1e-6 * std::exp2(step / 8.0));
  }
  const std::vector<uint8_t> bytes = pack_factors(factors);
  ASSERT_EQ(bytes.size(), factors.size());
  EXPECT_EQ(bytes.front(), 32);
  EXPECT_EQ(bytes[96], 128) << "a factor of 1";
  EXPECT_EQ(unpack_factors(bytes, factors.size()), factors);
}

TEST(EqualizationFactors, OfOtherValuesAreStoredAsTheyAre) {
  const std::vector<float> factors = {1.0F, 0.3F, 7.0F};
  const std::vector<uint8_t> bytes = pack_factors(factors);
  EXPECT_EQ(bytes.size(), 12U);
  EXPECT_EQ(unpack_factors(bytes, 3), factors);
}

TEST(EqualizationFactors, BeyondWhatAByteHoldsBecomeTheLastOnes) {
  EXPECT_EQ(byte_factor(1e9F), 4096.0F);
  EXPECT_EQ(byte_factor(1e-9F), 1.0F / 4096);
}

TEST(EqualizationFactors, RefuseBytesThatNobodyWrote) {
  EXPECT_FALSE(unpack_factors(std::vector<uint8_t>{128, 31}, 2));
  EXPECT_FALSE(unpack_factors(std::vector<uint8_t>{128, 225}, 2));
  EXPECT_FALSE(unpack_factors(std::vector<uint8_t>(5), 4));
  EXPECT_FALSE(unpack_factors(std::vector<uint8_t>(4), 1)) << "a factor of 0";
  EXPECT_FALSE(unpack_factors(std::vector<uint8_t>(4), 0));
}

}  // namespace
}  // namespace arrow_quant
