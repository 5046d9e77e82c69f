// What a choice about a layer would mean for its outputs, tried on a sample of its rows.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "arrow_quant/quantized_tensor.h"
#include "pipeline/calibration_source.h"
#include "pipeline/chunk_quantizer.h"

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
  /// What is fitted to, before equalization: less the means when errors of means are corrected.
  std::shared_ptr<const GramMatrix> gram;
  std::shared_ptr<const FeedbackFactor> factor;  ///< of `gram` after equalization; null: unknown
  std::shared_ptr<const TimeCorrection> time;    ///< null: nothing depends on time

  bool has_factor() const noexcept { return factor != nullptr && factor->usable; }
  /// What the chunks of the layer are to be quantized with; valid as long as this object.
  ChunkInput input() const;
};

/// Rows of a layer, evenly spread over it.
class SampledRows final : public RowSource {
 public:
  SampledRows(const RowSource& all, uint64_t rows);
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

  /// From now on, errors are with activations rounded in the range that they have in each of
  /// `times`. Both must outlive this object.
  void round_activations(const InputStatistics& facts, std::span<const TimeSpan> times);

  /// Errors of the outputs of the sample over the inputs that judge, relative to their energy.
  double output_nmse(const LayerChoice& choice);

  /// Largest |weight| of each input channel in the sample.
  const std::vector<float>& weight_ranges();

 private:
  const QuantizedTensorInfo& planned_;
  SampledRows sample_;
  const std::string& path_;
  ChunkQuantizer& quantizer_;
  void look_at_weights();
  double activation_error(const LayerChoice& choice) const;

  std::vector<float> weight_ranges_;
  std::vector<double> weight_squares_;
  const InputStatistics* facts_ = nullptr;
  std::span<const TimeSpan> times_;
};

}  // namespace arrow_quant
