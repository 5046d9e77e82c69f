#include "read/parquet_part.h"

#include <arrow/result.h>
#include <arrow/util/key_value_metadata.h>
#include <parquet/file_reader.h>
#include <parquet/schema.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <utility>

#include "io/arrow_file.h"
#include "io/file_reader.h"
#include "io/page_memory.h"
#include "io/parquet_footer.h"
#include "io/parquet_schema.h"
#include "read/artefact_damage.h"
#include "read/page_checksum.h"
#include "read/parquet_column.h"

namespace arrow_quant {
namespace {

constexpr int64_t kMaxCachedBytes = 16 << 20;  // the writer makes shared row groups of about 1 MiB

/// Once the footer has been read, Parquet asks for whole column chunks only, and their checksums
/// are verified here.
class VerifiedFile final : public ArrowFile {
 public:
  using ArrowFile::ArrowFile;
  using ArrowFile::ReadAt;

  arrow::Result<int64_t> ReadAt(int64_t position, int64_t bytes, void* out) override {
    if (!verifies_pages_) return ArrowFile::ReadAt(position, bytes, out);
    ARROW_RETURN_NOT_OK(check_range(position, bytes));
    auto* to = static_cast<std::byte*>(out);
    read_pages(
        {static_cast<const uint8_t*>(out), static_cast<size_t>(bytes)},
        [&](size_t begin, size_t end) {
          file().read_exact(static_cast<uint64_t>(position) + begin, {to + begin, end - begin});
        },
        file().path());
    return bytes;
  }

  /// From now on every ReadAt is of a column chunk.
  void verify_from_here() noexcept { verifies_pages_ = true; }

 private:
  bool verifies_pages_ = false;
};

std::span<const uint8_t> span_of(const std::optional<parquet::ByteArray>& value) {
  if (!value) return {};
  return {value->ptr, value->len};
}

/// The large columns of a row group, row by row.
class LargeColumns {
 public:
  LargeColumns(parquet::RowGroupReader& group, const std::string& path)
      : codes_(group, kColCodes, path),
        params_(group, kColParams, path),
        row_scales_(group, kColRowScales, path),
        equalization_(group, kColEqualization, path),
        time_params_(group, kColTimeParams, path) {}

  /// Valid until the next call.
  PartBytes next() {
    return {.codes = span_of(codes_.require()),
            .params = span_of(params_.next()),
            .row_scales = span_of(row_scales_.next()),
            .equalization = span_of(equalization_.next()),
            .time_params = span_of(time_params_.next())};
  }

 private:
  BytesColumn codes_;
  BytesColumn params_;
  BytesColumn row_scales_;
  BytesColumn equalization_;
  BytesColumn time_params_;
};

// Ours come first and in order; a later version may have added more behind them.
void check_columns(const parquet::SchemaDescriptor& found, const std::string& path) {
  parquet::SchemaDescriptor expected;
  expected.Init(artefact_schema());
  if (found.num_columns() < kColumnsOfVersion1) fail_damaged(path, "columns are missing");
  for (int i = 0; i < std::min<int>(kColumnCount, found.num_columns()); ++i) {
    if (!found.Column(i)->Equals(*expected.Column(i))) {
      fail_damaged(path,
                   "column " + std::to_string(i) + " is not '" + expected.Column(i)->name() + "'");
    }
  }
}

}  // namespace

/// All rows of one row group, in memory of their own.
class ParquetPart::SmallRows {
 public:
  SmallRows(int row_group, parquet::RowGroupReader& group, const std::string& path)
      : row_group_(row_group) {
    LargeColumns columns(group, path);
    for (int64_t i = 0; i < group.metadata()->num_rows(); ++i) {
      const PartBytes bytes = columns.next();
      rows_.push_back({copy(bytes.codes), copy(bytes.params), copy(bytes.row_scales),
                       copy(bytes.equalization), copy(bytes.time_params)});
    }
  }

  int row_group() const noexcept { return row_group_; }

