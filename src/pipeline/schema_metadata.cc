#include "pipeline/schema_metadata.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "arrow_quant/format.h"
#include "core/json.h"
#include "core/text.h"
#include "plan/modality.h"

namespace arrow_quant {
namespace {

using Json = nlohmann::json;

constexpr const char* kSpatialKey = "spatial_quant";
constexpr const char* kFoldsKey = "folds";
constexpr const char* kLimitsKey = "memory_limits";

Json off(const std::string& reason) { return {{"enabled", false}, {"reason", reason}}; }

Json calibration_json(const CalibrationSource* source, const QuantizeOptions& options) {
  if (source == nullptr) return {{"kind", "none"}, {"reason", not_calibrated(options)}};
  uint64_t tokens = 0, held_out = 0, layers = 0;
  for (const InputStatistics& input : source->inputs()) {
    tokens += input.tokens;
    held_out += input.held_out_tokens;
    layers += input.layers.size();
  }
  return {{"kind", source->origin().data},
          {"inputs", source->inputs().size()},
          {"layers", layers},
          {"tokens", tokens},
          {"held_out_tokens", held_out},
          {"notes", source->origin().notes}};
}

/// One number per calibrated layer: what its input looked like over all times.
Json activation_json(const CalibrationSource* source, const QuantizeOptions& options) {
  if (source == nullptr) return off(not_calibrated(options));
  Json layers = Json::array(), mean = Json::array(), deviation = Json::array();
  Json low = Json::array(), high = Json::array();
  source->each_input()([&](const InputStatistics& input) {
    double count = 0, sum = 0, squares = 0;
    float min_value = std::numeric_limits<float>::infinity(), max_value = -min_value;
    for (const TimeBin& bin : input.bins) {
      count += static_cast<double>(bin.tokens) * static_cast<double>(bin.sum.size());
      for (const double value : bin.sum) sum += value;
      for (const double value : bin.squares) squares += value;
      min_value = std::min(min_value, *std::ranges::min_element(bin.low));
      max_value = std::max(max_value, *std::ranges::max_element(bin.high));
    }
    count = std::max(count, 1.0);
    const double average = sum / count;
    layers.push_back(input.layers[0].name);
    mean.push_back(rounded(average));
    deviation.push_back(rounded(std::sqrt(std::max(0.0, squares / count - average * average))));
    low.push_back(rounded(min_value));
    high.push_back(rounded(max_value));
  });
  return {{"enabled", true},
          {"layers", std::move(layers)},
          {"mean", std::move(mean)},
          {"std", std::move(deviation)},
          {"min", std::move(low)},
          {"max", std::move(high)},
          {"float_inputs", source->float_inputs()}};
}

/// Null when no layer is equalized.
Json spatial_json(const std::vector<TensorReport>& tensors, std::span<const ChosenFold> folds) {
  Json layers = Json::array(), scales = Json::array();
  for (const TensorReport& tensor : tensors) {
    if (tensor.equalization <= 0) continue;
    layers.push_back(tensor.info.name);
    scales.push_back(rounded(tensor.equalization));
  }
  if (layers.empty() && folds.empty()) return nullptr;
  Json json = {{"enabled", true},
               {"channel_equalization", true},
               {"activation_smoothing", true},  // of ranges over time, in one of several forms
               {"equalized_layers", std::move(layers)},
               {"equalization_scales", std::move(scales)}};
  if (!folds.empty()) json[kFoldsKey] = chosen_folds_json(folds);
  return json;
}

/// Null when nothing depends on time. One entry per group; scale and zero point are those of the
/// layer with the widest range, since layers have their own in the column.
Json time_json(const std::vector<TensorReport>& tensors) {
  const std::vector<TimeGroup>* groups = nullptr;
  uint64_t layers = 0, corrected = 0;
  int group_size = 0;
  for (const TensorReport& tensor : tensors) {
    // One range for all times is no matter of time.
    if (tensor.time_groups.size() < 2 && !tensor.time_bias) continue;
    if (groups == nullptr || tensor.time_groups.size() > groups->size()) {
      groups = &tensor.time_groups;
    }
    ++layers;
    group_size = tensor.info.spec.group_size;
    corrected += tensor.time_bias ? 1 : 0;
  }
  if (groups == nullptr) return nullptr;
  Json params = Json::array();
  for (const TimeGroup& group : *groups) {
    TimeGroup widest = group;
    for (const TensorReport& tensor : tensors) {
      for (const TimeGroup& other : tensor.time_groups) {
        if (other.begin == group.begin && other.activation_scale > widest.activation_scale) {
          widest = other;
        }
      }
    }
    Json entry = {{"time_range", {group.begin, group.end}}, {"group_size", group_size}};
    if (widest.activation_scale > 0) {  // else inputs are not rounded by ranges of calibration
      entry["scale"] = rounded(widest.activation_scale);
      entry["zero_point"] = rounded(widest.activation_zero);
    }
    params.push_back(std::move(entry));
  }
  return {{"enabled", true},
          {"num_time_groups", groups->size()},
          {"layers", layers},
          {"bias_corrected_layers", corrected},
          {"time_group_params", std::move(params)}};
}

/// What memory withheld from layers, empty where nothing: then no limit decided a byte.
Json limits_json(const std::vector<TensorReport>& tensors, const QuantizeOptions& options,
                 const CalibrationSource* source) {
  Json limits = Json::object();
  for (const TensorReport& tensor : tensors) {
    if (tensor.lacked_memory) limits["without_matrices"].push_back(tensor.info.name);
  }
  if (!limits.empty()) limits["max_memory_mb"] = options.max_memory_mb;
  for (size_t i = 0; source != nullptr && i < source->inputs().size(); ++i) {
    const uint64_t block = source->block(i);
    if (block == source->channels(i)) continue;
    for (const CalibratedLayer& layer : source->inputs()[i].layers) {
      limits["diagonal_blocks"][layer.name] = block;
    }
  }
  return limits;
}

}  // namespace

std::string not_calibrated(const QuantizeOptions& options) {
  if (!options.statistics_path.empty()) return "data-free: not the component that was calibrated";
  if (options.data_free_reason.empty()) return "data-free: the model was not run";
  return "data-free: " + options.data_free_reason;
}

Metadata schema_metadata(const Plan& plan, const ModelIndex& component,
                         const std::string& fingerprint, const QuantizeOptions& options,
                         const CalibrationSource* calibration) {
  const Json source = {{"fingerprint", fingerprint},
                       {"component", component.component},
                       {"tensors", component.tensors.size()}};
  Metadata metadata = {
      {"arrow_quant_v2.format", std::to_string(kFormatVersion)},
      {"is_diffusion_model", options.is_diffusion && is_modality(plan.modality) ? "true" : "false"},
      {"modality", plan.modality},
      {"activation_stats", activation_json(calibration, options).dump()},
      {"calibration", calibration_json(calibration, options).dump()},
      {"config", Json::parse(options.config_json).dump()},
      {"source", source.dump()}};
  for (const auto& [key, json] : options.refinements_json) {
    metadata[key] = Json::parse(json).dump();
  }
  return metadata;
}

Metadata result_metadata(const std::vector<TensorReport>& tensors, const QuantizeOptions& options,
                         const CalibrationSource* calibration, std::span<const ChosenFold> folds) {
  const auto reason = [&](bool wanted, const char* setting) -> std::string {
    if (!wanted) return std::string(setting) + " is false";
    return calibration == nullptr ? not_calibrated(options) : "no layer gained by it";
  };
  Json spatial = spatial_json(tensors, folds);
  Json time_aware = time_json(tensors);
  if (spatial.is_null()) spatial = off(reason(options.enable_spatial, "enable_spatial"));
  if (time_aware.is_null()) {
    time_aware = off(reason(options.enable_time_aware, "enable_time_aware"));
  }
  Metadata metadata = {{"time_aware_quant", time_aware.dump()}, {kSpatialKey, spatial.dump()}};
  if (const Json limits = limits_json(tensors, options, calibration); !limits.empty()) {
    metadata[kLimitsKey] = limits.dump();
  }
  return metadata;
}

std::vector<ChosenFold> stored_folds(const Metadata& metadata, const std::string& path) {
  const auto found = metadata.find(kSpatialKey);
  if (found == metadata.end()) return {};
  const Json spatial = parse_json(found->second, path);
  if (!spatial.is_object() || !spatial.contains(kFoldsKey)) return {};
  return read_chosen_folds(spatial[kFoldsKey], path);
}

}  // namespace arrow_quant
