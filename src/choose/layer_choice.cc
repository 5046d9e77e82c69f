#include "choose/layer_choice.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "choose/layer_equalization.h"
#include "choose/layer_time.h"
#include "core/text.h"

namespace arrow_quant {
namespace {

using Json = nlohmann::json;

bool has_sub_groups(const AffineSpec& spec) noexcept { return spec.group_size % 32 == 0; }

std::vector<Method> methods_for(const AffineSpec& planned, const ChoiceOptions& options) {
  if (!options.any_method) {
    // Residual binary codes have two bits; at others the same error feedback runs on even levels.
    const bool residual = planned.bit_width == 2 && has_sub_groups(planned);
    return {planned.method == Method::kR2q && !residual ? Method::kGptq : planned.method};
  }
  if (planned.bit_width != 2 || !has_sub_groups(planned)) return {Method::kGptq, Method::kSearch};
  if (options.residual_first) return {Method::kR2q, Method::kGptq, Method::kSearch};
  return {Method::kGptq, Method::kR2q, Method::kSearch};
}

std::vector<ParamEncoding> encodings_for(const AffineSpec& planned, Method method,
                                         const ChoiceOptions& options) {
  if (method == Method::kR2q) return {ParamEncoding::kResidualBinary};
  const bool grouped = planned.bit_width != 8 && has_sub_groups(planned);
  if (!options.any_encoding || !grouped) return {planned.param_encoding};
  const ParamEncoding other = planned.param_encoding == ParamEncoding::kFp16
                                  ? ParamEncoding::kTwoLevel
                                  : ParamEncoding::kFp16;
  return {planned.param_encoding, other};
}

std::vector<AffineSpec> candidates(const AffineSpec& planned, const ChoiceOptions& options,
                                   bool has_factor) {
  std::vector<AffineSpec> specs;
  for (const Method method : methods_for(planned, options)) {
    if (needs_statistics(method) && !has_factor) continue;
    for (const ParamEncoding encoding : encodings_for(planned, method, options)) {
      AffineSpec& spec = specs.emplace_back(planned);
      spec.method = method;
      spec.param_encoding = encoding;
    }
  }
  if (specs.empty()) {
    specs.push_back(planned);
    specs.back().method = Method::kSearch;
  }
  return specs;
}

void take(const AffineSpec& spec, LayerChoice& choice) {
  choice.info.spec = spec;
  choice.info.encoding = encoding_of(spec);
}

/// The best of `specs`; returns its error.
double choose_spec(const std::vector<AffineSpec>& specs, LayerTrial& trial, LayerChoice& best,
                   Json& tried) {
  double min_error = HUGE_VAL;
  LayerChoice choice = best;
  for (const AffineSpec& spec : specs) {
    take(spec, choice);
    const double error = trial.output_nmse(choice);
    tried.push_back({{"method", to_string(spec.method)},
                     {"param_encoding", to_string(spec.param_encoding)},
                     {"output_nmse", rounded(error)}});
    if (error < min_error || best.sample == nullptr) best = choice;
    min_error = std::min(min_error, error);
  }
  return min_error;
}

/// Static activation parameters for the layer as it was decided.
void add_activation_ranges(const InputStatistics& facts, const ChoiceOptions& options,
                           LayerTrial& trial, LayerChoice& choice) {
  auto time = choice.time ? std::make_shared<TimeCorrection>(*choice.time)
                          : std::make_shared<TimeCorrection>();
  std::vector<TimeGroup> groups = trial.activation_ranges(choice);
  if (!time->groups.empty() && time->groups.size() != groups.size()) {
    // Biases are stored for every group in any case: then each gets its own.
    time->means = means_by_time(facts, options.times);
  }
  time->groups = std::move(groups);
  choice.time = std::move(time);
}

/// Rows rescaled so that the regression of their outputs on the original ones has slope 1, or by
/// least squares, where that lowers the error on inputs that were not fitted to. It costs no bits.
void rescale_rows(LayerTrial& trial, LayerChoice& best, double& min_error, Json& tried) {
  if (best.info.spec.bit_width == 8 || best.gram == nullptr || best.gram->channels() == 0) return;
  const LayerChoice plain = best;
  for (const RowGain gain : {RowGain::kUnitSlope, RowGain::kLeastSquares}) {
    LayerChoice choice = plain;
    choice.row_gain = gain;
    const double error = trial.rescaled_nmse(choice);
    tried.push_back({{"method", to_string(choice.info.spec.method)},
                     {"param_encoding", to_string(choice.info.spec.param_encoding)},
                     {"row_gain", gain == RowGain::kUnitSlope ? "unit_slope" : "least_squares"},
                     {"output_nmse", rounded(error)}});
    if (error >= min_error) continue;
    min_error = error;
    best = std::move(choice);
  }
}

}  // namespace

LayerChoice first_choice(const QuantizedTensorInfo& planned, CalibrationSource& source,
                         size_t input, const ChoiceOptions& options) {
  LayerChoice first{.info = planned, .importance = source.importance(input)};
  const std::span<const TimeSpan> times =
      options.time_aware ? std::span<const TimeSpan>(options.times) : std::span<const TimeSpan>();
  first.matrices = options.matrices ? source.matrices(input, planned.spec.bit_width, times)
                                    : std::make_shared<const InputMatrices>();
  first.factor = first.matrices->factor;
  first.gram = std::shared_ptr<const GramMatrix>(first.matrices, &first.matrices->gram);
  if (first.has_factor()) first.importance = first.factor->importance;
  take(candidates(planned.spec, options, first.has_factor())[0], first);
  return first;
}

LayerChoice choose_layer(const QuantizedTensorInfo& planned, const RowSource& rows,
                         const std::string& path, CalibrationSource& source, size_t input,
                         const ChoiceOptions& options, ChunkQuantizer& quantizer) {
  LayerChoice best = first_choice(planned, source, input, options);
  const std::vector<AffineSpec> specs = candidates(planned.spec, options, best.has_factor());

  const InputStatistics& facts = source.facts(input);
  const bool by_time = !options.times.empty() && !facts.bins.empty();
  const bool static_activations = options.static_activations && by_time;
  LayerTrial trial(planned, rows, path, quantizer);
  if (static_activations) trial.round_activations(facts, options.times);
  if (best.matrices->judge() != nullptr) {
    Json tried = Json::array();
    double min_error = choose_spec(specs, trial, best, tried);
    if (options.time_aware && options.has_bias && by_time) {
      const auto centre = [&](const TimeMeans& means) { return source.centred(means); };
      correct_over_time(facts, options.times, centre, trial, best, min_error, tried);
    }
    if (options.equalize && planned.shape.size() >= 2) {
      equalize_layer(facts, trial, best, min_error, tried);
    }
    rescale_rows(trial, best, min_error, tried);
    if (tried.size() > 1) best.info.candidates = tried.dump();
  }
  if (static_activations) add_activation_ranges(facts, options, trial, best);
  // A sample that is the whole layer, with nothing added since, is the result.
  if (!trial.is_whole() || static_activations) best.sample = nullptr;
  return best;
}

}  // namespace arrow_quant
