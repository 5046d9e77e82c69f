#include "read/legacy/record.h"

#include <arrow/util/utf8.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "core/checked.h"
#include "core/json.h"
#include "core/text.h"
#include "read/legacy/columns.h"

namespace arrow_quant {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxRows = 1'000'000;
constexpr size_t kMaxNameBytes = 4096;
constexpr size_t kMaxRank = 8;
constexpr int64_t kMaxDim = int64_t{1} << 48;

std::string text_of(std::optional<std::string_view> value, const char* column,
                    const std::string& path) {
  if (!value) return {};
  static const bool kReady = (arrow::util::InitializeUTF8(), true);
  if (!kReady || value->size() > kMaxNameBytes || value->find('\0') != std::string_view::npos ||
      !arrow::util::ValidateUTF8(*value)) {
    fail_legacy(path, std::string("column '") + column + "': expected UTF-8 text of at most " +
                          std::to_string(kMaxNameBytes) + " bytes");
  }
  return std::string(*value);
}

/// The shapes of rows.
template <typename Dim>
class ShapeColumn {
 public:
  ShapeColumn(parquet::RowGroupReader& group, const LegacySchema& schema, const std::string& path)
      : lists_(group, schema.shape, path) {}

  /// The next row's shape, or nothing when no tensor has it.
  std::optional<std::vector<uint64_t>> next() {
    std::optional<std::vector<uint64_t>> shape(std::in_place);
    lists_.next([&](const auto& dim) {
      if (!dim || *dim < 0 || int64_t{*dim} > kMaxDim || (shape && shape->size() == kMaxRank)) {
        shape.reset();
      }
      if (shape) shape->push_back(static_cast<uint64_t>(*dim));
    });
    return shape;
  }

 private:
  LegacyLists<Dim> lists_;
};

bool has_wide_shape(const parquet::RowGroupReader& group, const LegacySchema& schema) {
  return LegacyIntegers::physical_type(group, schema.shape) == parquet::Type::INT64;
}

// Product of the shape, or nothing when it is more than can be addressed; zero dimensions do not
// hide an overflow of the others.
std::optional<uint64_t> product_of(const std::vector<uint64_t>& shape) {
  uint64_t elements = 1;
  for (const uint64_t dim : shape) {
    const auto next = checked_mul(elements, std::max<uint64_t>(dim, 1));
    if (!next || *next > static_cast<uint64_t>(kMaxDim)) return std::nullopt;
    elements = *next;
  }
  return std::ranges::find(shape, 0U) != shape.end() ? 0 : elements;
}

// What the rows of a group say they have; rows that cannot be true are refused later, by name.
template <typename Dim>
uint64_t row_group_elements(parquet::RowGroupReader& group, const LegacySchema& schema,
                            const std::string& path) {
  ShapeColumn<Dim> shapes(group, schema, path);
  uint64_t total = 0;
  for (int64_t i = 0; i < group.metadata()->num_rows(); ++i) {
    const auto shape = shapes.next();
    total += shape ? product_of(*shape).value_or(0) : 0;  // 2^48 times a million rows fits
  }
  return total;
}

/// How many numbers each row has in `scales` or `zero_points`.
class RealCounts {
 public:
  RealCounts(parquet::RowGroupReader& group, int column, bool binary, const std::string& path)
      : binary_(group, binary ? column : -1, path), lists_(group, binary ? -1 : column, path) {}

  uint64_t next(const std::string& path, const std::string& tensor, uint64_t most) {
    uint64_t count = 0;
    lists_.next([&](const auto&) {
      if (++count > most) fail_legacy(path, "more scales or zero points than weights", tensor);
    });
    const auto bytes = binary_.next();
    if (!bytes) return count;
    if (bytes->size() % sizeof(float) != 0) {
      fail_legacy(path,
                  "scales or zero points of " + std::to_string(bytes->size()) +
                      " bytes, which are no whole float32 numbers",
                  tensor);
    }
    return bytes->size() / sizeof(float);
  }

