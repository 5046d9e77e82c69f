#include "codec/fp16.h"

#include <gtest/gtest.h>

namespace arrow_quant::codec::fp16 {
namespace {

TEST(Fp16, AGroupIsScaleThenOffsetWithTheLowByteFirst) {
  uint8_t params[8] = {};
  write({.scale = 0x3C00, .offset = 0xC001}, params, 1);
  const uint8_t expected[] = {0, 0, 0, 0, 0x00, 0x3C, 0x01, 0xC0};
  for (size_t i = 0; i < sizeof(params); ++i) EXPECT_EQ(params[i], expected[i]);
  EXPECT_EQ(read(params, 1), (Param{.scale = 0x3C00, .offset = 0xC001}));
  EXPECT_EQ(read(params, 0), Param{});
}

TEST(Fp16, AValueIsScaleTimesCodePlusOffset) {
  const Param param{.scale = 0x3800, .offset = 0xC000};  // 0.5 and -2
  EXPECT_EQ(value(param, 0), -2.0F);
  EXPECT_EQ(value(param, 255), 125.5F);
}

}  // namespace
}  // namespace arrow_quant::codec::fp16
