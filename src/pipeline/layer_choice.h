// How a layer with a known input is quantized: the candidate whose outputs move least on inputs
// that were held out, tried on a sample of the layer's rows.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "arrow_quant/quantized_tensor.h"
#include "pipeline/calibration_source.h"
#include "pipeline/chunk_quantizer.h"

namespace arrow_quant {

struct ChoiceOptions {
  bool any_method = false;      ///< else the planned one
  bool any_encoding = false;    ///< of the parameters; else the planned one
  bool matrices = true;         ///< there is memory for them; else the diagonal has to do
  bool residual_first = false;  ///< residual binary before GPTQ where both are as good
};

/// Whether a method runs only where the input of the layer is known.
constexpr bool needs_statistics(Method method) noexcept {
  return method == Method::kGptq || method == Method::kR2q;
}

struct LayerChoice {
  QuantizedTensorInfo info;       ///< as planned, with what was decided
  std::vector<float> importance;  ///< of columns
  std::shared_ptr<const InputMatrices> matrices;

  /// What the chunks of the layer are to be quantized with; valid as long as this object.
  ChunkInput input() const;
};

/// Decide about the layer `planned`, which reads input number `input` of `source`. `path` is for
/// messages.
LayerChoice choose_layer(const QuantizedTensorInfo& planned, const RowSource& rows,
                         const std::string& path, CalibrationSource& source, size_t input,
                         const ChoiceOptions& options, ChunkQuantizer& quantizer);

}  // namespace arrow_quant
