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

/// Scale and zero of static activations x / s for each of `spans`. Of ranges from the whole one
/// down, the one whose rounding and clipping moves the outputs least: rounding is tried on the
/// sampled tokens, clipping on these and on the extremes of all tokens, which a sample may miss.
/// Symmetric where that costs less than a tenth more. `equalization` is s, per input channel, or
/// empty. Few ranges are tried where a `rough` answer will do.
std::vector<TimeGroup> activation_groups(const InputStatistics& facts,
                                         std::span<const TimeSpan> spans, const ReadingLayer& layer,
                                         std::span<const float> equalization, bool rough = false);

/// Sum of squares of what rounding adds to the outputs of `layer`, over all tokens that judge.
double activation_error(const InputStatistics& facts, std::span<const TimeGroup> groups,
                        const ReadingLayer& layer, std::span<const float> equalization);

}  // namespace arrow_quant
