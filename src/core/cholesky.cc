#include "core/cholesky.h"

#include <algorithm>

#include "core/blas.h"

namespace arrow_quant {
namespace {

constexpr size_t kTile = 256;

/// Square tiles of a matrix, those at the end smaller.
struct Tiles {
  size_t n;
  float* a;

  size_t count() const noexcept { return (n + kTile - 1) / kTile; }
  size_t extent(size_t i) const noexcept { return std::min(kTile, n - i * kTile); }
  float* at(size_t i, size_t j) const noexcept { return a + i * kTile * n + j * kTile; }
};

/// Tile (i, j) with j <= i, counted row by row through a triangle.
struct Position {
  size_t i, j;
};

Position triangle_position(size_t index) noexcept {
  size_t i = 0;
  while (index > i) index -= ++i;
  return {i, index};
}

}  // namespace

bool cholesky(size_t n, float* a, ThreadPool& pool, const std::function<void()>& poll) {
  const blas::Serial serial;
  const Tiles tiles{n, a};
  for (size_t k = 0; k < tiles.count(); ++k) {
    if (!blas::cholesky(tiles.extent(k), tiles.at(k, k), n)) return false;
    const size_t below = tiles.count() - k - 1;
    pool.parallel_for(
        below,
        [&](size_t index, int) {
          const size_t i = k + 1 + index;
          blas::solve_right_transposed(tiles.extent(i), tiles.extent(k), tiles.at(k, k), n,
                                       tiles.at(i, k), n);
        },
        poll);
    pool.parallel_for(
        below * (below + 1) / 2,
        [&](size_t index, int) {
          const Position at = triangle_position(index);
          const size_t i = k + 1 + at.i, j = k + 1 + at.j;
          blas::gemm(tiles.extent(i), tiles.extent(j), tiles.extent(k), -1.0F, {tiles.at(i, k), n},
                     {tiles.at(j, k), n, blas::Op::kTransposed}, 1.0F, tiles.at(i, j), n);
        },
        poll);
  }
  return true;
}

}  // namespace arrow_quant
