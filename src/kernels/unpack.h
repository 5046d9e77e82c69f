// From packed codes back to numbers, at memory speed.
//
// Any alignment, any length, nothing written past the end. Pure functions, safe from many threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/encode.h"

namespace arrow_quant {

/// Unpack `count` unsigned codes of 2, 4 or 8 bits to one byte each.
void unpack_codes(int bits, const uint8_t* packed, size_t count, uint8_t* out) noexcept;

/// How dequantized weights are written.
struct DequantizeTarget {
  float factor = 1.0F;  ///< tensor_scale
  /// Go past the caches: for outputs too large to be read from them again.
  bool stream = false;
};

/// out = factor * clamp(step * code + base, -limit, limit), group by group.
void dequantize_groups(int bits, const uint8_t* packed, size_t count, const Levels& levels,
                       float limit, const DequantizeTarget& target, float* out) noexcept;

/// out = factor * (first * b1 + second * b2), the signs being bits 0 and 1 of 2-bit codes, 0
/// meaning -1; [groups] of `group` codes.
void dequantize_residual_binary(const uint8_t* packed, size_t count, const float* first,
                                const float* second, size_t group, const DequantizeTarget& target,
                                float* out) noexcept;

/// out = factor * (scale * code), code a signed byte.
void dequantize_int8(const uint8_t* codes, size_t count, float scale,
                     const DequantizeTarget& target, float* out) noexcept;

/// Make streamed output visible to other threads; call after the last streamed block.
void finish_stream() noexcept;

/// Expand two_level codes: v = clamp(q * (code - 2^(bits - 1)) + m * z, -127, 127), one parameter
/// byte per sub-group of `group` codes.
void expand_two_level(int bits, const uint8_t* packed, size_t count, const uint8_t* params,
                      int offset_unit, size_t group, int8_t* out) noexcept;

/// Expand residual_binary codes: v = q1 * b1 + q2 * b2, one parameter byte per sub-group of
/// `group`.
void expand_residual_binary(const uint8_t* packed, size_t count, const uint8_t* params,
                            size_t group, int8_t* out) noexcept;

}  // namespace arrow_quant
