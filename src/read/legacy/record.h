// One row of an old layout: its small columns, and how much its large ones hold.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "read/legacy/schema.h"

namespace parquet {
class ParquetFileReader;
}

namespace arrow_quant {

struct LegacyRecord {
  int row_group = 0;
  int64_t row = 0;  ///< within the row group
  std::string name;
  std::vector<uint64_t> shape;
  uint64_t elements = 0;  ///< product of the shape
  std::string dtype;      ///< as stored
  std::string quant_type;
  std::optional<int64_t> quant_axis;
  std::optional<int64_t> group_size;
  uint64_t scales = 0;       ///< how many
  uint64_t zero_points = 0;  ///< how many
  uint64_t data_bytes = 0;
  std::string modality;
  std::optional<uint64_t> time_groups;   ///< set when time-aware parameters are enabled
  std::optional<uint64_t> equalization;  ///< how many factors; set when spatial ones are enabled
};

/// Most bytes that the small columns and one value of `data` may need for rows of `elements`
/// weights; what a file may make us allocate.
int64_t legacy_memory_limit(uint64_t elements) noexcept;

/// The weights of the largest row group, from the two columns that say so. Raises kMetadata, also
/// for more rows than a model has tensors.
uint64_t largest_legacy_row_group(parquet::ParquetFileReader& file, const LegacySchema& schema,
                                  const std::string& path);

/// All rows of a file. Reads every column once, page by page. Raises kMetadata or kShapeMismatch,
/// naming the tensor, or what Parquet raises.
std::vector<LegacyRecord> read_legacy_records(parquet::ParquetFileReader& file,
                                              const LegacySchema& schema, const std::string& path);

/// The `equalization_scales` of a row's spatial parameters; empty when there are none. Raises
/// kMetadata when they are no finite numbers.
std::vector<float> parse_legacy_equalization(std::string_view json, const std::string& path,
                                             const std::string& tensor);

}  // namespace arrow_quant