 private:
  LegacyBytes binary_;
  LegacyLists<parquet::FloatType> lists_;
};

Json parse_parameters(std::string_view json, const std::string& path, const std::string& tensor) {
  Json document = parse_json(json, path, {.max_depth = 8});
  if (!document.is_object()) fail_legacy(path, "parameters in JSON: expected an object", tensor);
  return document;
}

bool is_enabled(const Json& parameters) {
  const auto found = parameters.find("enabled");
  return found == parameters.end() || !found->is_boolean() || found->get<bool>();
}

std::optional<uint64_t> time_groups_of(std::optional<std::string_view> json,
                                       const std::string& path, const std::string& tensor) {
  if (!json || json->empty()) return std::nullopt;
  const Json parameters = parse_parameters(*json, path, tensor);
  if (!is_enabled(parameters)) return std::nullopt;
  const auto count = parameters.find("num_time_groups");
  if (count == parameters.end() || !count->is_number_unsigned()) {
    fail_legacy(path, "time_aware_quant_json: expected a number 'num_time_groups'", tensor);
  }
  return count->get<uint64_t>();
}

std::optional<uint64_t> equalization_of(std::optional<std::string_view> json,
                                        const std::string& path, const std::string& tensor) {
  if (!json || json->empty()) return std::nullopt;
  if (!is_enabled(parse_parameters(*json, path, tensor))) return std::nullopt;
  return parse_legacy_equalization(*json, path, tensor).size();
}

/// All columns of a row group, row by row.
template <typename Dim>
class RecordColumns {
 public:
  RecordColumns(parquet::RowGroupReader& group, const LegacySchema& schema, const std::string& path)
      : path_(path),
        shape_(group, schema, path),
        num_params_(group, schema.num_params, path),
        name_(group, schema.name, path),
        dtype_(group, schema.dtype, path),
        data_(group, schema.data, path),
        quant_type_(group, schema.quant_type, path),
        scales_(group, schema.scales, is_binary(schema), path),
        zero_points_(group, schema.zero_points, is_binary(schema), path),
        quant_axis_(group, schema.quant_axis, path),
        group_size_(group, schema.group_size, path),
        modality_(group, schema.modality, path),
        time_aware_(group, schema.time_aware, path),
        spatial_(group, schema.spatial, path) {}

  LegacyRecord next() {
    LegacyRecord record;
    record.name = text_of(name_.next(), "layer_name", path_);
    if (record.name.empty()) fail_legacy(path_, "a row without a layer_name");
    read_size(record);
    record.dtype = text_of(dtype_.next(), "dtype", path_);
    record.quant_type = text_of(quant_type_.next(), "quant_type", path_);
    const uint64_t most = std::max<uint64_t>(record.elements, 65536);
    record.scales = scales_.next(path_, record.name, most);
    record.zero_points = zero_points_.next(path_, record.name, most);
    record.quant_axis = quant_axis_.next();
    record.group_size = group_size_.next();
    record.modality = text_of(modality_.next(), "modality", path_);
    record.time_groups = time_groups_of(time_aware_.next(), path_, record.name);
    record.equalization = equalization_of(spatial_.next(), path_, record.name);
    record.data_bytes = data_.next().value_or(std::string_view()).size();
    return record;
  }

 private:
  // The number of weights, on which the shape and num_params must agree.
  void read_size(LegacyRecord& record) {
    auto shape = shape_.next();
    const auto elements = shape ? product_of(*shape) : std::nullopt;
    if (!elements) fail_legacy(path_, "a shape that no tensor has", record.name);
    record.shape = std::move(*shape);
    record.elements = *elements;
    const auto num_params = num_params_.next();
    if (!num_params || static_cast<uint64_t>(*num_params) == *elements) return;
    throw Error(ErrorCode::kShapeMismatch,
                "the shape has " + std::to_string(*elements) + " elements, num_params says " +
                    std::to_string(*num_params),
                {.path = path_, .tensor = record.name});
  }

