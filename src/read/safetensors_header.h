// The safetensors header, checked as a whole before anything larger than the header is allocated.
//
// `parse_safetensors_header` is a pure function of the header bytes and the file size, so that it
// can be tested and fuzzed alone. What it accepts is exact: sorted contiguous offsets that cover
// the file, sizes equal to shape times dtype, no duplicate name, no unknown field or dtype.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "arrow_quant/model_index.h"
#include "io/file_reader.h"

namespace arrow_quant {

struct SafetensorsLimits {
  static constexpr uint64_t kMaxHeaderBytes = 100'000'000;
  static constexpr uint64_t kMaxTensors = 1'000'000;
  static constexpr uint64_t kMaxNameBytes = 4096;
  static constexpr uint64_t kMaxRank = 8;
  static constexpr uint64_t kMaxDim = 1ULL << 48;
  static constexpr uint64_t kMaxMetadataBytes = 16U << 20;
};

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  ///< by offset; offsets are absolute in the file, file = 0
  std::map<std::string, std::string> metadata;
};

/// Check `header` (the JSON text, without its 8-byte length) of a file of `file_size` bytes. `path`
/// is for messages. Raises kMetadata, or kShapeMismatch when a size is not shape times dtype.
SafetensorsHeader parse_safetensors_header(std::string_view header, uint64_t file_size,
                                           const std::string& path);

/// Read and check the header of an open file, and fill in what identifies the file.
SafetensorsHeader read_safetensors_header(const FileReader& file, SourceFile& identity);

}  // namespace arrow_quant
