// What calibration knows about the input of a tensor whose codes exist already.
#pragma once

#include <memory>
#include <optional>

#include "arrow_quant/quantized_tensor.h"
#include "choose/calibration_source.h"
#include "quantize/chunk_quantizer.h"

namespace arrow_quant {

class PrecomputedInput {
 public:
  /// Of the weight that `info` describes; `calibration` may be null.
  PrecomputedInput(CalibrationSource* calibration, const QuantizedTensorInfo& info);

  /// What `chunk` is measured by; valid until the next call.
  ChunkInput of(const QuantizedChunk& chunk);

 private:
  CalibrationSource* calibration_;
  std::optional<size_t> input_;
  std::shared_ptr<const InputMatrices> matrices_;
  TimeCorrection time_;
};

}  // namespace arrow_quant
