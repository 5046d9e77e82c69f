#include "core/pages.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "arrow_quant/byte_buffer.h"
#include "arrow_quant/page_reuse.h"

namespace arrow_quant {
namespace {

constexpr size_t kMiB = 1U << 20;

TEST(Pages, FreshPagesAreZero) {
  auto* block = static_cast<unsigned char*>(map_pages(5 * kMiB));
  ASSERT_NE(block, nullptr);
  for (size_t i = 0; i < 5 * kMiB; ++i) ASSERT_EQ(block[i], 0) << i;
  unmap_pages(block, 5 * kMiB);
}

TEST(Pages, ABlockGivenBackServesTheNextRequestOfItsSizeWhileReuseLives) {
  const PageReuse reuse;
  void* block = map_pages(5 * kMiB);
  unmap_pages(block, 5 * kMiB);
  void* other = map_pages(9 * kMiB);
  EXPECT_NE(other, block);
  void* same = map_pages(5 * kMiB);
  EXPECT_EQ(same, block);
  unmap_pages(same, 5 * kMiB);
  unmap_pages(other, 9 * kMiB);
}

TEST(Pages, NoMoreIsKeptThanTheLimitAndTheOldestGoesFirst) {
  const PageReuse reuse;
  std::vector<void*> blocks;
  for (size_t i = 0; i < 9; ++i) blocks.push_back(map_pages(8 * kMiB));
  // Ends of blocks stay marked, so that a block that comes back is known by its content.
  for (size_t i = 0; i < 9; ++i) std::memset(blocks[i], static_cast<int>(i + 1), 1);
  for (void* block : blocks) unmap_pages(block, 8 * kMiB);
  std::vector<int> marks;
  for (void*& block : blocks) {
    block = map_pages(8 * kMiB);
    marks.push_back(*static_cast<unsigned char*>(block));
  }
  EXPECT_EQ(marks, (std::vector<int>{2, 3, 4, 5, 6, 7, 8, 9, 0}));
  for (void* block : blocks) unmap_pages(block, 8 * kMiB);
}

TEST(Pages, ABlockBeyondTheLimitGoesAtOnce) {
  const PageReuse reuse;
  void* block = map_pages(65 * kMiB);
  std::memset(block, 1, 1);
  unmap_pages(block, 65 * kMiB);
  block = map_pages(65 * kMiB);
  EXPECT_EQ(*static_cast<unsigned char*>(block), 0);
  unmap_pages(block, 65 * kMiB);
}

TEST(Pages, NothingIsKeptAfterTheLastReuse) {
  void* block = nullptr;
  {
    const PageReuse reuse;
    block = map_pages(4 * kMiB);
    std::memset(block, 1, 4 * kMiB);
    unmap_pages(block, 4 * kMiB);
  }
  block = map_pages(4 * kMiB);
  EXPECT_EQ(*static_cast<unsigned char*>(block), 0);
  unmap_pages(block, 4 * kMiB);
}

TEST(Pages, ABlockThatGrowsKeepsItsBytes) {
  void* block = map_pages(3 * kMiB);
  std::memset(block, 7, 3 * kMiB);
  block = remap_pages(block, 3 * kMiB, 21 * kMiB);
  ASSERT_NE(block, nullptr);
  EXPECT_EQ(static_cast<unsigned char*>(block)[3 * kMiB - 1], 7);
  EXPECT_EQ(static_cast<unsigned char*>(block)[21 * kMiB - 1], 0);
  unmap_pages(block, 21 * kMiB);
}

TEST(ByteBuffer, CopiesComparesAndGrowsAsAVectorDoes) {
  for (const size_t size : {size_t{1}, size_t{1000}, size_t{3 * kMiB}}) {
    ByteBuffer bytes(size, 7);
    ByteBuffer other = bytes;
    EXPECT_EQ(bytes, other);
    other.push_back(8);
    EXPECT_NE(bytes, other);
    EXPECT_EQ(other[size - 1], 7);
    EXPECT_EQ(other.back(), 8);
    bytes.resize(size + 2);  // the new bytes have any value
    EXPECT_EQ(bytes[size - 1], 7);
  }
}

}  // namespace
}  // namespace arrow_quant
