// One Parquet file of an artefact: the small columns of all its rows, and the bytes of one row.
//
// The footer is verified against the manifest before it is parsed; page checksums are verified as
// pages are read. Thread-safe after construction.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "arrow_quant/manifest.h"
#include "read/artefact_rows.h"

namespace parquet {
class ParquetFileReader;
}

namespace arrow_quant {

/// The large columns of one row; valid while the visitor runs.
struct PartBytes {
  std::span<const uint8_t> codes;
  std::span<const uint8_t> params;
  std::span<const uint8_t> row_scales;
  std::span<const uint8_t> equalization;
  std::span<const uint8_t> time_params;
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

  /// Hand the large columns of `row` to `visit`. A row group of several small rows is read whole
  /// and kept until the next one, so that reading rows in order reads every page once.
  void visit(const PartRow& row, const std::function<void(const PartBytes&)>& visit) const;

 private:
  class SmallRows;

  std::shared_ptr<const SmallRows> small_rows(int row_group) const;

  std::string path_;
  std::unique_ptr<parquet::ParquetFileReader> reader_;
  struct Cache;
  std::unique_ptr<Cache> cache_;
};

}  // namespace arrow_quant
