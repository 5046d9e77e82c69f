// Equalization (smoothing) of one layer: scales of its input channels, used only where they lower
// the output error by more than the same bytes would as wider codes.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <vector>

#include "choose/layer_trial.h"

namespace arrow_quant {

/// Sizes of the activations of each input channel, by time and over all times.
class ActivationSizes {
 public:
  ActivationSizes(const InputStatistics& facts, uint64_t channels);

  std::vector<float> factors(Pooling pooling, const ChannelSizes& weights, float alpha) const;

 private:
  std::vector<std::vector<float>> ranges_;
  std::vector<float> energy_;
};

/// `plain`, which has no factors, with these.
LayerChoice with_factors(const LayerChoice& plain, std::vector<float> factors);

/// Which factors: the exponent of the activations, and how these are pooled over time.
struct FactorForm {
  Pooling pooling = Pooling::kMax;
  float alpha = 0;
  double error = 0;  ///< with it
};

/// The form with the least `error`, of those that are tried; nothing when none is below `plain`.
std::optional<FactorForm> best_form(double plain,
                                    const std::function<double(Pooling, float)>& error);

/// Look for factors that lower the output error of `best`, which is `min_error` without them, by
/// more than the same bytes would lower it as wider codes. Change `best` and `min_error` if there
/// are some; add what was tried to `tried`. `facts` are of the layer's input.
void equalize_layer(const InputStatistics& facts, LayerTrial& trial, LayerChoice& best,
                    double& min_error, nlohmann::json& tried);

}  // namespace arrow_quant
