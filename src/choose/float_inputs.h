// Layers whose inputs 8 bits are too few for. Pure functions.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "arrow_quant/calibration.h"

namespace arrow_quant {

/// Where rounding inputs to 8 bits would move the prediction mostly through a few layers, at most
/// one in six, these: weights by their names. Empty where `sensitivities` are not known.
std::set<std::string> float_input_layers(const std::vector<InputStatistics>& inputs,
                                         const std::map<std::string, double>& sensitivities);

}  // namespace arrow_quant
