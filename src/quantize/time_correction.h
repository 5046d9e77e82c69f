// What makes up for errors of outputs that are the same at all tokens of a group of timesteps.
#pragma once

#include <vector>

#include "arrow_quant/quantized_tensor.h"

namespace arrow_quant {

/// Means of a layer's input by groups of time: what its mean error is corrected by.
struct TimeMeans {
  std::vector<float> fitted;             ///< [groups][channels]
  std::vector<float> held_out;           ///< the same, of the tokens that judge
  std::vector<double> fitted_weights;    ///< of the tokens of each group
  std::vector<double> held_out_weights;  ///< of those that judge
};

/// What a tensor gets by group of time: activation parameters, and a bias per row that makes up for
/// its mean error over the tokens of the group.
struct TimeCorrection {
  std::vector<TimeGroup> groups;  ///< without scales and biases
  TimeMeans means;                ///< of the groups; empty: no biases
};

}  // namespace arrow_quant
