// The figures of a whole model from those of its tensors, the same for quantizing and validating.
#pragma once

#include <cstdint>
#include <string>

#include "arrow_quant/quantized_tensor.h"

namespace arrow_quant {

/// What a tensor is judged by: its outputs where their inputs are known, else its weights.
inline double accuracy_of(const QuantizedTensorInfo& info) noexcept {
  return info.output_cosine.value_or(info.cosine);
}

/// Mean over quantized tensors weighted by elements, and the worst of them.
class QualitySummary {
 public:
  void add(const std::string& name, uint64_t elements, double cosine) {
    weighted_ += cosine * static_cast<double>(elements);
    elements_ += elements;
    if (worst_layer_.empty() || cosine < worst_) {
      worst_ = cosine;
      worst_layer_ = name;
    }
  }

  /// 1 when nothing was quantized.
  double mean() const noexcept {
    return elements_ == 0 ? 1.0 : weighted_ / static_cast<double>(elements_);
  }
  double worst() const noexcept { return worst_; }
  const std::string& worst_layer() const noexcept { return worst_layer_; }
  uint64_t elements() const noexcept { return elements_; }

 private:
  double weighted_ = 0;
  uint64_t elements_ = 0;
  double worst_ = 1.0;
  std::string worst_layer_;
};

}  // namespace arrow_quant
