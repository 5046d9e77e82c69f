// Arrays that layers read and write, in f32 or in bfloat16: whichever of the two is not null.
#pragma once

#include <cstddef>
#include <cstdint>

namespace arrow_quant {

struct InputNumbers {
  const float* f32 = nullptr;
  const uint16_t* bf16 = nullptr;  ///< bits of bfloat16

  InputNumbers() = default;
  InputNumbers(const float* values) noexcept : f32(values) {}      // NOLINT: stands for it
  InputNumbers(const uint16_t* values) noexcept : bf16(values) {}  // NOLINT: stands for it

  InputNumbers from(size_t index) const noexcept {
    return f32 != nullptr ? InputNumbers(f32 + index) : InputNumbers(bf16 + index);
  }
};

struct OutputNumbers {
  float* f32 = nullptr;
  uint16_t* bf16 = nullptr;  ///< bits of bfloat16, rounded to nearest even

  OutputNumbers() = default;
  OutputNumbers(float* values) noexcept : f32(values) {}      // NOLINT: stands for it
  OutputNumbers(uint16_t* values) noexcept : bf16(values) {}  // NOLINT: stands for it

  OutputNumbers from(size_t index) const noexcept {
    return f32 != nullptr ? OutputNumbers(f32 + index) : OutputNumbers(bf16 + index);
  }
};

}  // namespace arrow_quant
