// What rounding a layer costs its outputs, by an estimate that needs no error feedback and no Gram
// matrix but the factor's diagonal.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "choose/layer_trial.h"

namespace arrow_quant {

/// With error feedback every column is rounded from a weight that has taken on errors, and the
/// error of the outputs is the sum of squared errors of rounding times FeedbackBlock::cost. The
/// steps hardly depend on what a weight has taken on, so that weights rounded as they are have
/// about the same errors. Measured: as good a guide among factors as feedback over a quarter of the
/// sample.
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
