// Time-aware quantization: groups of adjacent timesteps, one partition for a whole model, and the
// means of inputs in each of them.
#pragma once

#include <span>
#include <vector>

#include "arrow_quant/calibration.h"
#include "arrow_quant/gram.h"
#include "arrow_quant/quantized_tensor.h"
#include "calibrate/each_input.h"
#include "quantize/time_correction.h"

namespace arrow_quant {

/// Timesteps from begin up to, but not including, end.
struct TimeSpan {
  double begin = 0;
  double end = 0;
};

/// The partition of all times into at most `max_groups` groups that keeps the means of the inputs
/// within a group alike: the sum over inputs and times of the squared distance of a channel's mean
/// from that of its group, relative to the energy of the input. With `activation_bits`, also the
/// error of activations rounded in the range that they have in the group. Exact, by dynamic
/// programming.
std::vector<TimeSpan> partition_times(const EachInput& inputs, size_t max_groups,
                                      int activation_bits);

/// Means of an input in each of `spans`, of the tokens to fit to and of the held-out ones.
TimeMeans means_by_time(const InputStatistics& facts, std::span<const TimeSpan> spans);

/// The fraction of the energy in H that is variance about these means, those of the tokens to fit
/// to.
double spread_about(const TimeMeans& means, const GramMatrix& gram);

/// H - sum over groups of n m m^T: the Gram matrix of the tokens less the means of their groups.
void take_means_out(const TimeMeans& means, GramMatrix& gram);

/// Which of `spans`, by time, holds `time`; the nearest when none does.
size_t span_of(std::span<const TimeSpan> spans, double time) noexcept;

/// The middle of a bin, by which it belongs to a group.
double middle(const TimeBin& bin) noexcept;

}  // namespace arrow_quant
