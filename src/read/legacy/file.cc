#include "read/legacy/file.h"

#include <arrow/memory_pool.h>
#include <parquet/exception.h>
#include <parquet/file_reader.h>
#include <parquet/properties.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <new>
#include <optional>
#include <string_view>
#include <utility>

#include "arrow_quant/error.h"
#include "io/arrow_file.h"
#include "io/page_memory.h"
#include "io/parquet_footer.h"
#include "read/file_signature.h"
#include "read/legacy/columns.h"

namespace arrow_quant {
namespace {

constexpr int64_t kStreamBytes = 1 << 20;

// What Parquet says about a file that strangers made, as our own error.
[[noreturn]] void rethrow_as_metadata(const std::string& path, const std::string& tensor = {}) {
  try {
    throw;
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const parquet::ParquetStatusException& e) {
    const std::string what = e.what();
    // The bound is ours: see legacy_memory_limit.
    const bool bound = what.find("cap exceeded") != std::string::npos;
    if (e.status().IsOutOfMemory() && !bound) {
      throw Error(ErrorCode::kMemory, what, {.path = path, .tensor = tensor});
    }
    fail_legacy(path, bound ? "a page is larger than the tensors of the file" : what, tensor);
  } catch (const std::exception& e) {
    fail_legacy(path, e.what(), tensor);
  }
}

FileReader open_parquet(const std::string& path) {
  FileReader file(path);
  std::array<char, 8> start{};
  const size_t bytes = std::min<uint64_t>(start.size(), file.size());
  file.read_exact(0, std::as_writable_bytes(std::span(start).first(bytes)));
  const std::string found = looks_like({start.data(), bytes});
  if (!found.empty() && !std::string_view(start.data(), bytes).starts_with("PAR1")) {
    fail_legacy(path, "expected a Parquet file, found " + found);
  }
  return file;
}

parquet::ReaderProperties reader_properties(arrow::MemoryPool* pool) {
  parquet::ReaderProperties properties(pool);
  // Page by page instead of a whole column chunk.
  properties.enable_buffered_stream();
  properties.set_buffer_size(kStreamBytes);
  properties.set_page_checksum_verification(true);
  return properties;
}

/// `scales` or `zero_points`: a list, or float32 bytes.
class RealsColumn {
 public:
  RealsColumn(parquet::RowGroupReader& group, int column, bool binary, const std::string& path)
      : binary_(group, binary ? column : -1, path), lists_(group, binary ? -1 : column, path) {}

  /// The next row's numbers, at most `most`; a null among them is NaN. Nothing is kept when `out`
  /// is null.
  void next(std::vector<float>* out, uint64_t most) {
    lists_.next([&](const std::optional<float>& number) {
      if (out != nullptr && out->size() <= most) out->push_back(number.value_or(std::nanf("")));
    });
    const auto bytes = binary_.next();
    if (!bytes || out == nullptr) return;
    out->resize(std::min<uint64_t>(bytes->size() / sizeof(float), most + 1));
    if (!out->empty()) std::memcpy(out->data(), bytes->data(), out->size() * sizeof(float));
  }

 private:
  LegacyBytes binary_;
  LegacyLists<parquet::FloatType> lists_;
};

}  // namespace

/// The large columns of a row group, at one row after the other.
class LegacyFile::RowGroupCursor {
 public:
  RowGroupCursor(parquet::ParquetFileReader& file, int number, const LegacySchema& schema,
                 const std::string& path)
      : number_(number),
        path_(path),
        group_(file.RowGroup(number)),
        data_(*group_, schema.data, path),
        scales_(*group_, schema.scales, schema.layout == LegacyLayout::kQuantizedTable, path),
        zero_points_(*group_, schema.zero_points, schema.layout == LegacyLayout::kQuantizedTable,
                     path),
        spatial_(*group_, schema.spatial, path) {}

  bool is_at(const LegacyTensor& tensor) const noexcept {
    return tensor.row_group == number_ && tensor.row == row_;
  }
  bool can_reach(const LegacyTensor& tensor) const noexcept {
    return tensor.row_group == number_ && tensor.row >= row_;
  }
  const LegacyValue& value() const noexcept { return value_; }

