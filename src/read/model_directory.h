// From a path that a user typed to everything that is known about the model without reading
// weights.
#pragma once

#include <optional>
#include <string>

#include "arrow_quant/model_index.h"

namespace arrow_quant {

/// Open a safetensors file, a component directory (diffusers or transformers, one file or shards)
/// or a diffusers pipeline directory, and check every header. Where there is no safetensors file,
/// Parquet files of the old layouts will do; `int2_order` is for those. Raises kModelNotFound when
/// nothing that can be read is there, and says what was looked for; kMetadata or kShapeMismatch for
/// malformed files.
ModelDirectory open_model(const std::string& path, Int2Order int2_order = Int2Order::kLsb);

/// The same with other names for some tensors. Raises kMetadata when two would get one name, or
/// when none would be left.
ModelDirectory open_model(const std::string& path, const TensorNames& names);

/// Open `path` when its weights are in an old Parquet layout: only the components that are, the
/// files of the others are in `other_files`. Nothing when there is no such model; raises what
/// open_model raises for a malformed one.
std::optional<ModelDirectory> open_old_model(const std::string& path,
                                             Int2Order int2_order = Int2Order::kLsb);

}  // namespace arrow_quant
