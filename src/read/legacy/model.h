// A component whose weights are Parquet files of an old layout, as a ModelIndex like any other.
//
// Tensors that were quantized are presented as F32, which is what their integers and scales give.
// Opening reads every file once, so that every size is checked before work starts.
#pragma once

#include <filesystem>
#include <vector>

#include "arrow_quant/model_index.h"
#include "read/legacy/schema.h"
#include "read/legacy/tensor.h"

namespace arrow_quant {

struct LegacyIndex {
  LegacyLayout layout = LegacyLayout::kFloatTable;
  Int2Order int2_order = Int2Order::kLsb;
  std::vector<LegacyTensor> tensors;
};

/// Of the Parquet files in a component's folder, those that are its weights: the `weights*.parquet`
/// of a table, else all of them.
std::vector<std::filesystem::path> choose_legacy_files(
    const std::vector<std::filesystem::path>& files);

/// Add the tensors of `files` to `component`. Raises kModelNotFound when a file is not of an old
/// layout, kMetadata or kShapeMismatch when it is malformed, naming file and tensor.
void add_legacy_files(ModelIndex& component, const std::vector<std::filesystem::path>& files,
                      Int2Order int2_order);

}  // namespace arrow_quant
