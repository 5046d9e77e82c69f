// Errors between original and restored weights.
#pragma once

#include <span>

#include "arrow_quant/quantized_tensor.h"

namespace arrow_quant {

/// Sums over two spans of equal length, in double and in a fixed order.
ErrorSums error_sums(std::span<const float> original, std::span<const float> restored) noexcept;

}  // namespace arrow_quant
