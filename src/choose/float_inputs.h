// Layers whose inputs need more than 8 bits. Pure functions.
#pragma once

#include <map>
#include <set>
#include <string>

#include "calibrate/each_input.h"

namespace arrow_quant {

/// The names of the weights whose inputs should stay floats: where a few layers, at most one in
/// six, cause most of the error of the prediction when inputs are rounded to 8 bits, these layers.
/// Empty where `sensitivities` are not known.
std::set<std::string> float_input_layers(const EachInput& inputs,
                                         const std::map<std::string, double>& sensitivities);

}  // namespace arrow_quant
