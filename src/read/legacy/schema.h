// The Parquet layouts that models were stored in before this format, told apart by their columns
// (docs/reference/old-layouts.md).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace parquet {
class SchemaDescriptor;
}

namespace arrow_quant {

enum class LegacyLayout : uint8_t {
  kFloatTable,      ///< A: float weights, one row per tensor
  kQuantizedTable,  ///< B: quantized weights, one row per tensor, binary scales
  kTensorFiles,     ///< C: one file per tensor, scales in lists
  kDiffusionFiles,  ///< D: as C, with modality, time-aware and spatial parameters
};

/// The letter and a few words, for messages.
std::string_view to_string(LegacyLayout layout) noexcept;

/// Position of each column among the leaves of the schema; -1 when the file lacks it.
struct LegacySchema {
  LegacyLayout layout = LegacyLayout::kFloatTable;
  int name = -1;
  int shape = -1;
  int dtype = -1;
  int data = -1;
  int num_params = -1;
  int quant_type = -1;
  int scales = -1;
  int zero_points = -1;
  int quant_axis = -1;
  int group_size = -1;
  int modality = -1;
  int time_aware = -1;
  int spatial = -1;
};

/// Tell which layout a file has and check the type of every column that is read. Raises
/// kModelNotFound when it is no weight file of an old layout (one of this version's artefacts, for
/// example), kMetadata when a column is missing or has another type.
LegacySchema detect_legacy_schema(const parquet::SchemaDescriptor& schema, const std::string& path);

}  // namespace arrow_quant
