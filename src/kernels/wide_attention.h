// Attention of a few queries to one block of keys after the other, for heads of which a vector
// holds a part. Pure functions, safe from many threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace arrow_quant {

/// Keys and values that are taken at a time.
inline constexpr size_t kWideKeys = 128;
/// Queries that are taken at a time.
inline constexpr size_t kWideQueries = 12;
/// Numbers of a value come in whole blocks.
inline constexpr size_t kWideBlock = 16;

/// A block of keys of one head and their values, in f32; or, with Number = uint32_t, in pairs of
/// bfloat16, the first in the lower half: of adjacent numbers of a key, and of adjacent values.
template <typename Number>
struct KeyBlock {
  const Number* keys = nullptr;  ///< [width][kWideKeys]; pairs: [width / 2, upwards][kWideKeys]
  const Number* values =
      nullptr;       ///< [count][value_width]; pairs: [count / 2, upwards][value_width]
  size_t count = 0;  ///< keys that there are, at least one
  size_t width = 0;
  size_t value_width = 0;  ///< the width in whole blocks
};

/// What kWideQueries queries have gathered so far.
struct Gathered {
  float max_score[kWideQueries]{};  ///< largest score of each; -infinity before the first block
  float sums[kWideQueries]{};       ///< of 2^(score - max_score)
  float* out = nullptr;  ///< [kWideQueries][value_width], sums of 2^(score - max_score) * value
};

/// Adds a block of keys. Queries are [width][kWideQueries], or pairs like those of keys, multiplied
/// by the scale and by log2(e). A query whose largest score is not finite gathers numbers of no
/// meaning. Never throws.
template <typename Number>
using AttendBlock = void (*)(const KeyBlock<Number>& block, const Number* queries,
                             Gathered& gathered);

AttendBlock<float> attend_singles() noexcept;
/// Null unless has_bf16_products().
AttendBlock<uint32_t> attend_pairs() noexcept;

}  // namespace arrow_quant
