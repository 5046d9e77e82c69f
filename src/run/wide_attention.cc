#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <type_traits>
#include <vector>

#include "core/parallel.h"
#include "kernels/convert.h"
#include "kernels/wide_attention.h"
#include "run/attention_heads.h"
#include "run/reused_buffer.h"

namespace arrow_quant {
namespace {

// Queries that share a block of keys while it is in the second-level cache.
constexpr size_t kGroupsPerTask = 8;
constexpr size_t kQueriesPerTask = kGroupsPerTask * kWideQueries;

size_t whole(size_t count, size_t block) noexcept { return (count + block - 1) / block * block; }

bool finite_token(const InputNumbers& token, size_t width) noexcept {
  if (token.f32 != nullptr) return all_finite(token.f32, width);
  int bad = 0;  // no early exit: so vectors of them are looked at
  for (size_t c = 0; c < width; ++c) bad |= (token.bf16[c] & 0x7F80) == 0x7F80 ? 1 : 0;
  return bad == 0;
}

/// A token as column `t` of rows of `row` numbers.
void put_column(const InputNumbers& token, size_t width, size_t row, size_t t, float* to) noexcept {
  float numbers[kWidestHead];
  load_token(token, width, numbers);
  for (size_t c = 0; c < width; ++c) to[c * row + t] = numbers[c];
}

/// The same of bfloat16, in pairs of its numbers.
void put_column(const InputNumbers& token, size_t width, size_t row, size_t t,
                uint32_t* to) noexcept {
  for (size_t c = 0; c < width; c += 2) {
    const uint32_t second = c + 1 < width ? token.bf16[c + 1] : 0;
    to[c / 2 * row + t] = token.bf16[c] | second << 16;
  }
}

/// Tokens of a head as rows of `row` numbers, zeros behind each.
void put_rows(const Heads<InputNumbers>& from, size_t batch, size_t head, size_t first,
              size_t count, size_t width, size_t row, float* to) noexcept {
  for (size_t t = 0; t < count; ++t, to += row) {
    load_token(from.at(batch, head, first + t), width, to);
    std::fill(to + width, to + row, 0.0F);
  }
}

/// The same of bfloat16, in pairs of tokens.
void put_rows(const Heads<InputNumbers>& from, size_t batch, size_t head, size_t first,
              size_t count, size_t width, size_t row, uint32_t* to) noexcept {
  constexpr uint16_t kZeros[kWidestHead] = {};
  for (size_t t = 0; t < count; t += 2, to += row) {
    const uint16_t* one = from.at(batch, head, first + t).bf16;
    const uint16_t* other = t + 1 < count ? from.at(batch, head, first + t + 1).bf16 : kZeros;
    for (size_t c = 0; c < width; ++c) to[c] = one[c] | static_cast<uint32_t>(other[c]) << 16;
    std::fill(to + width, to + row, 0U);
  }
}

/// Keys and values of every head in blocks, as AttendBlock takes them.
template <typename Number>
class KeyBlocks {
 public:
  explicit KeyBlocks(const AttentionCall& call)
      : call_(call),
        value_width_(whole(call.width, kWideBlock)),
        key_size_((call.width + kTogether - 1) / kTogether * kWideKeys),
        block_size_(key_size_ + value_width_ * kWideKeys / kTogether),
        per_head_((call.key_count + kWideKeys - 1) / kWideKeys),
        numbers_(call.batch * call.heads * per_head_ * block_size_),
        finite_(call.batch * call.heads * per_head_) {
    parallel_blocks(call.threads, finite_.size(), [&](size_t i) { fill(i); });
  }

  size_t per_head() const noexcept { return per_head_; }
  size_t value_width() const noexcept { return value_width_; }

  /// Whether all keys of a head are.
  bool finite(size_t head) const noexcept {
    const auto first = finite_.begin() + static_cast<ptrdiff_t>(head * per_head_);
    return std::all_of(first, first + static_cast<ptrdiff_t>(per_head_), [](char f) { return f; });
  }

  KeyBlock<Number> of(size_t head, size_t number) const noexcept {
    const Number* keys = numbers_.data() + (head * per_head_ + number) * block_size_;
    const size_t count = std::min(kWideKeys, call_.key_count - number * kWideKeys);
    return {keys, keys + key_size_, count, call_.width, value_width_};
  }

 private:
  static constexpr size_t kTogether = std::is_same_v<Number, float> ? 1 : 2;  // in a Number

  void fill(size_t i) noexcept {
    const size_t number = i / per_head_, first = i % per_head_ * kWideKeys;
    const size_t batch = number / call_.heads, head = number % call_.heads;
    const size_t count = std::min(kWideKeys, call_.key_count - first);
    Number* keys = numbers_.data() + i * block_size_;
    if (count < kWideKeys) std::fill_n(keys, key_size_, Number{0});
    bool finite = true;
    for (size_t k = 0; k < count; ++k) {
      const InputNumbers key = call_.keys.at(batch, head, first + k);
      finite = finite_token(key, call_.width) && finite;
      put_column(key, call_.width, kWideKeys, k, keys);
    }
    put_rows(call_.values, batch, head, first, count, call_.width, value_width_, keys + key_size_);
    finite_[i] = finite ? 1 : 0;
  }

