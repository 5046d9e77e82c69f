// The gate of feed-forward blocks: x (1 + tanh(u)) / 2, u = sqrt(2 / pi) (x + 0.044715 x^3)
// (arXiv 1606.08415).
#pragma once

#include <cstddef>

#include "arrow_quant/api.h"
#include "arrow_quant/numbers.h"

namespace arrow_quant {

/// What gelu_tanh() reads and writes.
struct GeluCall {
  InputNumbers x;    ///< `count` numbers
  OutputNumbers y;   ///< may be x
  size_t count = 0;  ///< numbers of x and of y
  int threads = 1;   ///< OpenMP threads, at least 1
};

/// Compute y = GELU(x) in its form with tanh.
///
/// Relative errors are below 1e-6, and 1.5e-7 more for each power of e that the result is below x,
/// as with any exponential of single precision; what is below 2e-38 of x may be 0. NaN gives NaN.
/// Works on memory that the caller owns; safe from many threads.
ARROW_QUANT_API void gelu_tanh(const GeluCall& call);

}  // namespace arrow_quant
