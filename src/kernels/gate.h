// Gates on f32. Pure functions, safe from many threads.
#pragma once

#include <cstddef>

#include "arrow_quant/gate.h"

namespace arrow_quant {

/// y = gate(x) for `count` numbers; y as f32 or bfloat16. y may be x.
void gate_floats(Gate gate, const float* x, size_t count, const OutputNumbers& y) noexcept;

}  // namespace arrow_quant
