// Folds as JSON: where factors can go, in a file of statistics, and where they went, in an artefact
// (docs/reference/format.md).
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "arrow_quant/calibration.h"

namespace arrow_quant {

/// A fold with the factor of each channel of the input, all of them `byte_factor`s: columns of the
/// layers are multiplied by it, rows of the sources divided.
struct ChosenFold {
  Fold fold;
  std::vector<float> factors;
};

nlohmann::json folds_json(std::span<const Fold> folds);
nlohmann::json chosen_folds_json(std::span<const ChosenFold> folds);

/// What the two wrote. Raises kMetadata, with `path`, for anything else.
std::vector<Fold> read_folds(const nlohmann::json& json, const std::string& path);
std::vector<ChosenFold> read_chosen_folds(const nlohmann::json& json, const std::string& path);

}  // namespace arrow_quant
