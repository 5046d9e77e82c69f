// The key-values of the schema of weights.parquet (docs/reference/format.md).
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "arrow_quant/model_index.h"
#include "arrow_quant/pipeline.h"
#include "arrow_quant/plan.h"
#include "choose/calibration_source.h"
#include "io/folds.h"

namespace arrow_quant {

using Metadata = std::map<std::string, std::string>;

/// Why a component has no calibration.
std::string not_calibrated(const QuantizeOptions& options);

/// What is known before a component is quantized. `calibration` is null for a data-free run.
Metadata schema_metadata(const Plan& plan, const ModelIndex& component,
                         const std::string& fingerprint, const QuantizeOptions& options,
                         const CalibrationSource* calibration);

/// What was decided while it was: which parameters by time and by channel are in the file.
Metadata result_metadata(const std::vector<TensorReport>& tensors, const QuantizeOptions& options,
                         const CalibrationSource* calibration, std::span<const ChosenFold> folds);

/// The folds that `result_metadata` recorded. Raises kMetadata, with `path`, for malformed ones.
std::vector<ChosenFold> stored_folds(const Metadata& metadata, const std::string& path);

}  // namespace arrow_quant
