#include "read/parquet_part.h"

#include <arrow/buffer.h>
#include <arrow/io/interfaces.h>
#include <arrow/result.h>
#include <arrow/util/key_value_metadata.h>
#include <parquet/column_reader.h>
#include <parquet/file_reader.h>
#include <parquet/schema.h>

#include <cmath>
#include <utility>

#include "arrow_quant/error.h"
#include "io/file_reader.h"
#include "io/parquet_footer.h"
#include "io/parquet_schema.h"

namespace arrow_quant {
namespace {

[[noreturn]] void fail(const std::string& path, const std::string& what,
                       const std::string& tensor = {}) {
  throw Error(ErrorCode::kValidation, what,
              {.path = path, .tensor = tensor, .hint = "The artefact is damaged: quantize again."});
}

/// Our reader as Arrow's random-access file. Stateless but for Tell and Seek, which Parquet does
/// not use for reading; ReadAt is thread-safe.
class PreadFile final : public arrow::io::RandomAccessFile {
 public:
  explicit PreadFile(FileReader file) : file_(std::move(file)) {}

  arrow::Status Close() override { return arrow::Status::OK(); }
  bool closed() const override { return false; }
  arrow::Result<int64_t> GetSize() override { return static_cast<int64_t>(file_.size()); }
  arrow::Result<int64_t> Tell() const override { return position_; }
  arrow::Status Seek(int64_t position) override {
    position_ = position;
    return arrow::Status::OK();
  }

  arrow::Result<int64_t> ReadAt(int64_t position, int64_t bytes, void* out) override {
    if (position < 0 || bytes < 0 || static_cast<uint64_t>(position) > file_.size() ||
        static_cast<uint64_t>(bytes) > file_.size() - static_cast<uint64_t>(position)) {
      return arrow::Status::IOError("a range beyond the end of the file");
    }
    file_.read_exact(static_cast<uint64_t>(position),
                     {static_cast<std::byte*>(out), static_cast<size_t>(bytes)});
    return bytes;
  }
  arrow::Result<std::shared_ptr<arrow::Buffer>> ReadAt(int64_t position, int64_t bytes) override {
    // Checked before the allocation, so that a damaged length cannot ask for much.
    if (bytes < 0 || static_cast<uint64_t>(bytes) > file_.size()) {
      return arrow::Status::IOError("a range beyond the end of the file");
    }
    ARROW_ASSIGN_OR_RAISE(auto buffer, arrow::AllocateBuffer(bytes));
    ARROW_RETURN_NOT_OK(ReadAt(position, bytes, buffer->mutable_data()).status());
    return std::shared_ptr<arrow::Buffer>(std::move(buffer));
  }
  arrow::Result<int64_t> Read(int64_t bytes, void* out) override {
    ARROW_ASSIGN_OR_RAISE(const int64_t done, ReadAt(position_, bytes, out));
    position_ += done;
    return done;
  }
  arrow::Result<std::shared_ptr<arrow::Buffer>> Read(int64_t bytes) override {
    ARROW_ASSIGN_OR_RAISE(auto buffer, ReadAt(position_, bytes));
    position_ += bytes;
    return buffer;
  }

 private:
  FileReader file_;
  int64_t position_ = 0;
};

/// Reads one column of a row group value by value.
template <typename Type>
class Column {
 public:
  Column(parquet::RowGroupReader& group, int column, const std::string& path)
      : reader_(std::static_pointer_cast<parquet::TypedColumnReader<Type>>(group.Column(column))),
        path_(path) {}

  /// The next value, or nothing when it is null.
  std::optional<typename Type::c_type> next() {
    typename Type::c_type value{};
    int16_t level = 0;
    int64_t values = 0;
    const bool nullable = reader_->descr()->max_definition_level() > 0;
    if (reader_->ReadBatch(1, nullable ? &level : nullptr, nullptr, &value, &values) != 1) {
      fail(path_, "a column ends too early");
    }
    if (values == 0) return std::nullopt;
    return value;
  }

