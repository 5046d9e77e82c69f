#include "calibrate/accumulate.h"

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

#include "core/blas.h"

namespace arrow_quant {
namespace {

using Tile = GramMatrix::Tile;

constexpr uint64_t kWidest = 4;  // tiles of a square, each way: its sums fit into a cache

/// Neighbouring tiles whose sums one product makes. Packing operands costs the less of the whole
/// the larger the product.
struct Square {
  uint64_t row = 0, column = 0;    // of its first element
  uint64_t rows = 0, columns = 0;  // of its elements
  std::vector<const Tile*> tiles = {};

  bool on_diagonal() const noexcept { return row == column; }
};

/// The largest first, so that threads end together. Depends on the matrix alone, so that sums do
/// not depend on the number of threads.
std::vector<Square> squares_of(const GramMatrix& gram) {
  const uint64_t across = gram.block() / GramMatrix::kTile;
  const uint64_t edge = GramMatrix::kTile * std::clamp<uint64_t>(across / kWidest, 1, kWidest);
  std::vector<Square> squares;
  std::vector<const Tile*> tiles;
  for (const Tile& tile : gram.tiles()) tiles.push_back(&tile);
  const auto place = [&](const Tile* tile) {
    return std::pair(tile->row / edge * edge, tile->column / edge * edge);
  };
  std::ranges::stable_sort(tiles, {}, place);
  for (const Tile* tile : tiles) {
    const auto [row, column] = place(tile);
    if (squares.empty() || std::pair(squares.back().row, squares.back().column) != place(tile)) {
      squares.push_back({.row = row, .column = column});
    }
    Square& square = squares.back();
    square.rows = std::max(square.rows, tile->row + tile->rows - row);
    square.columns = std::max(square.columns, tile->column + tile->columns - column);
    square.tiles.push_back(tile);
  }
  std::ranges::stable_sort(squares, std::greater<>(), [](const Square& square) {
    return square.rows * square.columns / (square.on_diagonal() ? 2 : 1);
  });
  return squares;
}

void add_tile(const Square& square, const std::vector<float>& sums, const Tile& tile, float* to) {
  for (uint64_t r = 0; r < tile.rows; ++r) {
    const float* from =
        sums.data() + (tile.row - square.row + r) * square.columns + (tile.column - square.column);
    for (uint64_t c = 0; c < tile.columns; ++c) to[r * tile.columns + c] += from[c];
  }
}

}  // namespace

void accumulate_gram(const float* x, size_t tokens, float weight, ThreadPool& pool,
                     const std::function<void()>& poll, GramMatrix& gram) {
  const blas::Serial serial;
  const size_t channels = gram.channels();
  const std::vector<Square> squares = squares_of(gram);
  std::vector<std::vector<float>> scratch(static_cast<size_t>(pool.size()));
  pool.parallel_for(
      squares.size(),
      [&](size_t index, int worker) {
        const Square& square = squares[index];
        std::vector<float>& sums = scratch[static_cast<size_t>(worker)];
        sums.resize(std::max<size_t>(sums.size(), square.rows * square.columns));
        if (square.on_diagonal()) {
          std::ranges::fill(sums, 0.0F);
          blas::add_gram(square.rows, tokens, weight, x + square.row, channels, sums.data(),
                         square.columns);
        } else {
          blas::gemm(square.rows, square.columns, tokens, weight,
                     {x + square.row, channels, blas::Op::kTransposed},
                     {x + square.column, channels}, 0.0F, sums.data(), square.columns);
        }
        for (const Tile* tile : square.tiles) {
          add_tile(square, sums, *tile, gram.values().data() + tile->offset);
        }
      },
      poll);
}

}  // namespace arrow_quant
