// GELU by tanh of f32 (arrow_quant/gelu.h). Pure functions, safe from many threads.
#pragma once

#include <cstddef>

#include "arrow_quant/numbers.h"

namespace arrow_quant {

/// Of `count` numbers; y as f32 or bfloat16, may be x.
void gelu_tanh_floats(const float* x, size_t count, const OutputNumbers& y) noexcept;

}  // namespace arrow_quant
