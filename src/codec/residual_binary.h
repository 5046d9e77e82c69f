// param_encoding "residual_binary": two signs a weight (docs/reference/format.md).
//
//   w = tensor_scale * row_scale * v,   v = q1 * b1 + q2 * b2
//
// b1 and b2 are bits 0 and 1 of a 2-bit code; a clear bit means -1. One parameter byte per
// sub-group of group_size / 4 weights: q1 - 1 in the low half, q2 in the high half. row_scale is
// one fp16 per row; tensor_scale belongs to the chunk.
#pragma once

#include <cstddef>
#include <cstdint>

namespace arrow_quant::codec::residual_binary {

inline constexpr size_t kSubGroups = 4;  ///< per group of group_size weights
inline constexpr int kFieldBits = 4;     ///< of q1 - 1 and of q2
inline constexpr int kFieldMask = (1 << kFieldBits) - 1;
inline constexpr int kMinQ1 = 1, kMaxQ1 = kMinQ1 + kFieldMask;
inline constexpr int kMinQ2 = 0, kMaxQ2 = kFieldMask;
inline constexpr int kBitWidth = 2;
inline constexpr int kFirstBit = 1, kSecondBit = 2;  ///< of a code: the signs of q1 and q2

/// What one parameter byte holds.
struct Param {
  int q1 = kMinQ1;  ///< kMinQ1 to kMaxQ1
  int q2 = kMinQ2;  ///< kMinQ2 to kMaxQ2

  bool operator==(const Param&) const = default;
};

constexpr uint8_t encode(const Param& param) noexcept {
  return static_cast<uint8_t>((param.q1 - kMinQ1) | param.q2 << kFieldBits);
}

constexpr Param decode(uint8_t byte) noexcept {
  return {(byte & kFieldMask) + kMinQ1, byte >> kFieldBits};
}

/// v of a code; at most 31 away from 0, so nothing is clamped.
constexpr int value(const Param& param, int code) noexcept {
  return ((code & kFirstBit) != 0 ? param.q1 : -param.q1) +
         ((code & kSecondBit) != 0 ? param.q2 : -param.q2);
}

/// What q1 and q2 mean in a row, times row_scale: `first` and `second`, one number per parameter
/// byte.
inline void levels(const uint8_t* params, size_t count, float row_scale, float* first,
                   float* second) noexcept {
  for (size_t g = 0; g < count; ++g) {
    const Param param = decode(params[g]);
    first[g] = row_scale * static_cast<float>(param.q1);
    second[g] = row_scale * static_cast<float>(param.q2);
  }
}

/// Widths that the encoding has.
constexpr bool fits_bit_width(int bit_width) noexcept { return bit_width == kBitWidth; }

/// What group_size must be a multiple of: the codes of a sub-group fill whole bytes.
inline constexpr int kGroupMultiple = 8 * static_cast<int>(kSubGroups);

}  // namespace arrow_quant::codec::residual_binary
