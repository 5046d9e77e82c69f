// The small columns of an artefact's table: everything about a row but its codes and parameters,
// each value checked by itself. Checks that span rows are the artefact's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "arrow_quant/quantized_tensor.h"

namespace parquet {
class RowGroupReader;
}

namespace arrow_quant {

/// One row of the table without its large columns.
struct PartRow {
  int row_group = 0;
  int64_t row_in_group = 0;
  QuantizedTensorInfo info;
  int32_t chunk = 0;
  uint64_t row_begin = 0;
  float tensor_scale = 1.0F;
  int8_t offset_unit = 0;
  uint64_t extra_bytes = 0;  ///< of equalization and time_params
};

/// Append the rows of row group `number` of the file `path`. Raises kValidation, or what Parquet
/// raises.
void read_rows(parquet::RowGroupReader& group, int number, const std::string& path,
               std::vector<PartRow>& out);

}  // namespace arrow_quant
