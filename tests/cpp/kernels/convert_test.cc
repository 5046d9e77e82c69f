#include "kernels/convert.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <vector>

#include "core/half.h"
#include "kernels/isa_fixture.h"

namespace arrow_quant {
namespace {

ARROW_QUANT_TEST_EVERY_ISA(Convert);

void expect_same(float actual, float expected, uint32_t code) {
  if (std::isnan(expected)) {
    EXPECT_TRUE(std::isnan(actual)) << code;
  } else {
    EXPECT_EQ(std::bit_cast<uint32_t>(actual), std::bit_cast<uint32_t>(expected)) << code;
  }
}

/// Convert all codes of a format and compare each with the scalar conversion.
template <typename Code>
void check_all_codes(DType dtype, const std::function<float(Code)>& reference) {
  std::vector<Code> codes(size_t{1} << (8 * sizeof(Code)));
  std::iota(codes.begin(), codes.end(), Code{0});
  std::vector<float> out(codes.size());
  EXPECT_FALSE(convert_to_f32(dtype, codes.data(), codes.size(), out.data()));
  for (size_t i = 0; i < codes.size(); ++i) {
    expect_same(out[i], reference(codes[i]), static_cast<uint32_t>(i));
  }
}

TEST_P(Convert, DecodesEveryCodeOfEveryShortFormat) {
  check_all_codes<uint16_t>(DType::kF16, f16_to_f32);
  check_all_codes<uint16_t>(DType::kBF16, bf16_to_f32);
  check_all_codes<uint8_t>(DType::kF8E4M3, f8_e4m3_to_f32);
  check_all_codes<uint8_t>(DType::kF8E5M2, f8_e5m2_to_f32);
  check_all_codes<uint8_t>(DType::kF8E4M3FNUZ, f8_e4m3fnuz_to_f32);
  check_all_codes<uint8_t>(DType::kF8E5M2FNUZ, f8_e5m2fnuz_to_f32);
}

TEST_P(Convert, WorksAtEveryLengthAndAddressAndStaysInside) {
  for (size_t shift = 0; shift < 4; ++shift) {
    for (size_t count = 0; count < 70; ++count) {
      std::vector<uint8_t> bytes(count * 2 + shift);
      for (size_t i = 0; i < count; ++i) {
        const uint16_t code = f32_to_bf16(static_cast<float>(i) - 20.0F);
        std::memcpy(bytes.data() + shift + 2 * i, &code, 2);
      }
      std::vector<float> out(count + 1, 77.0F);
      EXPECT_TRUE(convert_to_f32(DType::kBF16, bytes.data() + shift, count, out.data()));
      for (size_t i = 0; i < count; ++i) EXPECT_EQ(out[i], static_cast<float>(i) - 20.0F);
      EXPECT_EQ(out[count], 77.0F);
    }
  }
}

TEST_P(Convert, ReportsASingleNonFiniteElement) {
  for (size_t at = 0; at < 67; ++at) {
    std::vector<float> values(67, 1.0F), out(67);
    EXPECT_TRUE(convert_to_f32(DType::kF32, values.data(), values.size(), out.data()));
    values[at] = at % 2 == 0 ? std::nanf("") : -HUGE_VALF;
    EXPECT_FALSE(convert_to_f32(DType::kF32, values.data(), values.size(), out.data()));
    EXPECT_EQ(find_non_finite(out.data(), out.size()), at);
  }
}

TEST_P(Convert, TurnsDoublesBeyondTheRangeIntoInfinity) {
  const std::vector<double> values = {1.0, -0.1, 3.4028235e38, 3.4028236e38, -1e300, 1e-320};
  std::vector<float> out(values.size());
  EXPECT_TRUE(convert_to_f32(DType::kF64, values.data(), 3, out.data()));
  EXPECT_FALSE(convert_to_f32(DType::kF64, values.data(), values.size(), out.data()));
  EXPECT_EQ(out[1], -0.1F);
  EXPECT_EQ(out[3], HUGE_VALF);
  EXPECT_EQ(out[4], -HUGE_VALF);
  EXPECT_EQ(out[5], 0.0F);
}

TEST_P(Convert, RefusesOtherTypes) {
  const uint8_t byte = 1;
  float out = 0;
  EXPECT_FALSE(convert_to_f32(DType::kU8, &byte, 1, &out));
}

TEST_P(Convert, EncodesBinary16AndBfloat16LikeTheScalarConversion) {
  std::vector<float> values;
  for (uint32_t code = 0; code < 0x10000; ++code) {
    const float value = f16_to_f32(static_cast<uint16_t>(code));
    if (std::isnan(value)) continue;
    for (float v : {value, value * 1.0001F, value * 1.000244140625F, value * 1.00048828125F}) {
      values.push_back(v);
    }
  }
  std::vector<uint16_t> halves(values.size()), brains(values.size());
  convert_f32_to_f16(values.data(), values.size(), halves.data());
  convert_f32_to_bf16(values.data(), values.size(), brains.data());
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(halves[i], f32_to_f16(values[i])) << values[i];
    ASSERT_EQ(brains[i], f32_to_bf16(values[i])) << values[i];
  }
}

TEST_P(Convert, FindsTheFirstNonFiniteValueInLongArrays) {
  std::vector<float> values(5000, -2.0F);
  EXPECT_EQ(find_non_finite(values.data(), values.size()), values.size());
  for (size_t at : {size_t{4999}, size_t{3071}, size_t{511}, size_t{0}}) {
    values[at] = HUGE_VALF;
    EXPECT_EQ(find_non_finite(values.data(), values.size()), at);
  }
}

TEST_P(Convert, FindsTheLargestMagnitude) {
  EXPECT_EQ(absmax(nullptr, 0), 0.0F);
  for (size_t count = 1; count < 70; ++count) {
    std::vector<float> values(count, 0.5F);
    values[count * 7 % count] = -3.0F;
    EXPECT_EQ(absmax(values.data(), count), 3.0F);
  }
}

}  // namespace
}  // namespace arrow_quant
