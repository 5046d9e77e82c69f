#include "core/pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>

#include "arrow_quant/page_reuse.h"

namespace arrow_quant {
namespace {

constexpr size_t kHugePage = 2U << 20;
// Blocks are of small pages: of huge ones, the last would be resident as a whole.
constexpr size_t kPage = 4096;
constexpr size_t kKeptBytes = 64U << 20;
constexpr size_t kMaxKept = 32;  // blocks

size_t whole_pages(size_t size) noexcept { return (size + kPage - 1) / kPage * kPage; }

// Best effort: without huge pages it only takes longer.
void* advised(void* block, [[maybe_unused]] size_t size) noexcept {
  if (block == MAP_FAILED) return nullptr;
#ifdef MADV_HUGEPAGE
  ::madvise(block, size, MADV_HUGEPAGE);
#endif
  return block;
}

/// A block that begins with a huge page, as the kernel sees to for whole huge pages only.
void* map_aligned(size_t whole) noexcept {
  void* found = ::mmap(nullptr, whole + kHugePage, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (found == MAP_FAILED) return MAP_FAILED;
  auto* first = static_cast<std::byte*>(found);
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(first) % kHugePage) % kHugePage;
  if (before != 0) ::munmap(first, before);
  ::munmap(first + before + whole, kHugePage - before);  // less than a huge page was before
  return first + before;
}

/// Blocks that nobody uses, the oldest first.
class KeptBlocks {
 public:
  void* take(size_t size) noexcept {
    const std::lock_guard lock(mutex_);
    const auto end = blocks_.begin() + count_;
    const auto found =
        std::find_if(blocks_.begin(), end, [size](Block b) { return b.size == size; });
    if (found == end) return nullptr;
    void* block = found->start;
    remove(found);
    return block;
  }

  /// False when the block is not wanted.
  bool keep(void* start, size_t size) noexcept {
    const std::lock_guard lock(mutex_);
    if (users_ == 0 || size > kKeptBytes) return false;
    while (bytes_ + size > kKeptBytes || count_ == static_cast<ptrdiff_t>(blocks_.size())) {
      drop_oldest();
    }
    blocks_[static_cast<size_t>(count_++)] = {start, size};
    bytes_ += size;
    return true;
  }

  void add_user() noexcept {
    const std::lock_guard lock(mutex_);
    ++users_;
  }

  void remove_user() noexcept {
    const std::lock_guard lock(mutex_);
    if (--users_ != 0) return;
    while (count_ != 0) drop_oldest();
  }

 private:
  struct Block {
    void* start = nullptr;
    size_t size = 0;
  };
  using Blocks = std::array<Block, kMaxKept>;

  void remove(Blocks::iterator at) noexcept {
    bytes_ -= at->size;
    std::move(at + 1, blocks_.begin() + count_, at);
    --count_;
  }

  void drop_oldest() noexcept {
    ::munmap(blocks_[0].start, blocks_[0].size);
    remove(blocks_.begin());
  }

  std::mutex mutex_;
  Blocks blocks_;
  ptrdiff_t count_ = 0;
  size_t bytes_ = 0;
  int users_ = 0;
};

KeptBlocks& kept() noexcept {
  static KeptBlocks blocks;
  return blocks;
}

}  // namespace

void* map_pages(size_t size) noexcept {
  const size_t whole = whole_pages(size);
  if (void* block = kept().take(whole)) return block;
  return advised(map_aligned(whole), whole);
}

void* remap_pages(void* block, size_t old_size, size_t new_size) noexcept {
  const size_t whole = whole_pages(new_size);
  return advised(::mremap(block, whole_pages(old_size), whole, MREMAP_MAYMOVE), whole);
}

void unmap_pages(void* block, size_t size) noexcept {
  const size_t whole = whole_pages(size);
  if (!kept().keep(block, whole)) ::munmap(block, whole);
}

PageReuse::PageReuse() noexcept { kept().add_user(); }
PageReuse::~PageReuse() { kept().remove_user(); }

}  // namespace arrow_quant
