#include "write/component_writer.h"

#include <arrow/util/key_value_metadata.h>
#include <parquet/column_writer.h>
#include <parquet/file_writer.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <span>
#include <string_view>
#include <utility>

#include "arrow_quant/error.h"
#include "arrow_quant/format.h"
#include "core/hash.h"
#include "io/equalization_factors.h"
#include "io/file_reader.h"
#include "io/page_memory.h"
#include "io/parquet_footer.h"
#include "io/parquet_schema.h"
#include "io/staged_stream.h"
#include "io/time_params.h"

namespace arrow_quant {
namespace {

constexpr uint64_t kSmallChunk = 1ULL << 20;  // chunks below this share row groups
// A page holds at most 2^31 - 1 bytes: the value, its length and its level.
constexpr int64_t kMaxValueBytes = (1LL << 31) - 64;

parquet::ByteArray byte_array(std::string_view text) {
  return parquet::ByteArray(static_cast<uint32_t>(text.size()),
                            reinterpret_cast<const uint8_t*>(text.data()));
}

template <typename T, typename Allocator>
parquet::ByteArray byte_array(const std::vector<T, Allocator>& values) {
  return parquet::ByteArray(static_cast<uint32_t>(values.size() * sizeof(T)),
                            reinterpret_cast<const uint8_t*>(values.data()));
}

std::shared_ptr<parquet::WriterProperties> writer_properties() {
  return parquet::WriterProperties::Builder()
      .memory_pool(page_memory_pool())
      // One page per column and row group: none is cut before the chunk's own memory is released.
      ->data_pagesize(kMaxValueBytes)
      ->disable_dictionary()
      ->encoding(parquet::Encoding::PLAIN)
      ->compression(parquet::Compression::UNCOMPRESSED)
      ->disable_statistics()
      ->enable_statistics("name")
      ->disable_write_page_index()
      ->enable_page_checksum()
      ->data_page_version(parquet::ParquetDataPageVersion::V1)
      ->version(parquet::ParquetVersion::PARQUET_2_6)
      ->created_by("arrow-quant-v2 version " ARROW_QUANT_VERSION)
      ->build();
}

}  // namespace

struct ComponentWriter::Row {
  QuantizedTensorInfo info;
  QuantizedChunk chunk;
  std::vector<uint8_t> factors = pack_factors(chunk.equalization);
};

/// One Parquet file.
class ComponentWriter::Part {
 public:
  Part(std::unique_ptr<StagedFile> file, const std::map<std::string, std::string>& metadata)
      : file_(std::move(file)), stream_(std::make_shared<StagedStream>(*file_)) {
    auto key_values = std::make_shared<arrow::KeyValueMetadata>();
    for (const auto& [key, value] : metadata) key_values->Append(key, value);
    writer_ = parquet::ParquetFileWriter::Open(stream_, artefact_schema(), writer_properties(),
                                               std::move(key_values));
  }

  uint64_t size() const noexcept { return file_->size(); }

