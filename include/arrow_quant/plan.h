// What the plan stage hands on: for every tensor of every component, what happens to it and why.
//
// A plan is complete and final before any work starts; it never changes silently afterwards.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "arrow_quant/model_index.h"
#include "arrow_quant/quantized_tensor.h"

namespace arrow_quant {

/// How group parameters are stored, or kAuto: `row` for 8 bits, `two_level` for 2 and 4 bits where
/// a row has at least 128 inputs, else `fp16` (docs/reference/format.md). kResidualBinary is for 2
/// bits; layers of 4 bits are `two_level` then.
enum class ParamEncodingChoice : uint8_t { kAuto, kTwoLevel, kFp16, kRow, kResidualBinary };

/// What a user says about the tensors that a glob matches. The last matching rule wins.
struct LayerRule {
  std::string glob;   ///< `*`, `?`, `[...]` on the tensor's name, with or without ".weight"
  int bit_width = 0;  ///< 2, 4 or 8; 0: not quantized
};

/// What an allocation of bits says about one weight. Rules of the user win over it.
struct LayerBits {
  std::string component;  ///< as ModelIndex::component
  std::string name;       ///< of the weight, as in the file
  int bit_width = 0;      ///< 2, 4 or 8; 0: not quantized
  int group_size = 0;     ///< 0: as PlanOptions says
  std::string reason;     ///< of the tensor's plan
};

/// What a weight is to its network, told by whoever knows the network. Names tell the rest.
struct TensorRole {
  std::string component;   ///< as ModelIndex::component
  std::string name;        ///< of a tensor, or a glob of names; names come before globs
  std::string role;        ///< "embedding", "router", ...; empty: as the shape tells
  bool quantize = true;    ///< whether weights of this role are quantized
  std::string known_from;  ///< "class" or "run"
  int row_dimensions = 0;  ///< as QuantizedTensorInfo has them; 0: as name and shape tell
};

/// Everything that decides a plan.
struct PlanOptions {
  int bit_width = 4;                ///< 2, 4 or 8
  int group_size = 128;             ///< a multiple of 8, of 32 for two_level and residual_binary
  Method method = Method::kSearch;  ///< how codes and parameters are found
  bool choose_method = false;  ///< where a layer's input is known: whatever moves outputs least
  ParamEncodingChoice param_encoding = ParamEncodingChoice::kAuto;  ///< how these are stored
  std::vector<LayerRule> layer_rules;   ///< the last one that matches wins
  std::vector<LayerBits> allocation;    ///< for weights that would get `bit_width` bits
  std::vector<TensorRole> roles;        ///< of the tensors that somebody knows
  std::vector<std::string> components;  ///< empty: the denoiser of a pipeline
  std::string modality;                 ///< empty: detect; "unknown": detect, or leave it at that
  TensorNames names;                    ///< of tensors; rules and allocations see these
};

/// What happens to one tensor.
struct TensorPlan {
  uint32_t tensor = 0;                  ///< index into ModelIndex::tensors
  Encoding encoding = Encoding::kCopy;  ///< kCopy: not quantized
  AffineSpec spec;                      ///< meaningless for copies
  int row_dimensions = 1;               ///< as QuantizedTensorInfo has them; 1 for copies
  bool fixed = false;      ///< a rule or an allocation decided; the fallback leaves it alone
  std::string reason;      ///< "linear weight", "kept: norm", "rule '*.to_q=8'", ...
  std::string role;        ///< "linear layer", "norm", "embedding", ...
  std::string known_from;  ///< where the role comes from: "class", "run", "name" or "shape"
};

/// What happens to the tensors of one component.
struct ComponentPlan {
  uint32_t component = 0;           ///< index into ModelDirectory::components
  std::vector<TensorPlan> tensors;  ///< in source order
  uint64_t source_bytes = 0;        ///< bytes of the weight files
  uint64_t planned_bytes = 0;  ///< bytes of codes, parameters and copies (without Parquet overhead)
};

/// What happens to a model.
struct Plan {
  std::string modality;                   ///< "text", "code", "image", "audio", "unknown"
  std::string modality_reason;            ///< the rule that fired
  std::vector<ComponentPlan> components;  ///< the quantized ones only
};

}  // namespace arrow_quant
