// Reading and writing the tokens of attention heads; the two ways of computing them.
#pragma once

#include <cstddef>

#include "arrow_quant/attention.h"

namespace arrow_quant {

/// `width` numbers as f32.
void load_token(const InputNumbers& token, size_t width, float* to) noexcept;

void store_token(const float* from, size_t width, const OutputNumbers& token) noexcept;

void store_nan(size_t width, const OutputNumbers& token) noexcept;

bool all_finite(const float* numbers, size_t count) noexcept;

/// For heads much narrower than a vector (kernels/narrow_attention.h).
void attend_narrow_heads(const AttentionCall& call);

/// For all others (kernels/wide_attention.h).
void attend_wide_heads(const AttentionCall& call);

}  // namespace arrow_quant
