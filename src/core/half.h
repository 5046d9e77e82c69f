// Scalar conversions between f32 and the short floating-point formats, bit by bit.
//
// Exact for every code, independent of the rounding mode and of flush-to-zero settings, usable in
// constant expressions. The reference for the SIMD conversions in kernels/convert.h. Pure
// functions.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace arrow_quant {

/// Smallest fp16 with a full significand, 2^-14.
inline constexpr float kHalfMinNormal = 6.103515625e-05F;
/// Largest finite fp16.
inline constexpr float kHalfMax = 65504.0F;

namespace half_detail {

/// 2^exponent as f32, for exponents of normal numbers.
constexpr float exp2i(int exponent) noexcept {
  return std::bit_cast<float>(static_cast<uint32_t>(exponent + 127) << 23);
}

/// Value of a positive code with `mantissa_bits` and exponent bias `bias`, no infinity and no NaN.
constexpr float positive_value(uint32_t code, int mantissa_bits, int bias) noexcept {
  const uint32_t exponent = code >> mantissa_bits;
  const uint32_t mantissa = code & ((1U << mantissa_bits) - 1);
  if (exponent == 0) return static_cast<float>(mantissa) * exp2i(1 - bias - mantissa_bits);
  return std::bit_cast<float>(((exponent + 127U - static_cast<uint32_t>(bias)) << 23) |
                              (mantissa << (23 - mantissa_bits)));
}

constexpr float with_sign(float magnitude, bool negative) noexcept {
  return negative ? -magnitude : magnitude;
}

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace half_detail

/// IEEE binary16 to f32.
constexpr float f16_to_f32(uint16_t bits) noexcept {
  const uint32_t code = bits & 0x7FFFU;
  if (code > 0x7C00U) return half_detail::kNan;
  const float magnitude =
      code == 0x7C00U ? half_detail::kInfinity : half_detail::positive_value(code, 10, 15);
  return half_detail::with_sign(magnitude, (bits & 0x8000U) != 0);
}

/// f32 to IEEE binary16, round to nearest even; above 65519.99 becomes infinity.
constexpr uint16_t f32_to_f16(float value) noexcept {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000U;
  const uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) return static_cast<uint16_t>(sign | 0x7E00U);
  if (magnitude >= 0x477FF000U) return static_cast<uint16_t>(sign | 0x7C00U);
  if (magnitude >= 0x38800000U) {  // normal: drop 13 bits, ties to even, re-bias 127 to 15
    const uint32_t rounded = magnitude + 0xFFFU + ((magnitude >> 13) & 1U);
    return static_cast<uint16_t>(sign | ((rounded - 0x38000000U) >> 13));
  }
  if (magnitude < 0x33000000U) return static_cast<uint16_t>(sign);  // below half of 2^-24
  const uint32_t shift = 126U - (magnitude >> 23);                  // 14 to 24
  const uint32_t mantissa = (magnitude & 0x7FFFFFU) | 0x800000U;
  const uint32_t quotient = mantissa >> shift;
  const uint32_t rest = mantissa & ((1U << shift) - 1);
  const uint32_t half = 1U << (shift - 1);
  const uint32_t up = rest > half || (rest == half && (quotient & 1U) != 0) ? 1U : 0U;
  return static_cast<uint16_t>(sign | (quotient + up));
}

/// bfloat16 to f32.
constexpr float bf16_to_f32(uint16_t bits) noexcept {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

/// f32 to bfloat16, round to nearest even; NaN stays NaN.
constexpr uint16_t f32_to_bf16(float value) noexcept {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<uint16_t>((bits >> 16) | 0x40U);
  return static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

/// F8_E4M3 (the "FN" form: no infinity, NaN is S.1111.111) to f32.
constexpr float f8_e4m3_to_f32(uint8_t bits) noexcept {
  const uint32_t code = bits & 0x7FU;
  if (code == 0x7FU) return half_detail::kNan;
  return half_detail::with_sign(half_detail::positive_value(code, 3, 7), (bits & 0x80U) != 0);
}

/// F8_E5M2 (the upper byte of a binary16) to f32.
constexpr float f8_e5m2_to_f32(uint8_t bits) noexcept {
  return f16_to_f32(static_cast<uint16_t>(bits << 8));
}

/// F8_E4M3FNUZ (bias 8, no infinity, no negative zero: 0x80 is NaN) to f32.
constexpr float f8_e4m3fnuz_to_f32(uint8_t bits) noexcept {
  if (bits == 0x80U) return half_detail::kNan;
  return half_detail::with_sign(half_detail::positive_value(bits & 0x7FU, 3, 8),
                                (bits & 0x80U) != 0);
}

/// F8_E5M2FNUZ (bias 16, no infinity, no negative zero: 0x80 is NaN) to f32.
constexpr float f8_e5m2fnuz_to_f32(uint8_t bits) noexcept {
  if (bits == 0x80U) return half_detail::kNan;
  return half_detail::with_sign(half_detail::positive_value(bits & 0x7FU, 2, 16),
                                (bits & 0x80U) != 0);
}

}  // namespace arrow_quant
