// param_encoding "two_level": double-quantized scales (docs/reference/format.md).
//
//   w = tensor_scale * row_scale * v,   v = clamp(q * (code - 2^(bit_width - 1)) + m * z, -127,
//   127)
//
// One parameter byte per sub-group of group_size / 4 weights: q - 1 in the low half, z + 8 in the
// high half. row_scale is one fp16 per row; m (offset_unit) and tensor_scale belong to the chunk.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace arrow_quant::codec::two_level {

inline constexpr size_t kSubGroups = 4;  ///< per group of group_size weights
inline constexpr int kFieldBits = 4;     ///< of q - 1 and of z + 8
inline constexpr int kFieldMask = (1 << kFieldBits) - 1;
inline constexpr int kMinQ = 1, kMaxQ = kMinQ + kFieldMask;
inline constexpr int kMinZ = -8, kMaxZ = kMinZ + kFieldMask;
inline constexpr int kMaxV = 127;

/// What one parameter byte holds.
struct Param {
  int q = kMinQ;  ///< kMinQ to kMaxQ
  int z = 0;      ///< kMinZ to kMaxZ

  bool operator==(const Param&) const = default;
};

constexpr uint8_t encode(const Param& param) noexcept {
  return static_cast<uint8_t>((param.q - kMinQ) | (param.z - kMinZ) << kFieldBits);
}

constexpr Param decode(uint8_t byte) noexcept {
  return {(byte & kFieldMask) + kMinQ, (byte >> kFieldBits) + kMinZ};
}

/// The middle code, whose value is m * z.
constexpr int middle_code(int bit_width) noexcept { return 1 << (bit_width - 1); }

/// The value of code 0 before it is clamped: m * z - 2^(bit_width - 1) * q.
constexpr int base(const Param& param, int bit_width, int offset_unit) noexcept {
  return offset_unit * param.z - middle_code(bit_width) * param.q;
}

/// v of a code.
constexpr int value(const Param& param, int code, int bit_width, int offset_unit) noexcept {
  return std::clamp(param.q * code + base(param, bit_width, offset_unit), -kMaxV, kMaxV);
}

/// Widths that the encoding has.
constexpr bool fits_bit_width(int bit_width) noexcept { return bit_width == 2 || bit_width == 4; }

/// What group_size must be a multiple of: the codes of a sub-group fill whole bytes.
inline constexpr int kGroupMultiple = 8 * static_cast<int>(kSubGroups);

}  // namespace arrow_quant::codec::two_level