  PartBytes at(int64_t row) const {
    const Row& found = rows_.at(static_cast<size_t>(row));
    return {.codes = found.codes,
            .params = found.params,
            .row_scales = found.row_scales,
            .equalization = found.equalization,
            .time_params = found.time_params};
  }

 private:
  struct Row {
    std::vector<uint8_t> codes;
    std::vector<uint8_t> params;
    std::vector<uint8_t> row_scales;
    std::vector<uint8_t> equalization;
    std::vector<uint8_t> time_params;
  };

  static std::vector<uint8_t> copy(std::span<const uint8_t> bytes) {
    return {bytes.begin(), bytes.end()};
  }

  int row_group_;
  std::vector<Row> rows_;
};

struct ParquetPart::Cache {
  std::mutex mutex;
  std::shared_ptr<const SmallRows> rows;
};

ParquetPart::ParquetPart(const std::string& folder, const FileRecord& record)
    : path_(folder + "/" + record.path), cache_(std::make_unique<Cache>()) {
  FileReader file(path_);
  if (file.size() != record.size) {
    fail_damaged(path_, "expected " + std::to_string(record.size) + " bytes, found " +
                            std::to_string(file.size()));
  }
  if (parquet_footer_hash(file) != record.footer_hash) {
    fail_damaged(path_, "the footer does not match the manifest");
  }
  try {
    const auto source = std::make_shared<VerifiedFile>(std::move(file));
    reader_ =
        parquet::ParquetFileReader::Open(source, parquet::ReaderProperties(page_memory_pool()));
    source->verify_from_here();
    check_columns(*reader_->metadata()->schema(), path_);
  } catch (...) {
    rethrow_parquet_error(path_, false);
  }
}

ParquetPart::~ParquetPart() = default;
ParquetPart::ParquetPart(ParquetPart&&) noexcept = default;

std::map<std::string, std::string> ParquetPart::metadata() const {
  std::map<std::string, std::string> result;
  const auto& key_values = reader_->metadata()->key_value_metadata();
  if (key_values == nullptr) return result;
  for (int64_t i = 0; i < key_values->size(); ++i)
    result[key_values->key(i)] = key_values->value(i);
  return result;
}

std::vector<PartRow> ParquetPart::rows() const {
  std::vector<PartRow> rows;
  try {
    for (int i = 0; i < reader_->metadata()->num_row_groups(); ++i) {
      read_rows(*reader_->RowGroup(i), i, path_, rows);
    }
  } catch (...) {
    rethrow_parquet_error(path_, false);
  }
  return rows;
}

void ParquetPart::visit(const PartRow& row,
                        const std::function<void(const PartBytes&)>& visit) const {
  // What the spans point into lives until `visit` returns.
  std::shared_ptr<const SmallRows> small;
  std::optional<LargeColumns> columns;
  PartBytes bytes;
  try {
    const auto group = reader_->RowGroup(row.row_group);
    const parquet::RowGroupMetaData& facts = *group->metadata();
    if (facts.num_rows() > 1 && facts.total_byte_size() <= kMaxCachedBytes) {
      small = small_rows(row.row_group);
      bytes = small->at(row.row_in_group);
    } else {
      columns.emplace(*group, path_);
      for (int64_t i = 0; i <= row.row_in_group; ++i) bytes = columns->next();
    }
  } catch (...) {
    rethrow_parquet_error(path_, false);
  }
  visit(bytes);  // its exceptions pass unchanged
}

std::shared_ptr<const ParquetPart::SmallRows> ParquetPart::small_rows(int row_group) const {
  {
    const std::lock_guard lock(cache_->mutex);
    if (cache_->rows && cache_->rows->row_group() == row_group) return cache_->rows;
  }
  const auto group = reader_->RowGroup(row_group);
  auto rows = std::make_shared<const SmallRows>(row_group, *group, path_);
  const std::lock_guard lock(cache_->mutex);
  cache_->rows = rows;
  return rows;
}

}  // namespace arrow_quant
