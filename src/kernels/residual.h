// Residual binary levels: v = first * b1 + second * b2 with signs b1, b2, so that only the size of
// a weight decides between an outer level |first + second| and an inner one |first - second|.
//
// Pure functions, safe from many threads. NaN weights give unspecified results, never a crash.
#pragma once

#include <cstddef>
#include <cstdint>

#include "arrow_quant/quantized_tensor.h"
#include "kernels/tile.h"

namespace arrow_quant {

/// The two sizes that the weights of each group have around them, and how much weight each has.
struct MagnitudePairs {
  float* outer = nullptr;  ///< [kTileLanes] each
  float* inner = nullptr;
  float* outer_weight = nullptr;
  float* inner_weight = nullptr;
};

/// Find the outer and inner size of every group that minimise sum h (|x| - nearest)^2: alternating
/// least squares, which for these levels is 2-means of |x|, from several starts.
void fit_magnitudes(const Tile& tile, const MagnitudePairs& out) noexcept;

/// Find the best (q1, q2) of every group among those at most one from the fit divided by row_scale.
/// `params` receives the bytes of the format (q1 - 1 | q2 << 4), `error` sum h (x - x')^2.
void search_residual_binary(const Tile& tile, const float* row_scale, const float* outer,
                            const float* inner, uint8_t* params, float* error) noexcept;

/// Round `count` weights, times `factor`, to the nearest level of their groups and write the codes,
/// one per byte. Adds to `sums` as encode_groups does.
void encode_residual_binary(const float* weights, size_t count, float factor, const float* first,
                            const float* second, size_t group, uint8_t* codes,
                            ErrorSums& sums) noexcept;

}  // namespace arrow_quant