  const AttentionCall& call_;
  size_t value_width_, key_size_, block_size_, per_head_;
  ReusedBuffer<Number> numbers_;
  std::vector<char> finite_;
};

/// kWideQueries queries and what they have gathered.
template <typename Number>
struct QueryGroup {
  std::vector<Number> queries;  ///< [width][kWideQueries], or pairs
  Gathered gathered;
  bool finite[kWideQueries]{};
  size_t count = 0;
};

/// f32 numbers in the precision of the products; `halves` is room for them.
template <typename Number>
InputNumbers stored_as(const float* numbers, size_t width, uint16_t* halves) noexcept {
  if constexpr (std::is_same_v<Number, float>) return numbers;
  convert_f32_to_bf16(numbers, width, halves);
  return static_cast<const uint16_t*>(halves);
}

template <typename Number>
void load_group(const AttentionCall& call, size_t batch, size_t head, size_t first,
                QueryGroup<Number>& group) {
  const float factor = call.scale * std::numbers::log2e_v<float>;
  group.queries.assign((call.width + 1) * kWideQueries, Number{0});
  float token[kWidestHead];
  uint16_t halves[kWidestHead];
  for (size_t q = 0; q < group.count; ++q) {
    load_token(call.queries.at(batch, head, first + q), call.width, token);
    group.finite[q] = all_finite(token, call.width);
    for (size_t c = 0; c < call.width; ++c) token[c] *= factor;
    put_column(stored_as<Number>(token, call.width, halves), call.width, kWideQueries, q,
               group.queries.data());
  }
}

template <typename Number>
void store_group(const AttentionCall& call, size_t batch, size_t head, size_t first,
                 size_t value_width, const QueryGroup<Number>& group) {
  for (size_t q = 0; q < group.count; ++q) {
    const OutputNumbers to = call.out.at(batch, head, first + q);
    if (!group.finite[q] || !std::isfinite(group.gathered.max_score[q])) {
      store_nan(call.width, to);
      continue;
    }
    float* out = group.gathered.out + q * value_width;
    const float inverse = 1.0F / group.gathered.sums[q];
    for (size_t c = 0; c < call.width; ++c) out[c] *= inverse;
    store_token(out, call.width, to);
  }
}

/// Queries [first, end) of a head.
template <typename Number>
void run_task(const AttentionCall& call, const KeyBlocks<Number>& blocks,
              AttendBlock<Number> attend_block, size_t number, size_t first, size_t end) {
  const size_t batch = number / call.heads, head = number % call.heads;
  if (!blocks.finite(number)) {
    for (size_t q = first; q < end; ++q) store_nan(call.width, call.out.at(batch, head, q));
    return;
  }
  const size_t out_size = blocks.value_width() * kWideQueries;
  const size_t groups = (end - first + kWideQueries - 1) / kWideQueries;
  ReusedBuffer<float> out(groups * out_size);
  std::fill_n(out.data(), groups * out_size, 0.0F);
  thread_local QueryGroup<Number> group[kGroupsPerTask];
  for (size_t g = 0; g < groups; ++g) {
    group[g].gathered = {.out = out.data() + g * out_size};
    std::ranges::fill(group[g].gathered.max_score, -std::numeric_limits<float>::infinity());
    group[g].count = std::min(kWideQueries, end - first - g * kWideQueries);
    load_group(call, batch, head, first + g * kWideQueries, group[g]);
  }
  for (size_t b = 0; b < blocks.per_head(); ++b) {
    const KeyBlock<Number> block = blocks.of(number, b);
    for (size_t g = 0; g < groups; ++g) {
      attend_block(block, group[g].queries.data(), group[g].gathered);
    }
  }
  for (size_t g = 0; g < groups; ++g) {
    store_group(call, batch, head, first + g * kWideQueries, blocks.value_width(), group[g]);
  }
}

template <typename Number>
void attend(const AttentionCall& call, AttendBlock<Number> attend_block) {
  const KeyBlocks<Number> blocks(call);
  const size_t tasks = (call.query_count + kQueriesPerTask - 1) / kQueriesPerTask;
  parallel_blocks(call.threads, call.batch * call.heads * tasks, [&](size_t i) {
    const size_t first = i % tasks * kQueriesPerTask;
    run_task(call, blocks, attend_block, i / tasks, first,
             std::min(call.query_count, first + kQueriesPerTask));
  });
}

}  // namespace

void attend_wide_heads(const AttentionCall& call) {
  const bool halves = call.queries.data.bf16 != nullptr && call.keys.data.bf16 != nullptr &&
                      call.values.data.bf16 != nullptr;
  const AttendBlock<uint32_t> pairs = halves ? attend_pairs() : nullptr;
  pairs != nullptr ? attend(call, pairs) : attend(call, attend_singles());
}

}  // namespace arrow_quant
