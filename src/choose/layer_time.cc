#include "choose/layer_time.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "core/text.h"
#include "quantize/downdate.h"

namespace arrow_quant {
namespace {

constexpr double kWorthwhile = 0.99;  // of the error, at least
// Part of the energy that is left without the means: below that, damping hides what is to be
// gained.
constexpr double kMostlyMeans = 0.1;
constexpr double kDoubt = 1.5;  // a trial may bring so many times what is expected (logs)

/// Of the error that stays when the bytes of the biases are spent on codes: one bit takes it to a
/// quarter.
double fair_share(const QuantizedTensorInfo& info, size_t groups) noexcept {
  const double bits = 16.0 * static_cast<double>(groups) / static_cast<double>(info.cols());
  return std::min(kWorthwhile, std::pow(4.0, -bits));
}

/// What the means add to the Gram matrix, as vectors of which it is the sum of squares.
std::vector<float> directions(const TimeMeans& means) {
  const size_t groups = means.fitted_weights.size();
  std::vector<float> vectors = means.fitted;
  const size_t channels = vectors.size() / groups;
  for (size_t i = 0; i < vectors.size(); ++i) {
    vectors[i] *= static_cast<float>(std::sqrt(means.fitted_weights[i / channels]));
  }
  return vectors;
}

}  // namespace

void correct_over_time(const InputStatistics& facts, std::span<const TimeSpan> times,
                       const Centre& centre, LayerTrial& trial, LayerChoice& best,
                       double& min_error, nlohmann::json& tried) {
  const LayerChoice plain = best;
  const double before = min_error;
  double lowest = min_error;
  const auto consider = [&](LayerChoice choice, size_t groups, double error) {
    tried.push_back({{"method", to_string(choice.info.spec.method)},
                     {"param_encoding", to_string(choice.info.spec.param_encoding)},
                     {"time_groups", groups},
                     {"output_nmse", rounded(error)}});
    // What pays is judged against the plain layer; of two that do, the better one for its bytes.
    const double share = error / fair_share(choice.info, groups);
    if (share >= lowest) return;
    lowest = share;
    min_error = error;
    best = std::move(choice);
  };
  const std::vector<TimeSpan> whole = {{times.front().begin, times.back().end}};
  for (const std::span<const TimeSpan> spans : {std::span<const TimeSpan>(whole), times}) {
    auto correction = std::make_shared<TimeCorrection>();
    for (const TimeSpan& span : spans) {
      correction->groups.push_back({.begin = span.begin, .end = span.end});
    }
    correction->means = means_by_time(facts, spans);
    LayerChoice choice = plain;
    choice.time = correction;
    const double kept = trial.corrected_nmse(choice);
    consider(choice, spans.size(), kept);
    if (needs_statistics(plain.info.spec.method)) {
      // Codes that need not care for the means any more: worth a factor of their own?
      const double left = downdate_cost(*plain.factor, directions(correction->means),
                                        correction->means.fitted_weights.size());
      const double expected = spread_about(correction->means, *plain.gram) < kMostlyMeans
                                  ? 0
                                  : std::min(kept, left * before);
      if (std::pow(expected / before, kDoubt) >= fair_share(plain.info, spans.size())) continue;
      const Centred centred = centre(correction->means);
      if (centred.factor == nullptr || !centred.factor->usable) continue;
      choice.gram = centred.gram;
      choice.factor = centred.factor;
      choice.importance = centred.factor->importance;
      const double error = trial.output_nmse(choice);
      consider(choice, spans.size(), error);
    }
    if (spans.size() == times.size()) break;
  }
}

}  // namespace arrow_quant
