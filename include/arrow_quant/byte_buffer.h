// Bytes that are about to be overwritten: a vector that does not fill itself first, and whose large
// blocks come straight from the kernel in huge pages, where it has them, and go back when freed.
//
// A chunk of codes is tens of megabytes and is used once. From the heap it would cost a fill and
// one page fault per 4 KiB, more than quantizing it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "arrow_quant/api.h"

namespace arrow_quant {

/// `size` bytes of any value. Raises std::bad_alloc. Thread-safe, as is free_block.
ARROW_QUANT_API void* allocate_block(size_t size);

/// Give back what allocate_block(size) gave.
ARROW_QUANT_API void free_block(void* block, size_t size) noexcept;

/// A standard allocator over allocate_block whose elements have no value until they are given one.
template <typename T>
struct BlockAllocator {
  static_assert(std::is_trivial_v<T>);
  using value_type = T;  ///< a trivial type

  BlockAllocator() = default;
  /// All allocators are alike.
  template <typename U>
  BlockAllocator(const BlockAllocator<U>& /*other*/) noexcept {}

  /// Memory for `count` elements. Raises std::bad_alloc.
  T* allocate(size_t count) { return static_cast<T*>(allocate_block(count * sizeof(T))); }
  /// Give back what allocate(count) gave.
  void deallocate(T* block, size_t count) noexcept { free_block(block, count * sizeof(T)); }

  /// Leave the memory as it is.
  void construct(T* /*place*/) noexcept {}
  /// Construct from values, as usual.
  template <typename U, typename... Values>
  void construct(U* place, Values&&... values) {
    ::new (static_cast<void*>(place)) U(std::forward<Values>(values)...);
  }

  bool operator==(const BlockAllocator&) const = default;
};

/// Bytes of codes or parameters.
using ByteBuffer = std::vector<uint8_t, BlockAllocator<uint8_t>>;

}  // namespace arrow_quant
