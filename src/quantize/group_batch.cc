#include "quantize/group_batch.h"

#include <algorithm>

#include "kernels/search.h"

namespace arrow_quant {
namespace {

size_t tiles_for(size_t groups) { return (groups + kTileLanes - 1) / kTileLanes; }

/// Importance of the weights of a tile by their magnitude; see RowBlock::by_magnitude.
void magnitude_tile(const float* __restrict x, size_t depth, float* __restrict h) {
  float mean[kTileLanes] = {};
  for (size_t i = 0; i < depth; ++i) {
    for (size_t lane = 0; lane < kTileLanes; ++lane) {
      const float w = x[i * kTileLanes + lane];
      h[i * kTileLanes + lane] = w * w;
      mean[lane] += w * w / static_cast<float>(depth);
    }
  }
  for (float& m : mean) m = m > 0.0F ? m : 1.0F;  // a group of zeros
  for (size_t i = 0; i < depth; ++i) {
    for (size_t lane = 0; lane < kTileLanes; ++lane) h[i * kTileLanes + lane] += mean[lane];
  }
}

template <typename T>
void grow(std::vector<T>& buffer, size_t size) {
  if (buffer.size() < size) buffer.resize(size);
}

}  // namespace

size_t GroupBatch::rows_for(size_t cols, size_t group) noexcept {
  constexpr size_t kTiles = 8;
  constexpr size_t kWeights = 32768;
  const size_t groups = (cols + group - 1) / group;
  const size_t in_cache = std::max(kTileLanes / groups, kWeights / cols);
  return std::max<size_t>(1, std::min(kTiles * kTileLanes / groups, in_cache));
}

void GroupBatch::load(const RowBlock& block, size_t row_begin, size_t rows, size_t group,
                      float factor) {
  rows_ = rows;
  group_ = std::min(group, block.cols);
  full_per_row_ = block.cols / group_;
  short_length_ = block.cols % group_;
  full_tiles_ = tiles_for(rows * full_per_row_);
  short_tiles_ = short_length_ != 0 ? tiles_for(rows) : 0;
  weighted_ = block.importance != nullptr || block.by_magnitude;
  const size_t values = (full_tiles_ * group_ + short_tiles_ * short_length_) * kTileLanes;
  grow(x_, values);
  if (weighted_) grow(h_, values);
  grow(low_, slots());
  grow(high_, slots());
  for (size_t i = 0; i < tiles(); ++i) load_tile(block, row_begin, factor, i);
}

Tile GroupBatch::tile(size_t index) const noexcept {
  const bool full = index < full_tiles_;
  const size_t before =
      full ? index * group_ : full_tiles_ * group_ + (index - full_tiles_) * short_length_;
  const size_t slot = index * kTileLanes;
  return {x_.data() + before * kTileLanes, weighted_ ? h_.data() + before * kTileLanes : nullptr,
          full ? group_ : short_length_, low_.data() + slot, high_.data() + slot};
}

void GroupBatch::load_tile(const RowBlock& block, size_t row_begin, float factor, size_t index) {
  const Tile to = tile(index);
  const bool full = index < full_tiles_;
  const size_t per_row = full ? full_per_row_ : 1;
  const size_t first = (full ? index : index - full_tiles_) * kTileLanes;
  const float* weights[kTileLanes];
  const float* importance[kTileLanes];
  for (size_t lane = 0; lane < kTileLanes; ++lane) {
    // Lanes without a group repeat the last one.
    const size_t group = std::min(first + lane, rows_ * per_row - 1);
    const size_t column = full ? group % per_row * group_ : full_per_row_ * group_;
    weights[lane] = block.weights + (row_begin + group / per_row) * block.cols + column;
    importance[lane] = block.importance != nullptr ? block.importance + column : nullptr;
  }
  float* x = x_.data() + (to.x - x_.data());
  fill_tile(weights, to.depth, factor, x);
  if (weighted_) {
    float* h = h_.data() + (to.h - h_.data());
    if (block.importance != nullptr) {
      fill_tile(importance, to.depth, 1.0F, h);
    } else {
      magnitude_tile(x, to.depth, h);
    }
  }
  center_tile(x, to.depth, low_.data() + index * kTileLanes, high_.data() + index * kTileLanes);
}

}  // namespace arrow_quant
