// Rows of activations as f32, whatever they are stored as.
#pragma once

#include <cstddef>

#include "arrow_quant/numbers.h"
#include "kernels/convert.h"
#include "run/reused_buffer.h"

namespace arrow_quant {

/// One thread's view of rows; a row is valid until the next one is asked for.
class FloatRows {
 public:
  FloatRows(const InputNumbers& numbers, size_t longest)
      : numbers_(numbers), converted_(numbers.f32 != nullptr ? 0 : longest) {}

  /// `count` numbers from `first` on.
  const float* row(size_t first, size_t count) {
    if (numbers_.f32 != nullptr) return numbers_.f32 + first;
    (void)convert_to_f32(DType::kBF16, numbers_.bf16 + first, count, converted_.data());
    return converted_.data();
  }

 private:
  InputNumbers numbers_;
  ReusedBuffer<float> converted_;
};

}  // namespace arrow_quant
