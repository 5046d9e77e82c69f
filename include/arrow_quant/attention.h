// softmax(q k^T * scale) v, computed in single precision; of bfloat16 in wide heads with the
// products that some CPUs have for it.
//
// Denoisers of diffusers have heads of 8 numbers by default. There the exponentials cost as much as
// the products, and a matrix product is the wrong tool for either: keys are lanes then. Wider heads
// take one block of keys after the other, so that no matrix of all scores is ever made. Functions
// work on memory that the caller owns, with `threads` OpenMP threads; results do not depend on
// their number.
#pragma once

#include <cstddef>

#include "arrow_quant/api.h"
#include "arrow_quant/numbers.h"

namespace arrow_quant {

/// The widest heads that attention() takes.
inline constexpr size_t kWidestHead = 256;

/// An array [batch][heads][tokens][width] in memory that somebody else owns.
template <typename Numbers>
struct Heads {
  Numbers data;  ///< the first number of the first token
  /// Elements from one batch, head or token to the next; the numbers of a token are side by side.
  size_t batch_stride = 0, head_stride = 0, token_stride = 0;

  /// The `width` numbers of one token.
  Numbers at(size_t batch, size_t head, size_t token) const noexcept {
    return data.from(batch * batch_stride + head * head_stride + token * token_stride);
  }
};

/// What attention() reads and writes.
struct AttentionCall {
  Heads<InputNumbers> queries, keys, values;  ///< of query_count, key_count and key_count tokens
  Heads<OutputNumbers> out;                   ///< of query_count tokens
  /// Sizes of all four arrays; `width` is that of a head, at most kWidestHead.
  size_t batch = 0, heads = 0, query_count = 0, key_count = 0, width = 0;
  float scale = 1;  ///< of scores: 1 / sqrt(width) in most models
  int threads = 1;  ///< OpenMP threads, at least 1
};

/// Compute softmax(q k^T * scale) v for every head.
///
/// Relative to sum |p v|, errors are below 1e-6 plus 2.5e-7 for each unit of the largest score, as
/// with any softmax of single precision; for heads wider than 16 numbers, of the largest sum of the
/// magnitudes that a score is the sum of. Of bfloat16 they are those of its rounding. A query that
/// is not finite gives NaN, and so does a key that is not, for all queries of its head. Raises
/// kConfiguration for heads wider than kWidestHead and for no keys.
ARROW_QUANT_API void attention(const AttentionCall& call);

}  // namespace arrow_quant
