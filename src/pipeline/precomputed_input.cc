#include "pipeline/precomputed_input.h"

#include <algorithm>
#include <vector>

namespace arrow_quant {

PrecomputedInput::PrecomputedInput(CalibrationSource* calibration, const QuantizedTensorInfo& info)
    : calibration_(calibration) {
  if (calibration_ == nullptr || info.row_dimensions != 1) return;
  input_ = calibration_->find(info.name);
  if (input_) matrices_ = calibration_->matrices(*input_, info.spec.bit_width);
}

ChunkInput PrecomputedInput::of(const QuantizedChunk& chunk) {
  if (!input_ || matrices_->judge() == nullptr) return {};
  time_ = {.groups = chunk.time_groups, .means = {}};
  const auto has_bias = [](const TimeGroup& group) { return !group.output_bias.empty(); };
  if (std::ranges::any_of(time_.groups, has_bias)) {
    std::vector<TimeSpan> spans;
    for (const TimeGroup& group : time_.groups) {
      spans.push_back({.begin = group.begin, .end = group.end});
    }
    time_.means = means_by_time(calibration_->facts(*input_), spans);
  }
  return {.time = &time_, .held_out = matrices_->judge()};
}

}  // namespace arrow_quant
