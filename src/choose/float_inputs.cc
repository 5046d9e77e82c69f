#include "choose/float_inputs.h"

#include <algorithm>
#include <functional>
#include <utility>

namespace arrow_quant {
namespace {

constexpr double kMost = 0.98;  // of what rounding does to the prediction
constexpr size_t kFew = 6;      // one layer in so many at most

/// Square error of rounding to steps of the whole range, relative to the energy of the input.
double rounding_nmse(const InputStatistics& input) {
  double error = 0, energy = 0;
  for (const TimeBin& bin : input.bins) {
    const double low = double{*std::ranges::min_element(bin.low)};
    const double high = double{*std::ranges::max_element(bin.high)};
    const double step = (high - low) / 255;
    error +=
        static_cast<double>(bin.tokens) * static_cast<double>(bin.low.size()) * step * step / 12;
    for (const double squares : bin.squares) energy += squares;
  }
  return energy > 0 ? error / energy : 0;
}

}  // namespace

std::set<std::string> float_input_layers(const EachInput& inputs,
                                         const std::map<std::string, double>& sensitivities) {
  std::vector<std::pair<double, std::string>> effects;
  double total = 0;
  inputs([&](const InputStatistics& input) {
    const double nmse = rounding_nmse(input);
    for (const CalibratedLayer& layer : input.layers) {
      const auto known = sensitivities.find(layer.name);
      const double effect = known == sensitivities.end() ? 0 : known->second * nmse;
      effects.emplace_back(effect, layer.name);
      total += effect;
    }
  });
  std::ranges::sort(effects, std::greater<>());
  std::set<std::string> found;
  double sum = 0;
  for (const auto& [effect, layer] : effects) {
    if (sum >= kMost * total) break;
    if ((found.size() + 1) * kFew > effects.size()) return {};
    found.insert(layer);
    sum += effect;
  }
  return found;
}

}  // namespace arrow_quant
