// Arrays that layers read and write, in f32 or in bfloat16: whichever of the two is not null.
#pragma once

#include <cstddef>
#include <cstdint>

namespace arrow_quant {

/// Numbers to read.
struct InputNumbers {
  const float* f32 = nullptr;      ///< or null
  const uint16_t* bf16 = nullptr;  ///< bits of bfloat16, or null

  InputNumbers() = default;
  /// Stands for an array of either type.
  InputNumbers(const float* values) noexcept : f32(values) {}  // NOLINT: stands for it
  /// See above.
  InputNumbers(const uint16_t* values) noexcept : bf16(values) {}  // NOLINT: stands for it

  /// The array from element `index` on.
  InputNumbers from(size_t index) const noexcept {
    return f32 != nullptr ? InputNumbers(f32 + index) : InputNumbers(bf16 + index);
  }
};

/// Numbers to write.
struct OutputNumbers {
  float* f32 = nullptr;      ///< or null
  uint16_t* bf16 = nullptr;  ///< bits of bfloat16, rounded to nearest even, or null

  OutputNumbers() = default;
  /// Stands for an array of either type.
  OutputNumbers(float* values) noexcept : f32(values) {}  // NOLINT: stands for it
  /// See above.
  OutputNumbers(uint16_t* values) noexcept : bf16(values) {}  // NOLINT: stands for it

  /// The array from element `index` on.
  OutputNumbers from(size_t index) const noexcept {
    return f32 != nullptr ? OutputNumbers(f32 + index) : OutputNumbers(bf16 + index);
  }
};

}  // namespace arrow_quant
