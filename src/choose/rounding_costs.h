// What rounding a layer costs its outputs, by an estimate that needs no error feedback and no Gram
// matrix but the factor's diagonal.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "choose/layer_trial.h"

namespace arrow_quant {

/// With error feedback, a weight is rounded after the errors of earlier columns were added to it.
/// The output error is the sum of squared rounding errors times FeedbackBlock::cost. The step size
/// hardly depends on the added errors, so weights that are rounded without feedback have about the
/// same rounding errors. Measured: ranks factors as well as feedback over a quarter of the sample.
class RoundingCosts {
 public:
  /// For weights[rows][cols] under `choice`, without equalization; both must outlive this object.
  RoundingCosts(const LayerChoice& choice, std::span<const float> weights, int8_t offset_unit);

  /// The expected error when input channels are multiplied by `factors`; none: as they are.
  double operator()(std::span<const float> factors) const;

 private:
  const LayerChoice& choice_;
  std::span<const float> weights_;
  size_t cols_;
  size_t rows_;  // that are looked at
  int8_t offset_unit_;
  std::vector<float> costs_;  // of each column
};

}  // namespace arrow_quant
