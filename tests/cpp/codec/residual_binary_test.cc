#include "codec/residual_binary.h"

#include <gtest/gtest.h>

namespace arrow_quant::codec::residual_binary {
namespace {

TEST(ResidualBinary, EveryByteIsOneParameterAndBack) {
  for (int byte = 0; byte < 256; ++byte) {
    const Param param = decode(static_cast<uint8_t>(byte));
    EXPECT_EQ(param.q1, byte % 16 + 1);
    EXPECT_EQ(param.q2, byte / 16);
    EXPECT_EQ(encode(param), byte);
  }
}

TEST(ResidualBinary, TheTwoBitsOfACodeAreTheSignsOfQ1AndQ2) {
  const Param param{.q1 = 10, .q2 = 4};
  EXPECT_EQ(value(param, 0b00), -14);
  EXPECT_EQ(value(param, 0b01), 6);
  EXPECT_EQ(value(param, 0b10), -6);
  EXPECT_EQ(value(param, 0b11), 14);
}

TEST(ResidualBinary, LevelsAreQ1AndQ2TimesTheRowScale) {
  const uint8_t params[] = {encode({.q1 = 1, .q2 = 0}), encode({.q1 = 16, .q2 = 15})};
  float first[2], second[2];
  levels(params, 2, 0.5F, first, second);
  EXPECT_EQ(first[0], 0.5F);
  EXPECT_EQ(second[0], 0.0F);
  EXPECT_EQ(first[1], 8.0F);
  EXPECT_EQ(second[1], 7.5F);
}

}  // namespace
}  // namespace arrow_quant::codec::residual_binary
