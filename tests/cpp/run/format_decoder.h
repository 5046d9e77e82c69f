// An independent decoder of packed rows, written from docs/reference/format.md alone: slow, scalar,
// in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "arrow_quant/quantized_tensor.h"
#include "kernels/dequantize_rows.h"

namespace arrow_quant {

inline double decode_half(const uint8_t* bytes) {
  const int bits = bytes[0] | bytes[1] << 8;
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return (bits >> 15) != 0 ? -magnitude : magnitude;
}

/// Code of element `col` of row `row`; element 0 in the lowest bits.
inline int decode_code(const AffineSpec& spec, const PackedRows& packed, size_t row, size_t col) {
  const size_t bits = static_cast<size_t>(spec.bit_width);
  const size_t row_bytes = (packed.cols * bits + 7) / 8;
  const uint8_t byte = packed.codes[row * row_bytes + col * bits / 8];
  return byte >> (col * bits % 8) & ((1 << bits) - 1);
}

/// The int8 value v of two_level, residual_binary and row encodings.
inline int decode_v(const AffineSpec& spec, const PackedRows& packed, size_t row, size_t col) {
  const int code = decode_code(spec, packed, row, col);
  if (spec.param_encoding == ParamEncoding::kRow) return code < 128 ? code : code - 256;
  const size_t group = static_cast<size_t>(spec.group_size) / 4;
  const size_t per_row = (packed.cols + group - 1) / group;
  const int param = packed.params[row * per_row + col / group];
  if (spec.param_encoding == ParamEncoding::kResidualBinary) {
    const int b1 = code % 2 == 0 ? -1 : 1, b2 = code / 2 == 0 ? -1 : 1;
    return (param % 16 + 1) * b1 + param / 16 * b2;
  }
  const int q = param % 16 + 1, z = param / 16 - 8;
  const int v = q * (code - (1 << (spec.bit_width - 1))) + packed.offset_unit * z;
  return std::clamp(v, -127, 127);
}

inline double decode_weight(const AffineSpec& spec, const PackedRows& packed, size_t row,
                            size_t col) {
  if (spec.param_encoding != ParamEncoding::kFp16) {
    const uint16_t scale = packed.row_scales[row];
    const uint8_t bytes[2] = {static_cast<uint8_t>(scale & 255), static_cast<uint8_t>(scale >> 8)};
    return static_cast<double>(packed.tensor_scale) * decode_half(bytes) *
           decode_v(spec, packed, row, col);
  }
  const size_t group = static_cast<size_t>(spec.group_size);
  const size_t per_row = (packed.cols + group - 1) / group;
  const uint8_t* pair = packed.params + (row * per_row + col / group) * 4;
  return static_cast<double>(packed.tensor_scale) *
         (decode_half(pair) * decode_code(spec, packed, row, col) + decode_half(pair + 2));
}

}  // namespace arrow_quant
