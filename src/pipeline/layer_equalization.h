// Spatial quantization of one layer: factors of its input channels, kept only where they pay.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "pipeline/layer_trial.h"

namespace arrow_quant {

/// Look for factors that lower the output error of `best`, which is `least` without them, by more
/// than the same bytes would lower it as wider codes. Change `best` and `least` if there are some;
/// add what was tried to `tried`. `facts` are of the layer's input.
void equalize_layer(const InputStatistics& facts, LayerTrial& trial, LayerChoice& best,
                    double& least, nlohmann::json& tried);

}  // namespace arrow_quant
