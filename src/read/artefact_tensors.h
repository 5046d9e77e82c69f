// The tensors of one component of an artefact, put together from the rows of its parts and checked:
// chunks follow one another, cover the tensor, and no name comes twice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "arrow_quant/quantized_tensor.h"
#include "read/parquet_part.h"

namespace arrow_quant {

struct TensorEntry {
  std::vector<std::pair<size_t, PartRow>> chunks;  ///< number of the part, row
};

struct ComponentTensors {
  std::vector<QuantizedTensorInfo> infos;
  std::vector<uint64_t> stored_bytes;
  std::vector<TensorEntry> entries;
};

/// Read the small columns of all `parts`. Raises kValidation unless there are `expected` tensors.
ComponentTensors load_tensors(const std::vector<ParquetPart>& parts, uint64_t expected);

/// Bytes of codes, parameters and scales of a whole tensor whose shape has been checked.
uint64_t tensor_bytes(const QuantizedTensorInfo& info);

/// Bytes of one row's scale: fp16 parameters have none.
uint64_t row_scale_bytes(const AffineSpec& spec) noexcept;

/// First row after chunk number `chunk`.
uint64_t chunk_end(const TensorEntry& entry, size_t chunk, const QuantizedTensorInfo& info);

}  // namespace arrow_quant
