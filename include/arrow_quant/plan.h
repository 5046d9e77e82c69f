// What the plan stage hands on: for every tensor of every component, what happens to it and why.
//
// A plan is complete and final before any work starts; it never changes silently afterwards.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "arrow_quant/quantized_tensor.h"

namespace arrow_quant {

struct TensorPlan {
  uint32_t tensor = 0;  ///< index into ModelIndex::tensors
  Encoding encoding = Encoding::kCopy;
  AffineSpec spec;     ///< meaningless for copies
  std::string reason;  ///< "linear or convolution weight", "kept: norm", "rule '*.to_q=8'", ...
};

struct ComponentPlan {
  uint32_t component = 0;  ///< index into ModelDirectory::components
  std::vector<TensorPlan> tensors;
  uint64_t source_bytes = 0;  ///< bytes of the weight files
  uint64_t planned_bytes = 0; ///< bytes of codes, parameters and copies (without Parquet overhead)
};

struct Plan {
  std::string modality;         ///< "text", "code", "image", "audio"
  std::string modality_reason;  ///< the rule that fired
  std::vector<ComponentPlan> components;  ///< the quantized ones only
};

}  // namespace arrow_quant
