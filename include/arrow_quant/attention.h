// softmax(q k^T * scale) v in single precision, for heads that are narrow.
//
// Denoisers of diffusers have heads of 8 numbers by default. There the exponentials cost as much as
// the products, and a matrix product is the wrong tool for either: here keys are lanes. Functions
// work on memory that the caller owns, with `threads` OpenMP threads; results do not depend on
// their number.
#pragma once

#include <cstddef>

#include "arrow_quant/api.h"

namespace arrow_quant {

/// The widest heads that attention() takes.
inline constexpr size_t kWidestHead = 16;

/// [batch][heads][tokens][width], numbers of a token side by side; strides in elements.
template <typename T>
struct Heads {
  T* data = nullptr;
  size_t batch_stride = 0, head_stride = 0, token_stride = 0;

  T* at(size_t batch, size_t head, size_t token) const noexcept {
    return data + batch * batch_stride + head * head_stride + token * token_stride;
  }
};

struct AttentionCall {
  Heads<const float> queries, keys, values;
  Heads<float> out;  ///< like the queries
  size_t batch = 0, heads = 0, query_count = 0, key_count = 0, width = 0;
  float scale = 1;
  int threads = 1;
};

/// Relative to sum |p v|, errors are below 1e-6 plus 2.5e-7 for each unit of the largest score, as
/// with any softmax of single precision. A query that is not finite gives NaN, and so does a key
/// that is not, for all queries of its head. Raises kConfiguration for heads wider than
/// kWidestHead and for no keys.
ARROW_QUANT_API void attention(const AttentionCall& call);

}  // namespace arrow_quant
