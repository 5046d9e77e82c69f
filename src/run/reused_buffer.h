// Memory for the length of one call that the thread keeps for its next one.
//
// A layer runs for a millisecond; fresh pages for its integers and sums would take a tenth of it.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "arrow_quant/byte_buffer.h"

namespace arrow_quant {

/// Numbers of any value. Buffers of one thread and type that live at once are different memory.
template <typename T>
class ReusedBuffer {
 public:
  explicit ReusedBuffer(size_t count) : numbers_(std::exchange(spare(), {})) {
    if (numbers_.size() < count) {
      numbers_.clear();  // there is nothing to move to where it grows
      numbers_.resize(count);
    }
  }
  ~ReusedBuffer() {
    if (numbers_.size() * sizeof(T) <= kMaxKept) spare() = std::move(numbers_);
  }
  ReusedBuffer(const ReusedBuffer&) = delete;
  ReusedBuffer& operator=(const ReusedBuffer&) = delete;

  T* data() noexcept { return numbers_.data(); }
  const T* data() const noexcept { return numbers_.data(); }

 private:
  using Numbers = std::vector<T, BlockAllocator<T>>;
  static constexpr size_t kMaxKept = 16U << 20;

  static Numbers& spare() noexcept {
    thread_local Numbers numbers;
    return numbers;
  }

  Numbers numbers_;
};

}  // namespace arrow_quant