  typename Type::c_type require() {
    const auto value = next();
    if (!value) fail(path_, "a null where a value is needed");
    return *value;
  }

  void skip(int64_t count) {
    if (count > 0 && reader_->Skip(count) != count) fail(path_, "a column ends too early");
  }

 private:
  std::shared_ptr<parquet::TypedColumnReader<Type>> reader_;
  const std::string& path_;
};

using Bytes = Column<parquet::ByteArrayType>;
using Int32 = Column<parquet::Int32Type>;
using Int64 = Column<parquet::Int64Type>;
using Float = Column<parquet::FloatType>;

std::string text_of(const parquet::ByteArray& value) {
  return {reinterpret_cast<const char*>(value.ptr), value.len};
}

std::span<const uint8_t> span_of(const std::optional<parquet::ByteArray>& value) {
  if (!value) return {};
  return {value->ptr, value->len};
}

// The shapes of all rows: a list column, told apart by repetition levels.
std::vector<std::vector<uint64_t>> read_shapes(parquet::RowGroupReader& group, int64_t rows,
                                               const std::string& path) {
  auto reader = std::static_pointer_cast<parquet::Int64Reader>(group.Column(kColShape));
  std::vector<std::vector<uint64_t>> shapes;
  while (reader->HasNext()) {
    int16_t defined = 0;
    int16_t repeats = 0;
    int64_t dim = 0;
    int64_t values = 0;
    if (reader->ReadBatch(1, &defined, &repeats, &dim, &values) != 1) break;
    if (repeats == 0) shapes.emplace_back();
    if (values == 0) continue;
    if (shapes.empty() || dim < 0 || dim > (int64_t{1} << 48) || shapes.back().size() == 8) {
      fail(path, "a shape that no tensor has");
    }
    shapes.back().push_back(static_cast<uint64_t>(dim));
  }
  if (shapes.size() != static_cast<size_t>(rows)) fail(path, "as many shapes as rows expected");
  return shapes;
}

Encoding parse_encoding(const std::string& name, const std::string& path) {
  if (name == to_string(Encoding::kCopy)) return Encoding::kCopy;
  if (name == to_string(Encoding::kAffine)) return Encoding::kAffine;
  fail(path, "unknown encoding '" + name + "'; a newer arrow-quant-v2 may read it");
}

ParamEncoding parse_param_encoding(const std::string& name, const std::string& path) {
  for (const ParamEncoding encoding :
       {ParamEncoding::kTwoLevel, ParamEncoding::kFp16, ParamEncoding::kRow}) {
    if (name == to_string(encoding)) return encoding;
  }
  fail(path, "unknown param_encoding '" + name + "'; a newer arrow-quant-v2 may read it");
}

void check_spec(const AffineSpec& spec, const std::string& path, const std::string& tensor) {
  const int bits = spec.bit_width;
  const bool width = bits == 2 || bits == 4 || bits == 8;
  const bool group = spec.group_size >= 8 && spec.group_size <= 65536 && spec.group_size % 8 == 0;
  const bool two_level =
      spec.param_encoding != ParamEncoding::kTwoLevel || (bits != 8 && spec.group_size % 32 == 0);
  const bool row = spec.param_encoding != ParamEncoding::kRow || bits == 8;
  if (!width || !group || !two_level || !row) {
    fail(path, "bit width, group size and parameter encoding do not fit together", tensor);
  }
}

void read_row_group(parquet::RowGroupReader& group, int number, const std::string& path,
                    std::vector<PartRow>& out) {
  const int64_t rows = group.metadata()->num_rows();
  const auto shapes = read_shapes(group, rows, path);
  Bytes name(group, kColName, path);
  Bytes dtype(group, kColSourceDtype, path);
  Bytes encoding(group, kColEncoding, path);
  Bytes param_encoding(group, kColParamEncoding, path);
  Int32 chunk(group, kColChunk, path);
  Int32 bit_width(group, kColBitWidth, path);
  Int32 group_size(group, kColGroupSize, path);
  Int32 offset_unit(group, kColOffsetUnit, path);
  Float tensor_scale(group, kColTensorScale, path);
  Float cosine(group, kColCosine, path);
  Float nmse(group, kColNmse, path);
  Int64 row_begin(group, kColRowBegin, path);
  for (int64_t i = 0; i < rows; ++i) {
    PartRow row{.row_group = number, .row_in_group = i};
    row.info.name = text_of(name.require());
    row.info.shape = shapes[static_cast<size_t>(i)];
    const auto parsed_dtype = parse_dtype(text_of(dtype.require()));
    if (!parsed_dtype) fail(path, "unknown source dtype", row.info.name);
    row.info.source_dtype = *parsed_dtype;
    row.info.encoding = parse_encoding(text_of(encoding.require()), path);
    row.chunk = chunk.require();
    const int64_t begin = row_begin.require();
    if (begin < 0) fail(path, "a negative row_begin", row.info.name);
    row.row_begin = static_cast<uint64_t>(begin);
    const auto params = param_encoding.next();
    const auto bits = bit_width.next();
    const auto size = group_size.next();
    const auto scale = tensor_scale.next();
    row.offset_unit = static_cast<int8_t>(offset_unit.next().value_or(0));
    row.info.cosine = cosine.next().value_or(1.0F);
    row.info.nmse = nmse.next().value_or(0.0F);
    if (row.info.encoding == Encoding::kAffine) {
      if (!params || !bits || !size || !scale || !std::isfinite(*scale) || !(*scale > 0)) {
        fail(path, "an affine tensor without its parameters", row.info.name);
      }
      row.info.spec = {.bit_width = *bits,
                       .group_size = *size,
                       .param_encoding = parse_param_encoding(text_of(*params), path)};
      row.tensor_scale = *scale;
      check_spec(row.info.spec, path, row.info.name);
    }
    out.push_back(std::move(row));
  }
}

// Ours come first and in order; a later version may have added more behind them.
void check_columns(const parquet::SchemaDescriptor& found, const std::string& path) {
  parquet::SchemaDescriptor expected;
  expected.Init(artefact_schema());
  if (found.num_columns() < kColumnCount) fail(path, "columns are missing");
  for (int i = 0; i < kColumnCount; ++i) {
    if (!found.Column(i)->Equals(*expected.Column(i))) {
      fail(path, "column " + std::to_string(i) + " is not '" + expected.Column(i)->name() + "'");
    }
  }
}

}  // namespace

ParquetPart::ParquetPart(const std::string& folder, const FileRecord& record)
    : path_(folder + "/" + record.path) {
  FileReader file(path_);
  if (file.size() != record.size) {
    fail(path_, "expected " + std::to_string(record.size) + " bytes, found " +
                    std::to_string(file.size()));
  }
  if (parquet_footer_hash(file) != record.footer_hash) {
    fail(path_, "the footer does not match the manifest");
  }
  parquet::ReaderProperties properties;
  properties.set_page_checksum_verification(true);
  try {
    reader_ =
        parquet::ParquetFileReader::Open(std::make_shared<PreadFile>(std::move(file)), properties);
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
      read_row_group(*reader_->RowGroup(i), i, path_, rows);
    }
  } catch (...) {
    rethrow_parquet_error(path_, false);
  }
  return rows;
}

void ParquetPart::visit(const PartRow& row,
                        const std::function<void(const PartBytes&)>& visit) const {
  // The readers own the pages that the spans point into; they live until `visit` returns.
  std::shared_ptr<parquet::RowGroupReader> group;
  std::vector<Bytes> columns;
  PartBytes bytes;
  try {
    group = reader_->RowGroup(row.row_group);
    for (const auto& [column, out] :
         {std::pair{kColCodes, &bytes.codes}, std::pair{kColParams, &bytes.params},
          std::pair{kColRowScales, &bytes.row_scales}}) {
      columns.emplace_back(*group, column, path_).skip(row.row_in_group);
      *out = span_of(columns.back().next());
    }
  } catch (...) {
    rethrow_parquet_error(path_, false);
  }
  visit(bytes);  // its exceptions pass unchanged
}

}  // namespace arrow_quant