  /// Releases the codes of `rows` as soon as Parquet has its copy.
  void write_row_group(std::vector<Row>& rows) {
    parquet::RowGroupWriter& group = *writer_->AppendRowGroup();
    const auto text = [&](auto get) {
      write_required<parquet::ByteArrayType>(group, rows,
                                             [&](const Row& row) { return byte_array(get(row)); });
    };
    const auto affine = [](const Row& row) { return row.info.encoding != Encoding::kCopy; };
    const auto has_scales = [](const Row& row) { return !row.chunk.row_scales.empty(); };
    const auto has_unit = [&](const Row& row) {
      return affine(row) && row.info.spec.param_encoding == ParamEncoding::kTwoLevel;
    };
    using Bytes = parquet::ByteArrayType;
    using Int = parquet::Int32Type;
    using Float = parquet::FloatType;

    text([](const Row& row) { return std::string_view(row.info.name); });
    write_required<Int>(group, rows, [](const Row& row) { return row.chunk.chunk; });
    write_shapes(group, rows);
    text([](const Row& row) { return dtype_info(row.info.source_dtype).name; });
    text([](const Row& row) { return to_string(row.info.encoding); });
    write_optional<Int>(group, rows, affine,
                        [](const Row& row) { return row.info.spec.bit_width; });
    write_optional<Int>(group, rows, affine,
                        [](const Row& row) { return row.info.spec.group_size; });
    write_optional<Int>(group, rows, affine,
                        [](const Row& row) { return row.info.row_dimensions; });
    write_codes(group, rows);
    write_optional<Bytes>(group, rows, affine, [](const Row& row) {
      return byte_array(to_string(row.info.spec.param_encoding));
    });
    write_optional<Bytes>(group, rows, has_scales,
                          [](const Row& row) { return byte_array(row.chunk.row_scales); });
    write_optional<Float>(group, rows, affine,
                          [](const Row& row) { return row.chunk.tensor_scale; });
    write_optional<Int>(group, rows, has_unit,
                        [](const Row& row) { return int32_t{row.chunk.offset_unit}; });
    write_optional<Bytes>(group, rows, affine,
                          [](const Row& row) { return byte_array(row.chunk.params); });
    write_optional<Bytes>(
        group, rows, [](const Row& row) { return !row.chunk.equalization.empty(); },
        [](const Row& row) { return byte_array(row.factors); });
    write_time_params(group, rows);
    write_optional<Float>(group, rows, affine, [](const Row& row) {
      return static_cast<float>(row.chunk.error.cosine());
    });
    write_optional<Float>(group, rows, affine, [](const Row& row) {
      return static_cast<float>(row.chunk.error.nmse());
    });
    const auto has_outputs = [](const Row& row) { return row.chunk.output_error.count != 0; };
    write_optional<Float>(group, rows, has_outputs, [](const Row& row) {
      return static_cast<float>(row.chunk.output_error.cosine());
    });
    write_optional<Float>(group, rows, has_outputs, [](const Row& row) {
      return static_cast<float>(row.chunk.output_error.nmse());
    });
    write_required<parquet::Int64Type>(
        group, rows, [](const Row& row) { return static_cast<int64_t>(row.chunk.row_begin); });
    write_optional<Bytes>(group, rows, affine, [](const Row& row) {
      return byte_array(to_string(row.info.spec.method));
    });
    write_optional<Bytes>(
        group, rows, [](const Row& row) { return !row.info.candidates.empty(); },
        [](const Row& row) { return byte_array(std::string_view(row.info.candidates)); });
    group.Close();
  }

  FileRecord close(const std::map<std::string, std::string>& metadata) {
    auto key_values = std::make_shared<arrow::KeyValueMetadata>();
    for (const auto& [key, value] : metadata) key_values->Append(key, value);
    writer_->AddKeyValueMetadata(key_values);
    writer_->Close();
    FileRecord record = file_->close();
    record.footer_hash = parquet_footer_hash(FileReader(file_->final_path()));
    return record;
  }

  const std::string& path() const noexcept { return file_->final_path(); }

 private:
  template <typename Type>
  static auto& next_column(parquet::RowGroupWriter& group) {
    return static_cast<parquet::TypedColumnWriter<Type>&>(*group.NextColumn());
  }

  template <typename Type, typename Get>
  static void write_required(parquet::RowGroupWriter& group, const std::vector<Row>& rows,
                             Get get) {
    auto& column = next_column<Type>(group);
    for (const Row& row : rows) {
      const typename Type::c_type value = get(row);
      column.WriteBatch(1, nullptr, nullptr, &value);
    }
    column.Close();
  }

  static void write_codes(parquet::RowGroupWriter& group, std::vector<Row>& rows) {
    auto& column = next_column<parquet::ByteArrayType>(group);
    for (Row& row : rows) {
      const parquet::ByteArray value = byte_array(row.chunk.codes);
      column.WriteBatch(1, nullptr, nullptr, &value);
      row.chunk.codes = ByteBuffer();
    }
    column.Close();
  }

