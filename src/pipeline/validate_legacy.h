// Comparing a model in an old Parquet layout with the original that it was made from.
#pragma once

#include <string>

#include "arrow_quant/model_index.h"
#include "arrow_quant/pipeline.h"
#include "arrow_quant/progress.h"

namespace arrow_quant {

/// Compare every tensor of `old` with that of the same name in `original`. Tensors that the old
/// model holds as plain values of the original's type must be equal. There are no hashes to check.
ValidationReport validate_legacy(const ModelDirectory& original, const ModelDirectory& old,
                                 int num_threads, Progress& progress);

}  // namespace arrow_quant
