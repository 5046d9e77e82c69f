// From weights and the levels of every group to packed codes and error sums.
//
// Nearest level, ties in the code domain to even. Bandwidth-bound: one pass over the weights. Pure
// functions, safe from many threads. NaN weights give unspecified codes, never a crash.
#pragma once

#include <cstddef>
#include <cstdint>

#include "arrow_quant/quantized_tensor.h"

namespace arrow_quant {

/// The levels of consecutive groups of `group` weights: v = step * code + base.
struct Levels {
  const float* step = nullptr;  ///< one per group, above 0
  const float* base = nullptr;
  size_t group = 0;  ///< a multiple of 8, or at least the number of weights
};

/// Quantize `count` weights, times `factor` (a power of two), to unsigned codes of 2, 4 or 8 bits
/// and pack them, element 0 in the lowest bits, the last byte padded with zeros. |v| is limited to
/// `limit` (infinity for none). Add to `sums` the sums over w * factor and v.
///
/// The sums are exact to about 1e-6 of themselves: runs of at most 128 f32 terms are added in f32,
/// everything else in f64. Those of v follow from the sums over w and w - v, so that a cosine near
/// 1 stays accurate.
void encode_groups(int bits, const float* weights, size_t count, float factor, const Levels& levels,
                   float limit, uint8_t* codes, ErrorSums& sums) noexcept;

/// Quantize to signed bytes in [-127, 127]: v = scale * code. Otherwise as encode_groups.
void encode_int8(const float* weights, size_t count, float factor, float scale, uint8_t* codes,
                 ErrorSums& sums) noexcept;

/// For four scales at once, sum h (x - x')^2 of x = w * factor and its nearest x' = scale * code,
/// code in [-127, 127]. `importance` may be null. Exactness as above.
void int8_errors(const float* weights, const float* importance, size_t count, float factor,
                 const float scales[4], double errors[4]) noexcept;

}  // namespace arrow_quant
