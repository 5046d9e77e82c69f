#include "arrow_quant/byte_buffer.h"

#include <cstdlib>
#include <new>

#include "core/pages.h"

namespace arrow_quant {

void* allocate_block(size_t size) {
  void* block = size >= kLargeBlock ? map_pages(size) : std::malloc(size);
  if (block == nullptr && size != 0) throw std::bad_alloc();
  return block;
}

void free_block(void* block, size_t size) noexcept {
  if (size >= kLargeBlock) return unmap_pages(block, size);
  std::free(block);
}

}  // namespace arrow_quant
