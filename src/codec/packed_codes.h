// Integer codes in bytes, the same for every parameter encoding: code i of a row occupies
// `bit_width` bits from bit i * bit_width on, so that the first code of a byte is in its lowest
// bits. A row begins at a whole byte and is padded with zeros.
#pragma once

#include <cstddef>
#include <cstdint>

#include "arrow_quant/quantized_tensor.h"

namespace arrow_quant::codec {

/// Codes in one byte: 4, 2 or 1 for 2, 4 or 8 bits.
constexpr size_t codes_per_byte(int bit_width) noexcept {
  return 8 / static_cast<size_t>(bit_width);
}

/// The bits of one code, in the lowest bits of a byte.
constexpr uint8_t code_mask(int bit_width) noexcept {
  return static_cast<uint8_t>((1U << bit_width) - 1);
}

/// How far code `i` of a row lies from the lowest bit of its byte.
constexpr int code_shift(int bit_width, size_t i) noexcept {
  return static_cast<int>(i % codes_per_byte(bit_width)) * bit_width;
}

/// Code `i` of a packed row, unsigned.
constexpr uint8_t read_code(const uint8_t* row, int bit_width, size_t i) noexcept {
  return static_cast<uint8_t>(row[i / codes_per_byte(bit_width)] >> code_shift(bit_width, i) &
                              code_mask(bit_width));
}

/// Store `code` as code `i` of a packed row. The bits must be 0 before.
constexpr void write_code(uint8_t* row, int bit_width, size_t i, uint8_t code) noexcept {
  const int shifted = (code & code_mask(bit_width)) << code_shift(bit_width, i);
  row[i / codes_per_byte(bit_width)] |= static_cast<uint8_t>(shifted);
}

}  // namespace arrow_quant::codec
