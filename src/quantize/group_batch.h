// Groups of a few rows in tile layout, ready for the search kernels.
//
// A group keeps its slot, tile * kTileLanes + lane, whatever else is in the batch. The buffers grow
// to the largest batch and are then reused; one object per thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/tile.h"
#include "quantize/affine.h"

namespace arrow_quant {

class GroupBatch {
 public:
  /// Rows of `cols` weights to load at a time: enough groups to fill the tiles well, few enough
  /// weights to stay in the cache.
  static size_t rows_for(size_t cols, size_t group) noexcept;

  /// Load rows [row_begin, row_begin + rows) of `block`, times `factor`, cut into groups of
  /// `group`.
  void load(const RowBlock& block, size_t row_begin, size_t rows, size_t group, float factor);

  size_t tiles() const noexcept { return full_tiles_ + short_tiles_; }
  size_t slots() const noexcept { return tiles() * kTileLanes; }
  size_t rows() const noexcept { return rows_; }
  size_t groups_per_row() const noexcept { return full_per_row_ + (short_length_ != 0 ? 1 : 0); }

  /// Slot of group `index` of row `row`, counted from the first row of the batch.
  size_t slot(size_t row, size_t index) const noexcept {
    return index < full_per_row_ ? row * full_per_row_ + index : full_tiles_ * kTileLanes + row;
  }

  Tile tile(size_t index) const noexcept;

  /// [slots] Smallest and largest weight of each group, times `factor`.
  const float* low() const noexcept { return low_.data(); }
  const float* high() const noexcept { return high_.data(); }

 private:
  void load_tile(const RowBlock& block, size_t row_begin, float factor, size_t index);

  size_t rows_ = 0;
  size_t group_ = 0;
  size_t full_per_row_ = 0;  ///< groups of full length
  size_t short_length_ = 0;  ///< length of the last group of each row, if it is short, else 0
  size_t full_tiles_ = 0;
  size_t short_tiles_ = 0;
  bool weighted_ = false;
  std::vector<float> x_, h_, low_, high_;
};

}  // namespace arrow_quant
