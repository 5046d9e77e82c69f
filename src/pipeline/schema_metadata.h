// The key-values of the schema of weights.parquet (docs/format.md).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "arrow_quant/model_index.h"
#include "arrow_quant/pipeline.h"
#include "arrow_quant/plan.h"
#include "pipeline/calibration_source.h"

namespace arrow_quant {

using Metadata = std::map<std::string, std::string>;

/// What is known before a component is quantized. `calibration` is null for a data-free run.
Metadata schema_metadata(const Plan& plan, const ModelIndex& component,
                         const std::string& fingerprint, const QuantizeOptions& options,
                         const CalibrationSource* calibration);

/// What was decided while it was: which parameters by time and by channel are in the file.
Metadata result_metadata(const std::vector<TensorReport>& tensors, const QuantizeOptions& options,
                         const CalibrationSource* calibration);

}  // namespace arrow_quant
