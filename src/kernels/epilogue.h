// From sums of integer products to floats.
//
// Sums lie as multiply_panel leaves them: one row of kPanelColumns per byte limb of a token, the
// limbs of a token one after the other. Pure functions, safe from many threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "arrow_quant/numbers.h"
#include "kernels/activations.h"
#include "kernels/gemm_int8.h"

namespace arrow_quant {

/// Sums of `tokens` tokens and what belongs to each.
struct PanelSums {
  const int32_t* sums = nullptr;  ///< [tokens * planes][kPanelColumns]
  const TokenSums* tokens = nullptr;
  size_t count = 0;
  int planes = 1;
};

/// out[t * out_stride + column] = token scale * column scale
///   * (sum - 128 * sum of the token's activations) + bias,
/// for `columns` <= kPanelColumns; `bias` may be null.
void finish_sums(const PanelSums& sums, const float* column_scales, const float* bias,
                 size_t columns, OutputNumbers out, size_t out_stride) noexcept;

/// The products of one group of inputs with unsigned codes:
/// out[t][column] += token scale * (scales[column] * sum + offsets[column] * sum of activations).
/// `scales` and `offsets` have kPanelColumns values.
void add_group_sums(const PanelSums& sums, const float* scales, const float* offsets,
                    float* out) noexcept;

}  // namespace arrow_quant
