// From packed rows back to numbers: codes, int8 values, f32 weights. Pure functions on memory, no
// allocation, safe from many threads on disjoint output rows.
#pragma once

#include <cstddef>
#include <cstdint>

#include "arrow_quant/quantized_tensor.h"

namespace arrow_quant {

/// Packed rows to read; sizes as in QuantizedChunk.
struct PackedRows {
  const uint8_t* codes = nullptr;
  const uint8_t* params = nullptr;
  const uint16_t* row_scales = nullptr;
  float tensor_scale = 1.0F;
  int8_t offset_unit = 0;
  size_t rows = 0;
  size_t cols = 0;
  /// Factors by which columns were multiplied, `columns_per_factor` columns each; null: none.
  const float* equalization = nullptr;
  size_t columns_per_factor = 1;
};

/// Reconstruct w as f32 into out[rows][cols], contiguous, with the equalization taken out again.
void dequantize_rows(const AffineSpec& spec, const PackedRows& packed, float* out) noexcept;

/// Unpack the integer codes into out[rows][cols]: unsigned for 2 and 4 bits and for fp16
/// parameters, the signed byte (two's complement) for `row`.
void unpack_rows(const AffineSpec& spec, const PackedRows& packed, uint8_t* out) noexcept;

/// Expand two_level, residual_binary or row codes into the int8 matrix v of w = tensor_scale *
/// row_scale * v.
void expand_int8_rows(const AffineSpec& spec, const PackedRows& packed, int8_t* out) noexcept;

}  // namespace arrow_quant