  void advance(const LegacyTensor& tensor, const std::string& name) {
    while (row_ < tensor.row) {
      const bool wanted = ++row_ == tensor.row;
      value_ = {};
      const auto data = data_.next().value_or(std::string_view());
      value_.data = {reinterpret_cast<const uint8_t*>(data.data()), data.size()};
      scales_.next(wanted ? &value_.scales : nullptr, tensor.groups.count);
      zero_points_.next(wanted ? &value_.zero_points : nullptr, tensor.groups.count);
      const auto spatial = spatial_.next();
      if (wanted && tensor.equalization != 0 && spatial) {
        value_.equalization = parse_legacy_equalization(*spatial, path_, name);
      }
    }
    check(tensor, name);
  }

 private:
  // Rows were checked when the model was opened; this holds against a file that changed since.
  void check(const LegacyTensor& tensor, const std::string& name) {
    if (value_.data.size() != tensor.data_bytes) changed(name);
    if (tensor.codes == LegacyCodes::kValues) return;
    for (const float scale : value_.scales) {
      if (!std::isfinite(scale)) fail_legacy(path_, "a scale is no finite number", name);
    }
    for (float& zero : value_.zero_points) {
      if (std::isnan(zero)) zero = 0.0F;  // "none"
      if (std::isinf(zero)) fail_legacy(path_, "a zero point is infinite", name);
    }
    const bool zeros = value_.zero_points.size() >= tensor.groups.count;
    if (value_.scales.size() < tensor.groups.count || (tensor.zero_points != 0 && !zeros) ||
        value_.equalization.size() != tensor.equalization) {
      changed(name);
    }
  }

  [[noreturn]] void changed(const std::string& name) const {
    fail_legacy(path_, "the file changed since it was opened", name);
  }

  int number_;
  const std::string& path_;
  std::shared_ptr<parquet::RowGroupReader> group_;
  LegacyBytes data_;
  RealsColumn scales_;
  RealsColumn zero_points_;
  LegacyBytes spatial_;
  int64_t row_ = -1;
  LegacyValue value_;
};

struct LegacyFile::State {
  State(std::string file_path, FileReader file)
      : path(std::move(file_path)),
        identity({.path = path,
                  .size = file.size(),
                  .mtime_ns = file.mtime_ns(),
                  .inode = file.inode(),
                  .header_hash = parquet_footer_hash(file)}),
        source(std::make_shared<ArrowFile>(std::move(file))) {}

  // The pool outlives the reader, the reader the cursor.
  std::string path;
  SourceFile identity;
  std::shared_ptr<ArrowFile> source;
  std::optional<arrow::CappedMemoryPool> pool;
  std::unique_ptr<parquet::ParquetFileReader> reader;
  LegacySchema schema;
  std::optional<RowGroupCursor> cursor;
};

LegacyFile::LegacyFile(const std::string& path)
    : state_(std::make_unique<State>(path, open_parquet(path))) {
  try {
    arrow::CappedMemoryPool little(page_memory_pool(), legacy_memory_limit(0));
    const auto sizes = parquet::ParquetFileReader::Open(state_->source, reader_properties(&little));
    state_->schema = detect_legacy_schema(*sizes->metadata()->schema(), path);
    const uint64_t elements = largest_legacy_row_group(*sizes, state_->schema, path);
    state_->pool.emplace(page_memory_pool(), legacy_memory_limit(elements));
    state_->reader = parquet::ParquetFileReader::Open(
        state_->source, reader_properties(&*state_->pool), sizes->metadata());
  } catch (...) {
    rethrow_as_metadata(path);
  }
}

LegacyFile::~LegacyFile() = default;
LegacyFile::LegacyFile(LegacyFile&&) noexcept = default;

LegacyLayout LegacyFile::layout() const noexcept { return state_->schema.layout; }

SourceFile LegacyFile::identity() const { return state_->identity; }

std::vector<LegacyRecord> LegacyFile::records() {
  try {
    return read_legacy_records(*state_->reader, state_->schema, state_->path);
  } catch (...) {
    rethrow_as_metadata(state_->path);
  }
}

const LegacyValue& LegacyFile::value(const LegacyTensor& tensor, const std::string& name) {
  std::optional<RowGroupCursor>& cursor = state_->cursor;
  try {
    if (cursor && cursor->is_at(tensor)) return cursor->value();
    if (!cursor || !cursor->can_reach(tensor)) {
      cursor.reset();  // its page goes before the next comes
      cursor.emplace(*state_->reader, tensor.row_group, state_->schema, state_->path);
    }
    cursor->advance(tensor, name);
    return cursor->value();
  } catch (...) {
    cursor.reset();
    rethrow_as_metadata(state_->path, name);
  }
}

}  // namespace arrow_quant
