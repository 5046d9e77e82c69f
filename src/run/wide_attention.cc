#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "core/parallel.h"
#include "kernels/wide_attention.h"
#include "run/attention_heads.h"
#include "run/reused_buffer.h"

namespace arrow_quant {
namespace {

// Queries that share a block of keys while it is in the second-level cache.
constexpr size_t kGroupsPerTask = 8;
constexpr size_t kQueriesPerTask = kGroupsPerTask * kWideQueries;

size_t whole(size_t count, size_t block) noexcept { return (count + block - 1) / block * block; }

/// Keys and values of every head in blocks, as attend_block() takes them.
class KeyBlocks {
 public:
  explicit KeyBlocks(const AttentionCall& call)
      : call_(call),
        value_width_(whole(call.width, kWideBlock)),
        block_size_((call.width + value_width_) * kWideKeys),
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

  KeyBlock of(size_t head, size_t number) const noexcept {
    const float* keys = numbers_.data() + (head * per_head_ + number) * block_size_;
    const size_t count = std::min(kWideKeys, call_.key_count - number * kWideKeys);
    return {keys, keys + call_.width * kWideKeys, count, call_.width, value_width_};
  }

 private:
  void fill(size_t i) noexcept {
    const size_t number = i / per_head_, first = i % per_head_ * kWideKeys;
    const size_t batch = number / call_.heads, head = number % call_.heads;
    const size_t count = std::min(kWideKeys, call_.key_count - first);
    float* keys = numbers_.data() + i * block_size_;
    float* values = keys + call_.width * kWideKeys;
    if (count < kWideKeys) std::fill_n(keys, call_.width * kWideKeys, 0.0F);
    bool finite = true;
    float token[kWidestHead];
    for (size_t k = 0; k < count; ++k) {
      load_token(call_.keys.at(batch, head, first + k), call_.width, token);
      finite = all_finite(token, call_.width) && finite;
      for (size_t c = 0; c < call_.width; ++c) keys[c * kWideKeys + k] = token[c];
      float* value = values + k * value_width_;
      load_token(call_.values.at(batch, head, first + k), call_.width, value);
      std::fill(value + call_.width, value + value_width_, 0.0F);
    }
    finite_[i] = finite ? 1 : 0;
  }

  const AttentionCall& call_;
  size_t value_width_, block_size_, per_head_;
  ReusedBuffer<float> numbers_;
  std::vector<char> finite_;
};

/// kWideQueries queries and what they have gathered.
struct QueryGroup {
  float* queries = nullptr;  ///< [width][kWideQueries]
  Gathered gathered;
  bool finite[kWideQueries]{};
  size_t count = 0;
};

void load_group(const AttentionCall& call, size_t batch, size_t head, size_t first,
                QueryGroup& group) {
  const float factor = call.scale * std::numbers::log2e_v<float>;
  std::fill_n(group.queries, call.width * kWideQueries, 0.0F);
  float token[kWidestHead];
  for (size_t q = 0; q < group.count; ++q) {
    load_token(call.queries.at(batch, head, first + q), call.width, token);
    group.finite[q] = all_finite(token, call.width);
    for (size_t c = 0; c < call.width; ++c) group.queries[c * kWideQueries + q] = token[c] * factor;
  }
}

void store_group(const AttentionCall& call, size_t batch, size_t head, size_t first,
                 size_t value_width, const QueryGroup& group) {
  for (size_t q = 0; q < group.count; ++q) {
    const OutputNumbers to = call.out.at(batch, head, first + q);
    if (!group.finite[q] || !std::isfinite(group.gathered.most[q])) {
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
void run_task(const AttentionCall& call, const KeyBlocks& blocks, size_t number, size_t first,
              size_t end) {
  const size_t batch = number / call.heads, head = number % call.heads;
  if (!blocks.finite(number)) {
    for (size_t q = first; q < end; ++q) store_nan(call.width, call.out.at(batch, head, q));
    return;
  }
  const size_t query_size = call.width * kWideQueries;
  const size_t out_size = blocks.value_width() * kWideQueries;
  const size_t groups = (end - first + kWideQueries - 1) / kWideQueries;
  ReusedBuffer<float> memory(groups * (query_size + out_size));
  QueryGroup group[kGroupsPerTask];
  for (size_t g = 0; g < groups; ++g) {
    float* own = memory.data() + g * (query_size + out_size);
    group[g].queries = own;
    group[g].gathered.out = own + query_size;
    group[g].count = std::min(kWideQueries, end - first - g * kWideQueries);
    std::ranges::fill(group[g].gathered.most, -std::numeric_limits<float>::infinity());
    std::fill_n(group[g].gathered.out, out_size, 0.0F);
    load_group(call, batch, head, first + g * kWideQueries, group[g]);
  }
  for (size_t b = 0; b < blocks.per_head(); ++b) {
    const KeyBlock block = blocks.of(number, b);
    for (size_t g = 0; g < groups; ++g) attend_block(block, group[g].queries, group[g].gathered);
  }
  for (size_t g = 0; g < groups; ++g) {
    store_group(call, batch, head, first + g * kWideQueries, blocks.value_width(), group[g]);
  }
}

}  // namespace

void attend_wide_heads(const AttentionCall& call) {
  const KeyBlocks blocks(call);
  const size_t tasks = (call.query_count + kQueriesPerTask - 1) / kQueriesPerTask;
  parallel_blocks(call.threads, call.batch * call.heads * tasks, [&](size_t i) {
    const size_t first = i % tasks * kQueriesPerTask;
    run_task(call, blocks, i / tasks, first, std::min(call.query_count, first + kQueriesPerTask));
  });
}

}  // namespace arrow_quant