  static bool is_binary(const LegacySchema& schema) noexcept {
    return schema.layout == LegacyLayout::kQuantizedTable;
  }

  const std::string& path_;
  ShapeColumn<Dim> shape_;
  LegacyIntegers num_params_;
  LegacyBytes name_;
  LegacyBytes dtype_;
  LegacyBytes data_;
  LegacyBytes quant_type_;
  RealCounts scales_;
  RealCounts zero_points_;
  LegacyIntegers quant_axis_;
  LegacyIntegers group_size_;
  LegacyBytes modality_;
  LegacyBytes time_aware_;
  LegacyBytes spatial_;
};

template <typename Dim>
void append_records(parquet::RowGroupReader& group, int number, const LegacySchema& schema,
                    const std::string& path, std::vector<LegacyRecord>& out) {
  RecordColumns<Dim> columns(group, schema, path);
  for (int64_t i = 0; i < group.metadata()->num_rows(); ++i) {
    out.push_back(columns.next());
    out.back().row_group = number;
    out.back().row = i;
  }
}

}  // namespace

int64_t legacy_memory_limit(uint64_t elements) noexcept {
  // A weight takes at most 8 bytes of data, and 8 of scale and zero point. A page may be there
  // compressed, decompressed, and as a dictionary.
  constexpr uint64_t kPerElement = uint64_t{3} * 16;
  constexpr uint64_t kBase = 64ULL << 20;
  return static_cast<int64_t>(kBase + std::min(elements, uint64_t{1} << 48) * kPerElement);
}

uint64_t largest_legacy_row_group(parquet::ParquetFileReader& file, const LegacySchema& schema,
                                  const std::string& path) {
  const parquet::FileMetaData& facts = *file.metadata();
  if (facts.num_rows() < 0 || facts.num_rows() > kMaxRows) {
    fail_legacy(path, "expected at most a million rows, found " + std::to_string(facts.num_rows()));
  }
  uint64_t largest = 0;
  int64_t rows = 0;
  for (int i = 0; i < facts.num_row_groups(); ++i) {
    const auto group = file.RowGroup(i);
    const int64_t count = group->metadata()->num_rows();
    if (count < 0 || count > facts.num_rows() - rows) {
      fail_legacy(path, "the row groups have more rows than the file");
    }
    rows += count;
    largest = std::max(largest, has_wide_shape(*group, schema)
                                    ? row_group_elements<parquet::Int64Type>(*group, schema, path)
                                    : row_group_elements<parquet::Int32Type>(*group, schema, path));
  }
  return largest;
}

std::vector<LegacyRecord> read_legacy_records(parquet::ParquetFileReader& file,
                                              const LegacySchema& schema, const std::string& path) {
  std::vector<LegacyRecord> records;
  for (int i = 0; i < file.metadata()->num_row_groups(); ++i) {
    const auto group = file.RowGroup(i);
    if (has_wide_shape(*group, schema)) {
      append_records<parquet::Int64Type>(*group, i, schema, path, records);
    } else {
      append_records<parquet::Int32Type>(*group, i, schema, path, records);
    }
  }
  return records;
}

std::vector<float> parse_legacy_equalization(std::string_view json, const std::string& path,
                                             const std::string& tensor) {
  const Json parameters = parse_parameters(json, path, tensor);
  const auto found = parameters.find("equalization_scales");
  if (found == parameters.end() || found->is_null()) return {};
  if (!found->is_array()) {
    fail_legacy(path, "spatial_quant_json: expected a list 'equalization_scales'", tensor);
  }
  std::vector<float> scales;
  scales.reserve(found->size());
  for (const Json& scale : *found) {
    const float value =
        scale.is_number() ? scale.get<float>() : std::numeric_limits<float>::quiet_NaN();
    if (!std::isfinite(value)) {
      fail_legacy(path,
                  "spatial_quant_json: equalization_scales has a value that is no finite number",
                  tensor);
    }
    scales.push_back(value);
  }
  return scales;
}

}  // namespace arrow_quant
