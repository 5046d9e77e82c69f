// Groups side by side: the layout in which parameters are searched.
//
// A tile holds kTileLanes groups of equal length, one per column: element i of group `lane` is
// x[i * kTileLanes + lane]. Every group then has its own vector lane, so that no operation ever
// crosses lanes: results do not depend on which groups share a tile, nor on the vector width.
#pragma once

#include <cstddef>

namespace arrow_quant {

inline constexpr size_t kTileLanes = 16;

/// Weights relative to the middle of their group's range, so that sums of squares stay accurate.
struct Tile {
  const float* x = nullptr;  ///< [depth][kTileLanes]
  const float* h = nullptr;  ///< importance, same shape, or null for equal importance
  size_t depth = 0;
  const float* low = nullptr;   ///< [kTileLanes] smallest weight of each group
  const float* high = nullptr;  ///< [kTileLanes] largest weight of each group
};

/// Middle of the range of one group, the origin of Tile::x.
inline float tile_middle(float low, float high) noexcept { return 0.5F * low + 0.5F * high; }

}  // namespace arrow_quant
