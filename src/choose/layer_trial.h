// The output error of a choice about a layer, measured on a sample of its rows.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "arrow_quant/quantized_tensor.h"
#include "choose/activation_ranges.h"
#include "choose/calibration_source.h"
#include "quantize/chunk_quantizer.h"
#include "quantize/equalize.h"

namespace arrow_quant {

/// Whether a method runs only where the input of the layer is known.
constexpr bool needs_statistics(Method method) noexcept {
  return method == Method::kGptq || method == Method::kR2q;
}

/// How a layer is quantized, and what is known about its input.
struct LayerChoice {
  QuantizedTensorInfo info;       ///< as planned, with what was decided
  std::vector<float> importance;  ///< of columns, after equalization
  std::vector<float> equalization;
  std::shared_ptr<const InputMatrices> matrices;
  /// To fit to, before equalization; without the means of inputs when biases correct these.
  std::shared_ptr<const GramMatrix> gram;
  std::shared_ptr<const FeedbackFactor> factor;  ///< of `gram` after equalization; null: unknown
  std::shared_ptr<const TimeCorrection> time;    ///< null: nothing depends on time
  std::optional<RowGain> row_gain;
  /// The quantized sample of rows of the last trial.
  std::shared_ptr<const QuantizedChunk> sample;

  bool has_factor() const noexcept { return factor != nullptr && factor->usable; }
  /// The input for quantizing the chunks of the layer; valid as long as this object.
  ChunkInput input() const;
};

/// Rows of a layer, evenly spread over it.
class SampledRows final : public RowSource {
 public:
  /// At most `max_rows` of `rows` rows.
  SampledRows(const RowSource& all, uint64_t rows, uint64_t max_rows);
  uint64_t count() const noexcept { return count_; }
  std::span<const std::byte> rows(uint64_t row, uint64_t count,
                                  std::vector<std::byte>& scratch) const override;

 private:
  const RowSource& all_;
  uint64_t rows_;
  uint64_t count_;
};

class LayerTrial {
 public:
  /// Of the layer `planned`; `path` is for messages.
  LayerTrial(const QuantizedTensorInfo& planned, const RowSource& rows, const std::string& path,
             ChunkQuantizer& quantizer);

  /// From now on, errors are with static int8 activations: one range for all of `times`, or one for
  /// each where that pays for its bytes. Both must outlive this object.
  void round_activations(const InputStatistics& facts, std::span<const TimeSpan> times);

  /// Errors of the outputs of the sample over held-out inputs, relative to their energy. Sets
  /// `choice.sample`.
  double output_nmse(LayerChoice& choice);

  /// The same without quantizing again, where `choice.sample` is of a choice that differs in its
  /// row gain only, or in its correction over time only.
  double rescaled_nmse(LayerChoice& choice);
  double corrected_nmse(LayerChoice& choice);

  /// An estimate for `plain`, which was tried, with these factors: a few of the rows are rounded
  /// without feedback, and each error is weighted by its cost. Precise enough to rank factors.
  double expected_nmse(const LayerChoice& plain, std::span<const float> factors);

  /// Whether the sample is the whole layer.
  bool is_whole() const noexcept { return sample_.count() == planned_.rows(); }

  /// The ranges of static activations for `choice`, whose biases, if it has some, decide how many.
  std::vector<TimeGroup> activation_ranges(const LayerChoice& choice);

  /// Each input channel's largest |weight| in the sample, and the root of its mean square.
  const ChannelSizes& weight_sizes();

 private:
  double nmse(const LayerChoice& choice, const ErrorSums& outputs);
  QuantizedTensorInfo sampled(const LayerChoice& choice) const;
  void look_at_weights();
  ReadingLayer reading_layer();
  std::vector<TimeGroup> best_ranges(const LayerChoice& choice, double& error);

  const QuantizedTensorInfo& planned_;
  SampledRows sample_;
  const std::string& path_;
  ChunkQuantizer& quantizer_;
  std::vector<float> weights_;  // of the sample
  std::vector<double> energy_;  // of each column: sum of the squares of these
  ChannelSizes sizes_;
  const InputStatistics* facts_ = nullptr;
  std::span<const TimeSpan> times_;
};

}  // namespace arrow_quant
