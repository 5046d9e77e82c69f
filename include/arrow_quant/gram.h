// The Gram matrix H = sum x x^T of what enters a layer: symmetric, f32, [channels][channels].
//
// Kept as square tiles on and above the diagonal, about half of a full matrix. With a block size,
// only the diagonal blocks are kept: channels of different blocks count as uncorrelated. A plain
// value: no locking.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "arrow_quant/api.h"

namespace arrow_quant {

/// A symmetric matrix in tiles; see the top of this file.
class ARROW_QUANT_API GramMatrix {
 public:
  /// Rows and columns of a tile; those at the end may have fewer.
  static constexpr uint64_t kTile = 256;

  GramMatrix() = default;

  /// Zeros. `block` is a multiple of kTile, or 0 for one block of all channels.
  explicit GramMatrix(uint64_t channels, uint64_t block = 0);

  /// A matrix of the same form without its values.
  GramMatrix zeros() const;

  /// Bytes that a matrix keeps.
  static uint64_t bytes(uint64_t channels, uint64_t block = 0) noexcept;

  /// Rows and columns of the matrix.
  uint64_t channels() const noexcept { return channels_; }
  /// Channels of a diagonal block; `channels()` when there is one.
  uint64_t block() const noexcept { return block_; }

  /// H[i][j]; 0 outside the diagonal blocks.
  float at(uint64_t i, uint64_t j) const noexcept;

  /// Where a tile lies in the matrix and in memory.
  struct Tile {
    uint64_t row = 0, column = 0;    ///< first channel; row <= column
    uint64_t rows = 0, columns = 0;  ///< `columns` is also the distance of its rows
    size_t offset = 0;               ///< of its first element in `values`
  };
  /// The tiles that are stored, in a fixed order.
  std::span<const Tile> tiles() const noexcept { return tiles_; }

  /// All tiles, each row-major. Of the tiles on the diagonal only the upper triangle counts.
  std::span<float> values() noexcept { return values_; }
  /// The same, to be read.
  std::span<const float> values() const noexcept { return values_; }

 private:
  const Tile& tile(uint64_t i, uint64_t j) const noexcept;

  uint64_t channels_ = 0;
  uint64_t block_ = 0;
  std::vector<Tile> tiles_;
  std::vector<float> values_;
};

}  // namespace arrow_quant
