// Conversions between the weight formats and f32, and scans of f32 data, at memory speed.
//
// Every code converts to exactly the value that core/half.h gives; NaN payloads are not kept.
// Sources may lie at any address. Pure functions, safe from many threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "arrow_quant/dtype.h"

namespace arrow_quant {

/// Convert `count` elements of a quantizable `dtype` at `source` to f32. Return whether all results
/// are finite; an F64 value beyond the f32 range becomes infinity. Other types give false.
bool convert_to_f32(DType dtype, const void* source, size_t count, float* out) noexcept;

/// Convert to IEEE binary16, round to nearest even; too large becomes infinity.
void convert_f32_to_f16(const float* values, size_t count, uint16_t* out) noexcept;

/// Convert to bfloat16, round to nearest even.
void convert_f32_to_bf16(const float* values, size_t count, uint16_t* out) noexcept;

/// Index of the first NaN or infinity, or `count`.
size_t find_non_finite(const float* values, size_t count) noexcept;

/// Largest |value|; 0 for no values, unspecified if any value is NaN.
float absmax(const float* values, size_t count) noexcept;

}  // namespace arrow_quant
