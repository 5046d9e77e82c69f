#include "pipeline/layer_equalization.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/text.h"
#include "quantize/equalize.h"

namespace arrow_quant {
namespace {

constexpr std::array kAlphas = {0.25F, 0.5F, 0.75F};
constexpr double kWorthwhile = 0.99;  // of the error, at least

/// Largest |activation| of each input channel in each span of time.
std::vector<std::vector<float>> ranges_by_time(const InputStatistics& facts, uint64_t channels) {
  std::vector<std::vector<float>> ranges;
  for (const TimeBin& bin : facts.bins) {
    const uint64_t span = bin.low.size() / channels;
    std::vector<float>& range = ranges.emplace_back(channels, 0.0F);
    for (size_t c = 0; c < bin.low.size(); ++c) {
      range[c / span] = std::max({range[c / span], std::abs(bin.low[c]), std::abs(bin.high[c])});
    }
  }
  return ranges;
}

/// `plain` with factors; without a factor of its own yet.
LayerChoice with_factors(const LayerChoice& plain, std::vector<float> factors) {
  LayerChoice choice = plain;
  const uint64_t span = choice.info.cols() / factors.size();
  for (size_t c = 0; c < choice.importance.size(); ++c) {
    choice.importance[c] /= factors[c / span] * factors[c / span];
  }
  choice.equalization = std::move(factors);
  choice.factor = nullptr;
  return choice;
}

/// Of the error that stays when the bytes of the factors are spent on codes: one bit takes it to a
/// quarter.
double fair_share(const QuantizedTensorInfo& info) noexcept {
  const double bits = 32.0 * static_cast<double>(info.shape[1]) /
                      (static_cast<double>(info.rows()) * static_cast<double>(info.cols()));
  return std::min(kWorthwhile, std::pow(4.0, -bits));
}

}  // namespace

void equalize_layer(const InputStatistics& facts, const MakeFactor& make_factor, LayerTrial& trial,
                    LayerChoice& best, double& least, nlohmann::json& tried) {
  if (facts.bins.empty()) return;
  const auto ranges = ranges_by_time(facts, best.info.shape[1]);
  const std::vector<float>& weights = trial.weight_ranges();
  const AffineSpec wanted = best.info.spec;
  // The search ranks what is to be fed back: a factorization for each would cost more than it
  // tells.
  LayerChoice plain = best;
  if (needs_statistics(wanted.method)) plain.info.spec.method = Method::kSearch;
  const double without = plain.info.spec.method == wanted.method ? least : trial.output_nmse(plain);
  double lowest = without;
  Pooling pooling = Pooling::kMax;
  float alpha = 0;
  LayerChoice found = plain;
  const auto consider = [&](Pooling p, float a) {
    LayerChoice choice =
        with_factors(plain, equalization_factors(pool_ranges(p, ranges, weights), weights, a));
    const double error = trial.output_nmse(choice);
    if (error >= lowest) return;
    lowest = error, pooling = p, alpha = a;
    found = std::move(choice);
  };
  for (const float a : kAlphas) consider(Pooling::kMax, a);
  if (alpha == 0) return;
  const float first = alpha;
  for (const Pooling p : {Pooling::kSpearman, Pooling::kEma}) consider(p, first);

  found.info.spec = wanted;
  double error = lowest;
  if (needs_statistics(wanted.method)) {
    const uint64_t span = found.info.cols() / found.equalization.size();
    found.factor = make_factor(equalized(*found.gram, found.equalization, span));
    if (!found.has_factor()) return;
    found.importance = found.factor->importance;
    error = trial.output_nmse(found);
  }
  tried.push_back({{"method", to_string(wanted.method)},
                   {"param_encoding", to_string(wanted.param_encoding)},
                   {"equalization", to_string(pooling)},
                   {"alpha", rounded(alpha)},
                   {"output_nmse", rounded(error)}});
  if (error >= least * fair_share(found.info)) return;
  least = error;
  best = std::move(found);
}

}  // namespace arrow_quant
