// The figures of a whole run from those of its tensors, and how the manifest states them.
#pragma once

#include <string>

#include "arrow_quant/pipeline.h"

namespace arrow_quant {

/// Fill what `report` says about all tensors together from report.tensors.
void summarize(QuantizeReport& report);

/// The report as JSON, without what depends on time and place; `mixed_precision_json` is part of it
/// unless it is empty.
std::string report_json(const QuantizeReport& report, const std::string& mixed_precision_json);

/// What the last bits of a calibrated run depend on: instruction set, OpenBLAS, and torch.
std::string machine_json(const QuantizeOptions& options);

}  // namespace arrow_quant
