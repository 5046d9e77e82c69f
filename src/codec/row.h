// param_encoding "row": int8 rows (docs/reference/format.md).
//
//   w = tensor_scale * row_scale * v,   v = the code as a signed byte
//
// There are no parameter bytes: row_scale is one fp16 per row, and tensor_scale belongs to the
// chunk. Quantizing never writes -128.
#pragma once

#include <cstdint>

namespace arrow_quant::codec::row {

inline constexpr int kBitWidth = 8;
inline constexpr int kMaxV = 127;

/// v of a code.
constexpr int value(uint8_t code) noexcept { return static_cast<int8_t>(code); }

constexpr uint8_t encode(int v) noexcept { return static_cast<uint8_t>(static_cast<int8_t>(v)); }

/// Widths that the encoding has.
constexpr bool fits_bit_width(int bit_width) noexcept { return bit_width == kBitWidth; }

/// What group_size must be a multiple of; it is recorded and has no effect.
inline constexpr int kGroupMultiple = 8;

}  // namespace arrow_quant::codec::row
