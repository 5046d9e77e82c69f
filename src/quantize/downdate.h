// The downdate of a Cholesky factor, as far as its diagonal: costs after rank-one terms are
// subtracted.
#pragma once

#include <cstddef>
#include <span>

#include "quantize/feedback_factor.h"

namespace arrow_quant {

/// The sum of FeedbackBlock::cost, relative to that of `factor`, after sum v v^T over the `count`
/// rows v of directions[count][channels] is subtracted from its Gram matrix. The error of error
/// feedback falls to about this fraction. Exact for the same order and damping; takes as long as
/// rounding `count` rows: with H = L D L^T and V = L P the matrix that remains is L (D - P P^T)
/// L^T, of whose pivots
///   d'_j = d_j - p_j^T S_j p_j,  S_0 = I,  S_(j+1) = S_j + S_j p_j p_j^T S_j / d'_j.
double downdate_cost(const FeedbackFactor& factor, std::span<const float> directions, size_t count);

}  // namespace arrow_quant
