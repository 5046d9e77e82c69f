// Bias correction by group of timesteps.
#pragma once

#include <vector>

#include "arrow_quant/quantized_tensor.h"

namespace arrow_quant {

/// Means of a layer's input by groups of time: what its mean error is corrected by.
struct TimeMeans {
  std::vector<float> fitted;             ///< [groups][channels]
  std::vector<float> held_out;           ///< the same, of held-out tokens
  std::vector<double> fitted_weights;    ///< of the tokens of each group
  std::vector<double> held_out_weights;  ///< of held-out tokens
};

/// What a tensor gets by group of time: activation parameters, and a bias per row that corrects its
/// mean error over the tokens of the group (bias correction, Nagel et al. 2019, arXiv 1906.04721).
struct TimeCorrection {
  std::vector<TimeGroup> groups;  ///< without scales and biases
  TimeMeans means;                ///< of the groups; empty: no biases
};

}  // namespace arrow_quant
