#include "pipeline/layer_time.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "core/text.h"

namespace arrow_quant {
namespace {

constexpr double kWorthwhile = 0.99;  // of the error, at least

/// Of the error that stays when the bytes of the biases are spent on codes: one bit takes it to a
/// quarter.
double fair_share(const QuantizedTensorInfo& info, size_t groups) noexcept {
  const double bits = 16.0 * static_cast<double>(groups) / static_cast<double>(info.cols());
  return std::min(kWorthwhile, std::pow(4.0, -bits));
}

}  // namespace

void correct_over_time(const InputStatistics& facts, std::span<const TimeSpan> times,
                       const Centre& centre, LayerTrial& trial, LayerChoice& best, double& least,
                       nlohmann::json& tried) {
  const LayerChoice plain = best;
  double lowest = least;
  const std::vector<TimeSpan> whole = {{times.front().begin, times.back().end}};
  for (const std::span<const TimeSpan> spans : {std::span<const TimeSpan>(whole), times}) {
    auto correction = std::make_shared<TimeCorrection>();
    for (const TimeSpan& span : spans) {
      correction->groups.push_back({.begin = span.begin, .end = span.end});
    }
    correction->means = means_by_time(facts, spans);
    LayerChoice choice = plain;
    if (needs_statistics(choice.info.spec.method)) {
      const Centred centred = centre(correction->means);
      if (centred.factor == nullptr || !centred.factor->usable) continue;
      choice.gram = centred.gram;
      choice.factor = centred.factor;
      choice.importance = centred.factor->importance;
    }
    choice.time = std::move(correction);
    const double error = trial.output_nmse(choice);
    tried.push_back({{"method", to_string(choice.info.spec.method)},
                     {"param_encoding", to_string(choice.info.spec.param_encoding)},
                     {"time_groups", spans.size()},
                     {"output_nmse", rounded(error)}});
    // What pays is judged against the plain layer; of two that do, the better one for its bytes.
    const double share = error / fair_share(choice.info, spans.size());
    if (share >= lowest) continue;
    lowest = share;
    least = error;
    best = std::move(choice);
    if (spans.size() == times.size()) break;
  }
}

}  // namespace arrow_quant
