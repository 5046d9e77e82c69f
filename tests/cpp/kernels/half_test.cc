#include "core/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>

namespace arrow_quant {
namespace {

/// Value of a code by definition: sign, exponent with bias, fraction; no infinity, no NaN.
double by_definition(uint32_t code, int exponent_bits, int mantissa_bits, int bias) {
  const uint32_t mantissa = code & ((1U << mantissa_bits) - 1);
  const int exponent = static_cast<int>((code >> mantissa_bits) & ((1U << exponent_bits) - 1));
  const double sign = (code >> (exponent_bits + mantissa_bits)) != 0 ? -1.0 : 1.0;
  const double fraction = std::ldexp(mantissa, -mantissa_bits);
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias);
  return sign * std::ldexp(1.0 + fraction, exponent - bias);
}

TEST(Half, DecodesAllBinary16Codes) {
  for (uint32_t code = 0; code <= 0xFFFF; ++code) {
    const float value = f16_to_f32(static_cast<uint16_t>(code));
    const uint32_t magnitude = code & 0x7FFF;
    if (magnitude > 0x7C00) {
      EXPECT_TRUE(std::isnan(value)) << code;
    } else if (magnitude == 0x7C00) {
      EXPECT_EQ(value, code == 0x7C00 ? HUGE_VALF : -HUGE_VALF);
    } else {
      EXPECT_EQ(value, by_definition(code, 5, 10, 15)) << code;
      EXPECT_EQ(std::signbit(value), code > 0x7FFF) << code;
    }
  }
}

TEST(Half, DecodesAllEightBitCodes) {
  for (uint32_t code = 0; code <= 0xFF; ++code) {
    const auto bits = static_cast<uint8_t>(code);
    const uint32_t magnitude = code & 0x7F;
    if (magnitude == 0x7F) {
      EXPECT_TRUE(std::isnan(f8_e4m3_to_f32(bits)));
    } else {
      EXPECT_EQ(f8_e4m3_to_f32(bits), by_definition(code, 4, 3, 7)) << code;
    }
    if (magnitude > 0x7C) {
      EXPECT_TRUE(std::isnan(f8_e5m2_to_f32(bits)));
    } else if (magnitude == 0x7C) {
      EXPECT_TRUE(std::isinf(f8_e5m2_to_f32(bits)));
    } else {
      EXPECT_EQ(f8_e5m2_to_f32(bits), by_definition(code, 5, 2, 15)) << code;
    }
    if (code == 0x80) {
      EXPECT_TRUE(std::isnan(f8_e4m3fnuz_to_f32(bits)));
      EXPECT_TRUE(std::isnan(f8_e5m2fnuz_to_f32(bits)));
    } else {
      EXPECT_EQ(f8_e4m3fnuz_to_f32(bits), by_definition(code, 4, 3, 8)) << code;
      EXPECT_EQ(f8_e5m2fnuz_to_f32(bits), by_definition(code, 5, 2, 16)) << code;
    }
  }
}

TEST(Half, EncodesEveryBinary16ValueAsItself) {
  for (uint32_t code = 0; code <= 0xFFFF; ++code) {
    if ((code & 0x7FFF) > 0x7C00) continue;
    EXPECT_EQ(f32_to_f16(f16_to_f32(static_cast<uint16_t>(code))), code);
  }
}

TEST(Half, RoundsBetweenBinary16NeighboursToNearestEven) {
  for (uint32_t code = 0; code < 0x7BFF; ++code) {
    const float low = f16_to_f32(static_cast<uint16_t>(code));
    const float high = f16_to_f32(static_cast<uint16_t>(code + 1));
    const float middle = 0.5F * (low + high);  // exact
    EXPECT_EQ(f32_to_f16(middle), code + (code & 1)) << code;
    EXPECT_EQ(f32_to_f16(std::nextafter(middle, 0.0F)), code) << code;
    EXPECT_EQ(f32_to_f16(std::nextafter(middle, 1e9F)), code + 1) << code;
    EXPECT_EQ(f32_to_f16(-middle), 0x8000 + code + (code & 1)) << code;
  }
}

TEST(Half, OverflowsBinary16ToInfinity) {
  EXPECT_EQ(f32_to_f16(65519.996F), 0x7BFF);
  EXPECT_EQ(f32_to_f16(65520.0F), 0x7C00);
  EXPECT_EQ(f32_to_f16(-3e38F), 0xFC00);
  EXPECT_EQ(f32_to_f16(HUGE_VALF), 0x7C00);
  EXPECT_EQ(f32_to_f16(std::nanf("")) & 0x7E00, 0x7E00);
}

TEST(Half, RoundsBfloat16ToNearestEven) {
  EXPECT_EQ(f32_to_bf16(1.0F), 0x3F80);
  EXPECT_EQ(f32_to_bf16(bf16_to_f32(0x3F81)), 0x3F81);
  EXPECT_EQ(f32_to_bf16(1.00390625F), 0x3F80) << "halfway to an even neighbour below";
  EXPECT_EQ(f32_to_bf16(1.01171875F), 0x3F82) << "halfway to an even neighbour above";
  EXPECT_EQ(f32_to_bf16(3.4e38F), 0x7F80) << "beyond the largest bfloat16";
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::nanf("")))));
}

static_assert(f16_to_f32(0x3C00) == 1.0F);
static_assert(f32_to_f16(kHalfMax) == 0x7BFF);
static_assert(f32_to_f16(kHalfMinNormal) == 0x0400);

}  // namespace
}  // namespace arrow_quant
