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

/// Quantize `count` weights, times `factor`, to unsigned codes of 2, 4 or 8 bits and pack them,
/// element 0 in the lowest bits, the last byte padded with zeros. |v| is limited to `limit`
/// (infinity for none). Add to `sums` the sums over w * factor and v.
///
/// The sums are exact to about 1e-7: f32 products, at most 16 of them added in f32, then double.
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
