// How a layer with a known input is quantized: the candidate with the smallest output error on
// inputs that were held out, tried on a sample of the layer's rows. Methods and encodings come
// first, then what depends on time, then equalization; each is used only where it pays.
#pragma once

#include <string>
#include <vector>

#include "choose/layer_trial.h"
#include "choose/time_groups.h"

namespace arrow_quant {

struct ChoiceOptions {
  bool any_method = false;      ///< else the planned one
  bool any_encoding = false;    ///< of the parameters; else the planned one
  bool residual_first = false;  ///< residual binary before GPTQ where both are as good
  bool equalize = false;
  std::vector<TimeSpan> times = {};  ///< groups of time; one: nothing depends on it
  bool time_aware = false;
  bool has_bias = false;            ///< beside the weight, which bias correction can be added to
  bool static_activations = false;  ///< 8 bits, by group of time
  bool matrices = true;  ///< there is memory for Gram matrices; else only their diagonals are used
};

/// What is tried first: the preferred method and encoding, without anything that depends on time or
/// channels.
LayerChoice first_choice(const QuantizedTensorInfo& planned, CalibrationSource& source,
                         size_t input, const ChoiceOptions& options);

/// Decide about the layer `planned`, which reads input number `input` of `source`. `path` is for
/// messages.
LayerChoice choose_layer(const QuantizedTensorInfo& planned, const RowSource& rows,
                         const std::string& path, CalibrationSource& source, size_t input,
                         const ChoiceOptions& options, ChunkQuantizer& quantizer);

}  // namespace arrow_quant
