// What is left of the costs of a factor when some directions no longer count.
#pragma once

#include <cstddef>
#include <span>

#include "quantize/feedback_factor.h"

namespace arrow_quant {

/// The sum of FeedbackBlock::cost, relative to that of `factor`, when sum v v^T over the `count`
/// rows v of directions[count][channels] is taken out of its Gram matrix: about what error
/// feedback's error falls to. Exact for the same order and damping, and in the time of rounding
/// `count` rows: with H = L D L^T and V = L P the matrix that remains is L (D - P P^T) L^T, of
/// whose pivots
///   d'_j = d_j - p_j^T S_j p_j,  S_0 = I,  S_(j+1) = S_j + S_j p_j p_j^T S_j / d'_j.
double cost_without(const FeedbackFactor& factor, std::span<const float> directions, size_t count);

}  // namespace arrow_quant
