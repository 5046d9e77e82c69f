// A look at all inputs of a model without having them in memory at once.
#pragma once

#include <functional>
#include <vector>

#include "arrow_quant/calibration.h"

namespace arrow_quant {

/// Calls visit(facts) for every input, in order; each call of it goes through all of them anew.
using EachInput = std::function<void(const std::function<void(const InputStatistics&)>& visit)>;

/// Of inputs that lie in memory, which must outlive the result.
inline EachInput each_of(const std::vector<InputStatistics>& inputs) {
  return [&inputs](const std::function<void(const InputStatistics&)>& visit) {
    for (const InputStatistics& input : inputs) visit(input);
  };
}

}  // namespace arrow_quant
