#include "codec/two_level.h"

#include <gtest/gtest.h>

namespace arrow_quant::codec::two_level {
namespace {

TEST(TwoLevel, EveryByteIsOneParameterAndBack) {
  for (int byte = 0; byte < 256; ++byte) {
    const Param param = decode(static_cast<uint8_t>(byte));
    EXPECT_EQ(param.q, byte % 16 + 1);
    EXPECT_EQ(param.z, byte / 16 - 8);
    EXPECT_EQ(encode(param), byte);
  }
}

TEST(TwoLevel, AParameterThatSaysNothingHasQ1AndNoOffset) { EXPECT_EQ(encode({}), 0x80); }

TEST(TwoLevel, CodesAreEvenStepsAroundTheOffset) {
  const Param param{.q = 3, .z = -2};
  EXPECT_EQ(value(param, 8, 4, 5), -10);  // the middle code
  EXPECT_EQ(value(param, 0, 4, 5), -10 - 24);
  EXPECT_EQ(value(param, 15, 4, 5), -10 + 21);
  EXPECT_EQ(value(param, 0, 2, 5), -10 - 6);
}

TEST(TwoLevel, ValuesAreClampedToASignedByte) {
  const Param param{.q = 16, .z = 7};
  EXPECT_EQ(value(param, 15, 4, 10), 127);
  EXPECT_EQ(value({.q = 16, .z = -8}, 0, 4, 10), -127);
}

}  // namespace
}  // namespace arrow_quant::codec::two_level
