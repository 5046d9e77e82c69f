// Attention of a few queries to all keys of a head that is narrower than a vector. Pure functions,
// safe from many threads.
#pragma once

#include <cstddef>

namespace arrow_quant {

/// Keys come in whole blocks, what is missing is made up.
inline constexpr size_t kKeyBlock = 32;
/// Queries that are taken at a time.
inline constexpr size_t kQueryBlock = 4;
/// The dimensions of values come in whole blocks too.
inline constexpr size_t kWidthBlock = 4;

/// Keys and values of one head, dimensions outermost: [width][padded].
struct KeyColumns {
  const float* keys = nullptr;
  const float* values = nullptr;  ///< whole blocks of dimensions, zeros behind
  size_t count = 0;
  size_t padded = 0;  ///< whole blocks of keys, zeros behind
  size_t width = 0;
};

/// out[kQueryBlock][width in whole blocks] of kQueryBlock queries [width][kQueryBlock] that are
/// multiplied by the scale and by log2(e). `scores` has room for kQueryBlock * padded numbers.
/// A query whose largest score is not finite gives NaN.
void attend(const KeyColumns& head, const float* queries, float* scores, float* out) noexcept;

}  // namespace arrow_quant
