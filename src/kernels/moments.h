// Range and moments of every channel of a block of activations, at memory speed.
//
// Pure functions, safe from many threads on different outputs. NaN gives unspecified results, never
// a crash.
#pragma once

#include <cstddef>

namespace arrow_quant {

/// Where the results go: one value per channel each, updated with what comes in.
struct MomentsOut {
  float* low = nullptr;
  float* high = nullptr;
  double* sum = nullptr;
  double* squares = nullptr;
};

/// Update `out` with x[tokens][channels], rows `stride` apart. Runs of at most 256 tokens are added
/// up in f32, everything else in f64.
void add_moments(const float* x, size_t tokens, size_t channels, size_t stride,
                 const MomentsOut& out) noexcept;

}  // namespace arrow_quant
