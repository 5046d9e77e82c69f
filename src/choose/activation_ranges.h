// Static int8 activations of one layer: scale and zero by group of time, and what rounding to them
// costs the outputs of the layer. Pure functions.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "arrow_quant/calibration.h"
#include "arrow_quant/quantized_tensor.h"
#include "choose/time_groups.h"

namespace arrow_quant {

/// The layer that reads the activations.
struct ReadingLayer {
  std::span<const float> weights;  ///< some of its rows, [rows][cols]
  size_t cols = 0;
  std::span<const double> energy;  ///< [cols] sum of the squared weights of these rows
};

/// Scale and zero of static activations x / s for each of `spans`. The clipping range is
/// grid-searched by output error: rounding is tried on the sampled tokens, clipping on these and on
/// the extremes of all tokens, which a sample may miss. The range is symmetric where that costs
/// less than 10 % more error. `equalization` is s, per input channel, or empty. `rough`: try few
/// ranges.
std::vector<TimeGroup> activation_groups(const InputStatistics& facts,
                                         std::span<const TimeSpan> spans, const ReadingLayer& layer,
                                         std::span<const float> equalization, bool rough = false);

/// Sum of squared errors that rounding adds to the outputs of `layer`, over the sampled held-out
/// tokens; over those to fit to where none are held out.
double activation_error(const InputStatistics& facts, std::span<const TimeGroup> groups,
                        const ReadingLayer& layer, std::span<const float> equalization);

}  // namespace arrow_quant
