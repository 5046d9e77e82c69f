// One Parquet file of an artefact: the small columns of all its rows, and the bytes of one row.
//
// The footer is verified against the manifest before it is parsed; page checksums are verified as
// pages are read. Thread-safe after construction.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "arrow_quant/manifest.h"
#include "arrow_quant/quantized_tensor.h"

namespace parquet {
class ParquetFileReader;
}

namespace arrow_quant {

/// The small columns of one row of the table.
struct PartRow {
  int row_group = 0;
  int64_t row_in_group = 0;
  QuantizedTensorInfo info;
  int32_t chunk = 0;
  uint64_t row_begin = 0;
  float tensor_scale = 1.0F;
  int8_t offset_unit = 0;
};

/// The large columns of one row; valid while the visitor runs.
struct PartBytes {
  std::span<const uint8_t> codes;
  std::span<const uint8_t> params;
  std::span<const uint8_t> row_scales;
};

class ParquetPart {
 public:
  /// Open `folder`/`record.path` and verify its size and footer. Reads nothing but the footer.
  ParquetPart(const std::string& folder, const FileRecord& record);
  ~ParquetPart();
  ParquetPart(ParquetPart&&) noexcept;

  const std::string& path() const noexcept { return path_; }
  std::map<std::string, std::string> metadata() const;
  std::vector<PartRow> rows() const;
  void visit(const PartRow& row, const std::function<void(const PartBytes&)>& visit) const;

 private:
  std::string path_;
  std::unique_ptr<parquet::ParquetFileReader> reader_;
};

}  // namespace arrow_quant
