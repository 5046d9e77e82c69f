#include "choose/layer_trial.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "choose/rounding_costs.h"
#include "kernels/convert.h"

namespace arrow_quant {
namespace {

constexpr uint64_t kSampleRows = 256;  // one block of error feedback
constexpr double kWorthwhile =
    0.95;  // of the error: below that, ranges by time pay for their bytes

}  // namespace

ChunkInput LayerChoice::input() const {
  return {.importance = importance,
          .factor = needs_statistics(info.spec.method) ? factor.get() : nullptr,
          .equalization = equalization,
          .time = time.get(),
          .held_out = matrices->judge(),
          .fitted = gram == nullptr || gram->channels() == 0 ? nullptr : gram.get(),
          .row_gain = row_gain};
}

SampledRows::SampledRows(const RowSource& all, uint64_t rows, uint64_t max_rows)
    : all_(all), rows_(rows), count_(std::min(rows, max_rows)) {}

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
    : planned_(planned),
      sample_(rows, planned.rows(), kSampleRows),
      path_(path),
      quantizer_(quantizer) {}

void LayerTrial::round_activations(const InputStatistics& facts, std::span<const TimeSpan> times) {
  facts_ = &facts;
  times_ = times;
}

double LayerTrial::output_nmse(LayerChoice& choice) {
  choice.sample = std::make_shared<const QuantizedChunk>(
      quantizer_.quantize(sampled(choice), sample_, 0, sample_.count(), choice.input(), path_));
  return nmse(choice, choice.sample->output_error);
}

double LayerTrial::rescaled_nmse(LayerChoice& choice) {
  auto chunk = std::make_shared<QuantizedChunk>(*choice.sample);
  quantizer_.rescale(sampled(choice), sample_, choice.input(), path_, *chunk);
  choice.sample = std::move(chunk);
  return nmse(choice, choice.sample->output_error);
}

double LayerTrial::corrected_nmse(LayerChoice& choice) {
  auto chunk = std::make_shared<QuantizedChunk>(*choice.sample);
  quantizer_.correct_means(sampled(choice), sample_, choice.input(), path_, *chunk);
  choice.sample = std::move(chunk);
  return nmse(choice, choice.sample->output_error);
}

QuantizedTensorInfo LayerTrial::sampled(const LayerChoice& choice) const {
  QuantizedTensorInfo info = choice.info;
  info.keep_rows(sample_.count());
  return info;
}

double LayerTrial::nmse(const LayerChoice& choice, const ErrorSums& outputs) {
  if (facts_ == nullptr || !(outputs.ww > 0)) return outputs.nmse();
  double error = 0;
  (void)best_ranges(choice, error);
  return outputs.nmse() + error / outputs.ww;
}

double LayerTrial::expected_nmse(const LayerChoice& plain, std::span<const float> factors) {
  look_at_weights();
  const ErrorSums& outputs = plain.sample->output_error;
  const RoundingCosts costs(plain, weights_, plain.sample->offset_unit);
  const double before = costs({}), after = factors.empty() ? before : costs(factors);
  const double expected = before > 0 ? outputs.nmse() * (after / before) : outputs.nmse();
  if (facts_ == nullptr || !(outputs.ww > 0)) return expected;
  const ReadingLayer layer = reading_layer();
  const auto groups = activation_groups(*facts_, times_, layer, factors, true);
  return expected + activation_error(*facts_, groups, layer, factors) / outputs.ww;
}

std::vector<TimeGroup> LayerTrial::activation_ranges(const LayerChoice& choice) {
  double error = 0;
  return best_ranges(choice, error);
}

std::vector<TimeGroup> LayerTrial::best_ranges(const LayerChoice& choice, double& error) {
  const ReadingLayer layer = reading_layer();
  const auto try_on = [&](std::span<const TimeSpan> spans, double& cost) {
    std::vector<TimeGroup> groups = activation_groups(*facts_, spans, layer, choice.equalization);
    cost = activation_error(*facts_, groups, layer, choice.equalization);
    return groups;
  };
  const std::vector<TimeSpan> whole = {{times_.front().begin, times_.back().end}};
  std::vector<TimeGroup> one = try_on(whole, error);
  if (times_.size() == 1) return one;
  double error_by_time = 0;
  std::vector<TimeGroup> many = try_on(times_, error_by_time);
  const bool has_biases = choice.time != nullptr && choice.time->groups.size() == times_.size();
  if (!has_biases && !(error_by_time < kWorthwhile * error)) return one;
  error = error_by_time;
  return many;
}

const ChannelSizes& LayerTrial::weight_sizes() {
  look_at_weights();
  return sizes_;
}

ReadingLayer LayerTrial::reading_layer() {
  look_at_weights();
  return {.weights = weights_, .cols = planned_.cols(), .energy = energy_};
}

void LayerTrial::look_at_weights() {
  if (!weights_.empty()) return;
  const uint64_t cols = planned_.cols(), rows = sample_.count();
  const uint64_t channels = planned_.shape[1];
  const uint64_t span = cols / channels;
  weights_.resize(rows * cols);
  energy_.assign(cols, 0.0);
  sizes_ = {std::vector<float>(channels, 0.0F), std::vector<float>(channels, 0.0F)};
  std::vector<std::byte> scratch;
  for (uint64_t r = 0; r < rows; ++r) {
    float* row = weights_.data() + r * cols;
    (void)convert_to_f32(planned_.source_dtype, sample_.rows(r, 1, scratch).data(), cols, row);
    for (uint64_t c = 0; c < cols; ++c) {
      sizes_.largest[c / span] = std::max(sizes_.largest[c / span], std::abs(row[c]));
      energy_[c] += double{row[c]} * double{row[c]};
    }
  }
  for (uint64_t j = 0; j < channels; ++j) {
    double sum = 0;
    for (uint64_t c = j * span; c < (j + 1) * span; ++c) sum += energy_[c];
    sizes_.root_mean_square[j] =
        static_cast<float>(std::sqrt(sum / static_cast<double>(rows * span)));
  }
}

}  // namespace arrow_quant
