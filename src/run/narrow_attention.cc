#include <algorithm>
#include <memory>
#include <numbers>
#include <vector>

#include "core/parallel.h"
#include "kernels/narrow_attention.h"
#include "run/attention_heads.h"

namespace arrow_quant {
namespace {

constexpr size_t kQueriesPerTask = 128;
constexpr size_t kAlignment = 64;  // bytes; of the widest vector
constexpr size_t kWidest = 16;     // of the heads that come here

size_t whole(size_t count, size_t block) noexcept { return (count + block - 1) / block * block; }

/// Zeros that begin at a whole vector.
class AlignedFloats {
 public:
  explicit AlignedFloats(size_t count) : memory_(count + kAlignment / sizeof(float), 0.0F) {
    void* first = memory_.data();
    size_t room = memory_.size() * sizeof(float);
    data_ = static_cast<float*>(std::align(kAlignment, count * sizeof(float), first, room));
  }
  float* data() const noexcept { return data_; }

 private:
  std::vector<float> memory_;
  float* data_;
};

/// Keys and values of every head in columns.
class Columns {
 public:
  explicit Columns(const AttentionCall& call)
      : padded_(whole(call.key_count, kKeyBlock)),
        key_size_(call.width * padded_),
        head_size_(key_size_ + whole(call.width, kWidthBlock) * padded_),
        numbers_(call.batch * call.heads * head_size_),
        finite_(call.batch * call.heads) {
    parallel_blocks(call.threads, finite_.size(), [&](size_t head) {
      float* keys = numbers_.data() + head * head_size_;
      const size_t b = head / call.heads, h = head % call.heads;
      finite_[head] = turn(call.keys, call, b, h, keys);
      turn(call.values, call, b, h, keys + key_size_);
    });
  }

  bool finite(size_t head) const noexcept { return finite_[head] != 0; }
  KeyColumns of(size_t head, const AttentionCall& call) const noexcept {
    const float* keys = numbers_.data() + head * head_size_;
    return {keys, keys + key_size_, call.key_count, padded_, call.width};
  }

 private:
  /// Turn tokens into columns; whether all numbers are finite.
  bool turn(const Heads<InputNumbers>& from, const AttentionCall& call, size_t batch, size_t head,
            float* to) const noexcept {
    bool finite = true;
    for (size_t k = 0; k < call.key_count; ++k) {
      float token[kWidest];
      load_token(from.at(batch, head, k), call.width, token);
      for (size_t i = 0; i < call.width; ++i) to[i * padded_ + k] = token[i];
      finite = all_finite(token, call.width) && finite;
    }
    return finite;
  }

  size_t padded_, key_size_, head_size_;
  AlignedFloats numbers_;
  std::vector<char> finite_;
};

/// Up to kQueryBlock queries of a head, as attend() takes them.
struct QueryBlock {
  QueryBlock(const AttentionCall& call, size_t batch, size_t head, size_t first)
      : count(std::min(kQueryBlock, call.query_count - first)) {
    const float factor = call.scale * std::numbers::log2e_v<float>;
    for (size_t q = 0; q < count; ++q) {
      float token[kWidest];
      load_token(call.queries.at(batch, head, first + q), call.width, token);
      for (size_t i = 0; i < call.width; ++i) numbers[i * kQueryBlock + q] = token[i] * factor;
      finite[q] = all_finite(token, call.width);
    }
  }

  size_t count;
  float numbers[kWidest * kQueryBlock]{};
  bool finite[kQueryBlock]{};
};

/// Queries [first, end) of a head.
void run_task(const AttentionCall& call, const Columns& columns, size_t number, size_t first,
              size_t end) {
  const size_t batch = number / call.heads, head = number % call.heads;
  const KeyColumns keys = columns.of(number, call);
  AlignedFloats scores(kQueryBlock * keys.padded);
  float found[kQueryBlock * kWidest];
  const size_t stride = whole(call.width, kWidthBlock);
  for (; first < end; first += kQueryBlock) {
    const QueryBlock queries(call, batch, head, first);
    attend(keys, queries.numbers, scores.data(), found);
    for (size_t q = 0; q < queries.count; ++q) {
      const OutputNumbers to = call.out.at(batch, head, first + q);
      if (columns.finite(number) && queries.finite[q]) {
        store_token(found + q * stride, call.width, to);
      } else {
        store_nan(call.width, to);
      }
    }
  }
}

}  // namespace

void attend_narrow_heads(const AttentionCall& call) {
  const Columns columns(call);
  const size_t blocks = (call.query_count + kQueriesPerTask - 1) / kQueriesPerTask;
  parallel_blocks(call.threads, call.batch * call.heads * blocks, [&](size_t i) {
    const size_t first = i % blocks * kQueriesPerTask;
    run_task(call, columns, i / blocks, first, std::min(call.query_count, first + kQueriesPerTask));
  });
}

}  // namespace arrow_quant
