// Memory straight from the kernel, in huge pages where it has them; see PageReuse for what waits
// for reuse. Thread-safe.
#pragma once

#include <cstddef>

namespace arrow_quant {

/// From this size on, pages of their own cost less than the heap.
inline constexpr size_t kLargeBlock = 2U << 20;

/// `size` bytes; nullptr when there are none. 0 at first, or, while a PageReuse lives, anything.
void* map_pages(size_t size) noexcept;

/// The same bytes in a block of another size, elsewhere if need be; nullptr, and nothing changed,
/// when there is none.
void* remap_pages(void* block, size_t old_size, size_t new_size) noexcept;

void unmap_pages(void* block, size_t size) noexcept;

}  // namespace arrow_quant
