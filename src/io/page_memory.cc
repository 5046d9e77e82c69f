#include "io/page_memory.h"

#include <arrow/status.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <string>

#include "core/pages.h"

namespace arrow_quant {
namespace {

constexpr bool is_large(int64_t size) noexcept { return size >= static_cast<int64_t>(kLargeBlock); }

arrow::Status out_of_memory(int64_t size) {
  return arrow::Status::OutOfMemory("cannot allocate ", size, " bytes");
}

class PageMemoryPool final : public arrow::MemoryPool {
 public:
  using arrow::MemoryPool::Allocate;
  using arrow::MemoryPool::Free;
  using arrow::MemoryPool::Reallocate;

  arrow::Status Allocate(int64_t size, int64_t alignment, uint8_t** out) override {
    if (!is_large(size)) return small_.Allocate(size, alignment, out);
    void* block = map_pages(bytes(size));
    if (block == nullptr) return out_of_memory(size);
    *out = static_cast<uint8_t*>(block);
    count(size);
    return arrow::Status::OK();
  }

  arrow::Status Reallocate(int64_t old_size, int64_t new_size, int64_t alignment,
                           uint8_t** ptr) override {
    if (!is_large(old_size) && !is_large(new_size)) {
      return small_.Reallocate(old_size, new_size, alignment, ptr);
    }
    if (!is_large(old_size) || !is_large(new_size)) {
      return move(old_size, new_size, alignment, ptr);
    }
    void* block = remap_pages(*ptr, bytes(old_size), bytes(new_size));
    if (block == nullptr) return out_of_memory(new_size);
    *ptr = static_cast<uint8_t*>(block);
    count(new_size - old_size);
    return arrow::Status::OK();
  }

  void Free(uint8_t* buffer, int64_t size, int64_t alignment) override {
    if (!is_large(size)) return small_.Free(buffer, size, alignment);
    unmap_pages(buffer, bytes(size));
    large_bytes_ -= size;
  }

  int64_t bytes_allocated() const override { return large_bytes_ + small_.bytes_allocated(); }
  int64_t total_bytes_allocated() const override { return total_ + small_.total_bytes_allocated(); }
  int64_t num_allocations() const override { return allocations_ + small_.num_allocations(); }
  std::string backend_name() const override { return "pages"; }

 private:
  static size_t bytes(int64_t size) noexcept { return static_cast<size_t>(size); }

  void count(int64_t grown_by) noexcept {
    large_bytes_ += grown_by;
    if (grown_by > 0) total_ += grown_by;
    ++allocations_;
  }

  // From the heap to pages, or back.
  arrow::Status move(int64_t old_size, int64_t new_size, int64_t alignment, uint8_t** ptr) {
    uint8_t* target = nullptr;
    ARROW_RETURN_NOT_OK(Allocate(new_size, alignment, &target));
    std::memcpy(target, *ptr, bytes(std::min(old_size, new_size)));
    Free(*ptr, old_size, alignment);
    *ptr = target;
    return arrow::Status::OK();
  }

  arrow::MemoryPool& small_ = *arrow::system_memory_pool();
  std::atomic<int64_t> large_bytes_ = 0;
  std::atomic<int64_t> total_ = 0;
  std::atomic<int64_t> allocations_ = 0;
};

}  // namespace

arrow::MemoryPool* page_memory_pool() {
  static PageMemoryPool pool;
  return &pool;
}

}  // namespace arrow_quant