  static void write_time_params(parquet::RowGroupWriter& group, const std::vector<Row>& rows) {
    auto& column = next_column<parquet::ByteArrayType>(group);
    for (const Row& row : rows) {
      const std::vector<uint8_t> bytes = pack_time_groups(row.chunk.time_groups);
      const int16_t level = bytes.empty() ? 0 : 1;
      const parquet::ByteArray value = byte_array(bytes);
      column.WriteBatch(1, &level, nullptr, &value);
    }
    column.Close();
  }

  template <typename Type, typename Has, typename Get>
  static void write_optional(parquet::RowGroupWriter& group, const std::vector<Row>& rows, Has has,
                             Get get) {
    auto& column = next_column<Type>(group);
    for (const Row& row : rows) {
      const int16_t level = has(row) ? 1 : 0;
      typename Type::c_type value{};
      if (level == 1) value = get(row);
      column.WriteBatch(1, &level, nullptr, &value);
    }
    column.Close();
  }

  static void write_shapes(parquet::RowGroupWriter& group, const std::vector<Row>& rows) {
    auto& column = next_column<parquet::Int64Type>(group);
    for (const Row& row : rows) {
      const size_t rank = row.info.shape.size();
      const std::vector<int64_t> dims(row.info.shape.begin(), row.info.shape.end());
      // An empty list is one entry that is not defined; the first entry of a list repeats nothing.
      const std::vector<int16_t> defined(std::max<size_t>(1, rank), rank == 0 ? 0 : 1);
      std::vector<int16_t> repeats(defined.size(), 1);
      repeats[0] = 0;
      column.WriteBatch(static_cast<int64_t>(defined.size()), defined.data(), repeats.data(),
                        dims.data());
    }
    column.Close();
  }

  std::unique_ptr<StagedFile> file_;
  std::shared_ptr<StagedStream> stream_;
  std::unique_ptr<parquet::ParquetFileWriter> writer_;
};

ComponentWriter::ComponentWriter(Staging& staging, ComponentWriterOptions options)
    : staging_(staging),
      options_(std::move(options)),
      parts_(options_.planned_bytes > options_.part_size) {}

ComponentWriter::~ComponentWriter() = default;

void ComponentWriter::append(const QuantizedTensorInfo& info, QuantizedChunk chunk) {
  const uint64_t bytes = chunk.codes.size() + chunk.params.size();
  if (std::max(chunk.codes.size(), chunk.params.size()) > static_cast<size_t>(kMaxValueBytes)) {
    throw Error(ErrorCode::kOutput, "one row of this tensor exceeds 2 GiB, the limit of Parquet",
                {.tensor = info.name, .hint = "Reshape the tensor into more rows."});
  }
  if (!pending_.empty() && pending_bytes_ + bytes > kSmallChunk) flush();
  pending_.push_back({info, std::move(chunk)});
  pending_bytes_ += bytes;
  if (pending_bytes_ > kSmallChunk) flush();
}

void ComponentWriter::flush() {
  if (pending_.empty()) return;
  try {
    if (part_ && parts_ && part_->size() + pending_bytes_ > options_.part_size) {
      parts_done_.push_back(std::move(part_));
    }
    if (!part_) {
      const std::string prefix = options_.directory.empty() ? "" : options_.directory + "/";
      std::string relative = prefix + kWeightsFile;
      if (parts_) {
        std::array<char, 32> name{};
        std::snprintf(name.data(), name.size(), "/part-%05zu.parquet", parts_done_.size());
        relative += name.data();
      }
      part_ = std::make_unique<Part>(staging_.create(relative), options_.metadata);
    }
    part_->write_row_group(pending_);
  } catch (...) {
    rethrow_parquet_error(part_ ? part_->path() : staging_.path(), true);
  }
  pending_.clear();
  pending_bytes_ = 0;
}

std::vector<FileRecord> ComponentWriter::finish(
    const std::map<std::string, std::string>& metadata) {
  flush();
  if (part_) parts_done_.push_back(std::move(part_));
  std::vector<FileRecord> records;
  for (const std::unique_ptr<Part>& part : parts_done_) {
    try {
      records.push_back(part->close(metadata));
    } catch (...) {
      rethrow_parquet_error(part->path(), true);
    }
  }
  parts_done_.clear();
  return records;
}

}  // namespace arrow_quant
