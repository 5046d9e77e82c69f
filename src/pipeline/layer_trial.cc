#include "pipeline/layer_trial.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/convert.h"

namespace arrow_quant {
namespace {

constexpr uint64_t kSampleRows = 256;  // one block of error feedback

}  // namespace

ChunkInput LayerChoice::input() const {
  return {.importance = importance,
          .factor = needs_statistics(info.spec.method) ? factor.get() : nullptr,
          .equalization = equalization,
          .time = time.get(),
          .held_out = matrices->judge()};
}

SampledRows::SampledRows(const RowSource& all, uint64_t rows)
    : all_(all), rows_(rows), count_(std::min(rows, kSampleRows)) {}

std::span<const std::byte> SampledRows::rows(uint64_t row, uint64_t count,
                                             std::vector<std::byte>& scratch) const {
  if (count_ == rows_) return all_.rows(row, count, scratch);
  std::vector<std::byte> one;
  std::vector<std::byte> gathered;
  for (uint64_t i = row; i < row + count; ++i) {
    const std::span<const std::byte> bytes = all_.rows(i * rows_ / count_, 1, one);
    gathered.insert(gathered.end(), bytes.begin(), bytes.end());
  }
  scratch = std::move(gathered);
  return scratch;
}

LayerTrial::LayerTrial(const QuantizedTensorInfo& planned, const RowSource& rows,
                       const std::string& path, ChunkQuantizer& quantizer)
    : planned_(planned), sample_(rows, planned.rows()), path_(path), quantizer_(quantizer) {}

void LayerTrial::round_activations(const InputStatistics& facts, std::span<const TimeSpan> times) {
  facts_ = &facts;
  times_ = times;
  look_at_weights();
}

double LayerTrial::output_nmse(const LayerChoice& choice) {
  QuantizedTensorInfo info = choice.info;
  info.shape[0] = sample_.count();
  const ErrorSums outputs =
      quantizer_.quantize(info, sample_, 0, sample_.count(), choice.input(), path_).output_error;
  if (facts_ == nullptr || !(outputs.ww > 0)) return outputs.nmse();
  return outputs.nmse() + activation_error(choice) / outputs.ww;
}

// Rounding to steps of d adds noise of variance d^2 / 12 to every input: sum over groups of time of
// n d^2 / 12, times the squared weights that it meets.
double LayerTrial::activation_error(const LayerChoice& choice) const {
  double weights = 0;
  for (size_t c = 0; c < weight_squares_.size(); ++c) {
    const double factor = choice.equalization.empty() ? 1.0 : double{choice.equalization[c]};
    weights += factor * factor * weight_squares_[c];
  }
  const TimeMeans means = means_by_time(*facts_, times_);
  const std::vector<TimeGroup> groups = activation_groups(*facts_, times_, choice.equalization);
  double noise = 0;
  for (size_t g = 0; g < groups.size(); ++g) {
    const double step = double{groups[g].activation_scale};
    noise += means.held_out_weights[g] * step * step / 12;
  }
  return noise * weights;
}

const std::vector<float>& LayerTrial::weight_ranges() {
  look_at_weights();
  return weight_ranges_;
}

void LayerTrial::look_at_weights() {
  if (!weight_ranges_.empty()) return;
  const uint64_t cols = planned_.cols();
  const uint64_t channels = planned_.shape[1];
  const uint64_t span = cols / channels;
  weight_ranges_.assign(channels, 0.0F);
  weight_squares_.assign(channels, 0.0);
  std::vector<std::byte> scratch;
  std::vector<float> row(cols);
  for (uint64_t r = 0; r < sample_.count(); ++r) {
    (void)convert_to_f32(planned_.source_dtype, sample_.rows(r, 1, scratch).data(), cols,
                         row.data());
    for (uint64_t c = 0; c < cols; ++c) {
      weight_ranges_[c / span] = std::max(weight_ranges_[c / span], std::abs(row[c]));
      weight_squares_[c / span] += double{row[c]} * double{row[c]};
    }
  }
}

}  // namespace arrow_quant
