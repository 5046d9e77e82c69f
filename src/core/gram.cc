#include "arrow_quant/gram.h"

#include <algorithm>
#include <utility>

namespace arrow_quant {
namespace {

uint64_t tiles_for(uint64_t channels) noexcept {
  return (channels + GramMatrix::kTile - 1) / GramMatrix::kTile;
}

uint64_t block_for(uint64_t channels, uint64_t block) noexcept {
  return block == 0 ? channels : std::min(block, channels);
}

uint64_t extent(uint64_t begin, uint64_t end) noexcept {
  return std::min(GramMatrix::kTile, end - begin);
}

}  // namespace

GramMatrix::GramMatrix(uint64_t channels, uint64_t block)
    : channels_(channels), block_(block_for(channels, block)) {
  size_t offset = 0;
  for (uint64_t begin = 0; begin < channels; begin += block_) {
    const uint64_t end = std::min(begin + block_, channels);
    for (uint64_t i = begin; i < end; i += kTile) {
      for (uint64_t j = i; j < end; j += kTile) {
        const Tile tile{i, j, extent(i, end), extent(j, end), offset};
        offset += tile.rows * tile.columns;
        tiles_.push_back(tile);
      }
    }
  }
  values_.resize(offset);
}

GramMatrix GramMatrix::zeros() const {
  GramMatrix other = *this;
  std::ranges::fill(other.values_, 0.0F);
  return other;
}

uint64_t GramMatrix::bytes(uint64_t channels, uint64_t block) noexcept {
  uint64_t elements = 0;
  const uint64_t size = block_for(channels, block);
  for (uint64_t begin = 0; begin < channels; begin += size) {
    const uint64_t end = std::min(begin + size, channels);
    for (uint64_t i = begin; i < end; i += kTile) elements += extent(i, end) * (end - i);
  }
  return elements * sizeof(float);
}

const GramMatrix::Tile& GramMatrix::tile(uint64_t i, uint64_t j) const noexcept {
  // Full blocks all have the same number of tiles; in a block, row r has `across - r` of them.
  const uint64_t number = i / block_;
  const uint64_t across = tiles_for(std::min(block_, channels_ - number * block_));
  const uint64_t r = (i - number * block_) / kTile, c = (j - number * block_) / kTile;
  const uint64_t full = tiles_for(block_);
  return tiles_[number * (full * (full + 1) / 2) + r * across - r * (r - 1) / 2 + (c - r)];
}

float GramMatrix::at(uint64_t i, uint64_t j) const noexcept {
  if (i > j) std::swap(i, j);
  if (i / block_ != j / block_) return 0.0F;
  const Tile& t = tile(i, j);
  return values_[t.offset + (i - t.row) * t.columns + (j - t.column)];
}

}  // namespace arrow_quant
