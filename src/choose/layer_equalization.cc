#include "choose/layer_equalization.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/text.h"
#include "quantize/equalize.h"

namespace arrow_quant {
namespace {

constexpr std::array kAlphas = {0.125F, 0.25F, 0.375F, 0.5F, 0.75F, 1.0F};
constexpr double kWorthwhile = 0.99;  // of the error, at least
// What is expected of ranges, which do not know how inputs go together, is often too much.
constexpr double kDoubt = 1.1;
constexpr double kHopeless = 1.3;  // times the least: larger alphas are worse still

/// Of the error that stays when the bytes of the factors are spent on codes: one bit takes it to a
/// quarter.
double fair_share(const QuantizedTensorInfo& info) noexcept {
  const double bits = 8.0 * static_cast<double>(info.shape[1]) /
                      (static_cast<double>(info.rows()) * static_cast<double>(info.cols()));
  return std::min(kWorthwhile, std::pow(4.0, -bits));
}

}  // namespace

ActivationSizes::ActivationSizes(const InputStatistics& facts, uint64_t channels)
    : energy_(channels, 0.0F) {
  std::vector<double> squares(channels, 0.0);
  for (const TimeBin& bin : facts.bins) {
    const uint64_t span = bin.low.size() / channels;
    std::vector<float>& range = ranges_.emplace_back(channels, 0.0F);
    for (size_t c = 0; c < bin.low.size(); ++c) {
      range[c / span] = std::max({range[c / span], std::abs(bin.low[c]), std::abs(bin.high[c])});
      squares[c / span] += bin.squares[c];
    }
  }
  for (size_t j = 0; j < channels; ++j) energy_[j] = static_cast<float>(std::sqrt(squares[j]));
}

std::vector<float> ActivationSizes::factors(Pooling pooling, const ChannelSizes& weights,
                                            float alpha) const {
  if (pooling == Pooling::kEnergy) {
    return equalization_factors(energy_, weights.root_mean_square, alpha);
  }
  return equalization_factors(pool_ranges(pooling, ranges_, weights.largest), weights.largest,
                              alpha);
}

LayerChoice with_factors(const LayerChoice& plain, std::vector<float> factors) {
  LayerChoice choice = plain;
  const uint64_t span = choice.info.cols() / factors.size();
  if (needs_statistics(choice.info.spec.method)) {
    choice.factor = std::make_shared<const FeedbackFactor>(equalized(*plain.factor, factors, span));
    choice.importance = choice.factor->importance;
  } else {
    choice.factor = nullptr;
    for (size_t c = 0; c < choice.importance.size(); ++c) {
      choice.importance[c] /= factors[c / span] * factors[c / span];
    }
  }
  choice.equalization = std::move(factors);
  return choice;
}

std::optional<FactorForm> best_form(double plain,
                                    const std::function<double(Pooling, float)>& error) {
  double lowest = plain;
  FactorForm best{.pooling = Pooling::kMax, .alpha = 0};
  const auto consider = [&](Pooling pooling, float alpha) {
    const double found = error(pooling, alpha);
    const double doubted = pooling == Pooling::kEnergy ? found : found * kDoubt;
    if (doubted < lowest) {
      lowest = doubted;
      best = {.pooling = pooling, .alpha = alpha, .error = doubted};
    }
    return found < lowest * kHopeless;
  };
  for (const Pooling pooling : {Pooling::kEnergy, Pooling::kMax}) {
    for (const float alpha : kAlphas) {
      if (!consider(pooling, alpha)) break;
    }
  }
  if (best.alpha == 0) return std::nullopt;
  if (best.pooling == Pooling::kMax) {
    const float found = best.alpha;
    for (const Pooling pooling : {Pooling::kSpearman, Pooling::kEma}) consider(pooling, found);
  }
  return best;
}

void equalize_layer(const InputStatistics& facts, LayerTrial& trial, LayerChoice& best,
                    double& min_error, nlohmann::json& tried) {
  if (facts.bins.empty()) return;
  const ActivationSizes sizes(facts, best.info.shape[1]);
  const ChannelSizes& weights = trial.weight_sizes();
  const LayerChoice plain = best;
  const double share = fair_share(plain.info), without = trial.expected_nmse(plain, {});
  const auto form = best_form(without, [&](Pooling p, float a) {
    return trial.expected_nmse(plain, sizes.factors(p, weights, a));
  });
  if (!form) return;
  nlohmann::json& candidate = tried.emplace_back(
      nlohmann::json{{"method", to_string(plain.info.spec.method)},
                     {"param_encoding", to_string(plain.info.spec.param_encoding)},
                     {"equalization", to_string(form->pooling)},
                     {"alpha", rounded(form->alpha)}});
  if (form->error >= share * without) {  // hardly ever pays for its bytes then: no trial
    candidate["expected_nmse"] = rounded(form->error);
    return;
  }
  LayerChoice choice = with_factors(plain, sizes.factors(form->pooling, weights, form->alpha));
  const double error = trial.output_nmse(choice);
  candidate["output_nmse"] = rounded(error);
  if (error >= share * min_error) return;
  min_error = error;
  best = std::move(choice);
}

}  // namespace arrow_quant
