// Search for the parameters of many groups at once (see tile.h for the layout).
//
// Least-squares search in the manner of ggml's make_qkx3 (algorithms.md 3.3), with a free offset
// and wide grids. Lane-wise IEEE arithmetic only: a group's result depends on its own weights
// alone. Pure functions, safe from many threads. NaN weights give unspecified parameters, never a
// crash.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/tile.h"

namespace arrow_quant {

/// Copy `depth` values from each of kTileLanes sources, times `factor`, into tile layout.
void fill_tile(const float* const* sources, size_t depth, float factor, float* tile) noexcept;

/// Find low and high of every group and subtract the middle of that range from its weights.
void center_tile(float* x, size_t depth, float* low, float* high) noexcept;

enum class SearchEffort : uint8_t {
  kStart,  ///< a start for a search over integers
  kFull,   ///< within 1 % of the error of an exhaustive search
};

/// Find step and base of x ~ step * code + base, code in [0, 2^bits), that minimise
/// sum h (x - x')^2 with nearest codes. `step` is 0 for a group of equal weights.
void search_affine(const Tile& tile, int bits, SearchEffort effort, float* step,
                   float* base) noexcept;

/// What the integer search of two_level parameters starts from, per lane.
struct TwoLevelStart {
  int bits = 4;
  float offset_unit = 1.0F;          ///< m
  const float* row_scale = nullptr;  ///< s, above 0
  const float* step = nullptr;       ///< real-valued optimum as found by search_affine
  const float* base = nullptr;
};

/// Integer candidates around the real-valued optimum: q0 + [q_first, q_last] and, for each q, the
/// z_count values of z nearest to the one that keeps the range in place.
struct TwoLevelWindow {
  int q_first = 0;
  int q_last = 0;
  int z_count = 1;
};

/// Find the best (q, z) of every group among the window's candidates. `params` receives the bytes
/// of the format (q - 1 | (z + 8) << 4), `error` sum h (x - x')^2.
void search_two_level(const Tile& tile, const TwoLevelStart& start, const TwoLevelWindow& window,
                      uint8_t* params, float* error) noexcept;

}  // namespace arrow_quant
