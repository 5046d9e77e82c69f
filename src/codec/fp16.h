// param_encoding "fp16": w = tensor_scale * (scale * code + offset) (docs/reference/format.md).
//
// Four parameter bytes per group of group_size weights: scale, then offset, each an fp16 with its
// low byte first. tensor_scale belongs to the chunk; there are no row scales.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/half.h"

namespace arrow_quant::codec::fp16 {

/// The bits of the two numbers of a group.
struct Param {
  uint16_t scale = 0;
  uint16_t offset = 0;

  bool operator==(const Param&) const = default;
};

inline constexpr size_t kParamBytes = 4;
static_assert(sizeof(Param) == kParamBytes);

/// Scale and offset of group `group` of a row.
inline Param read(const uint8_t* params, size_t group) noexcept {
  Param param;
  std::memcpy(&param, params + kParamBytes * group, kParamBytes);
  return param;
}

inline void write(const Param& param, uint8_t* params, size_t group) noexcept {
  std::memcpy(params + kParamBytes * group, &param, kParamBytes);
}

/// scale * code + offset in f32.
inline float value(const Param& param, int code) noexcept {
  return f16_to_f32(param.scale) * static_cast<float>(code) + f16_to_f32(param.offset);
}

/// Widths that the encoding has.
constexpr bool fits_bit_width(int bit_width) noexcept {
  return bit_width == 2 || bit_width == 4 || bit_width == 8;
}

/// What group_size must be a multiple of: groups begin at whole bytes of every width.
inline constexpr int kGroupMultiple = 8;

}  // namespace arrow_quant::codec::fp16
