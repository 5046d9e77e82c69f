#include "read/artefact_rows.h"

#include <cmath>
#include <optional>
#include <utility>

#include "arrow_quant/error.h"
#include "codec/spec.h"
#include "io/parquet_schema.h"
#include "read/artefact_damage.h"
#include "read/parquet_column.h"

namespace arrow_quant {
namespace {

std::string text_of(const parquet::ByteArray& value) {
  return {reinterpret_cast<const char*>(value.ptr), value.len};
}

// The shapes of all rows: a list column, separated by repetition levels.
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
      fail_damaged(path, "a shape that no tensor has");
    }
    shapes.back().push_back(static_cast<uint64_t>(dim));
  }
  if (shapes.size() != static_cast<size_t>(rows)) {
    fail_damaged(path, "as many shapes as rows expected");
  }
  return shapes;
}

Encoding parse_encoding(const std::string& name, const std::string& path) {
  for (const Encoding encoding : {Encoding::kCopy, Encoding::kAffine, Encoding::kResidualBinary}) {
    if (name == to_string(encoding)) return encoding;
  }
  throw Error(ErrorCode::kValidation, "encoding '" + name + "' is not known to this version",
              {.path = path, .hint = "Upgrade arrow-quant-v2."});
}

ParamEncoding parse_param_encoding(const std::string& name, const std::string& path) {
  for (const ParamEncoding encoding : {ParamEncoding::kTwoLevel, ParamEncoding::kFp16,
                                       ParamEncoding::kRow, ParamEncoding::kResidualBinary}) {
    if (name == to_string(encoding)) return encoding;
  }
  throw Error(ErrorCode::kValidation, "param_encoding '" + name + "' is not known to this version",
              {.path = path, .hint = "Upgrade arrow-quant-v2."});
}

void check_spec(const AffineSpec& spec, const std::string& path, const std::string& tensor) {
  const std::string problem = codec::spec_problem(spec);
  if (problem.empty()) return;
  fail_damaged(path, "bit width, group size and parameter encoding do not fit together: " + problem,
               tensor);
}

/// A column that the first files do not have.
std::optional<BytesColumn> later_column(parquet::RowGroupReader& group, int column,
                                        const std::string& path) {
  if (column >= group.metadata()->num_columns()) return std::nullopt;
  return BytesColumn(group, column, path);
}

/// The columns that are null for copies.
class AffineColumns {
 public:
  AffineColumns(parquet::RowGroupReader& group, const std::string& path)
      : path_(path),
        bit_width_(group, kColBitWidth, path),
        group_size_(group, kColGroupSize, path),
        axis_(group, kColAxis, path),
        param_encoding_(group, kColParamEncoding, path),
        tensor_scale_(group, kColTensorScale, path),
        offset_unit_(group, kColOffsetUnit, path),
        equalization_(group, kColEqualization, path),
        time_params_(group, kColTimeParams, path),
        cosine_(group, kColCosine, path),
        nmse_(group, kColNmse, path),
        output_cosine_(group, kColOutputCosine, path),
        output_nmse_(group, kColOutputNmse, path),
        method_(later_column(group, kColMethod, path)),
        candidates_(later_column(group, kColCandidates, path)) {}

  /// Advance all columns; copies take nothing from them.
  void read(PartRow& row) {
    const auto bits = bit_width_.next();
    const auto group_size = group_size_.next();
    const auto axis = axis_.next();
    const auto params = param_encoding_.next();
    const auto scale = tensor_scale_.next();
    const auto unit = offset_unit_.next();
    const auto equalization = equalization_.next();
    const auto time_params = time_params_.next();
    const auto cosine = cosine_.next();
    const auto nmse = nmse_.next();
    const auto output_cosine = output_cosine_.next();
    const auto output_nmse = output_nmse_.next();
    const auto method = method_ ? method_->next() : std::nullopt;
    const auto candidates = candidates_ ? candidates_->next() : std::nullopt;
    if (row.info.encoding == Encoding::kCopy) return;
    const std::string& tensor = row.info.name;
    if (!bits || !group_size || !axis || !params || !scale || !cosine || !nmse) {
      fail_damaged(path_, "an affine tensor without its parameters", tensor);
    }
    row.info.spec = {.bit_width = *bits,
                     .group_size = *group_size,
                     .param_encoding = parse_param_encoding(text_of(*params), path_)};
    check_spec(row.info.spec, path_, tensor);
    if (encoding_of(row.info.spec) != row.info.encoding) {
      fail_damaged(path_, "encoding and param_encoding do not fit together", tensor);
    }
    const bool stacked = *axis == 2 && row.info.shape.size() >= 3;
    if (*axis != 1 && !stacked) {
      fail_damaged(path_, "expected axis 1, found " + std::to_string(*axis), tensor);
    }
    row.info.row_dimensions = *axis;
    row.tensor_scale = check_scale(*scale, tensor);
    row.offset_unit = check_unit(unit, row.info.spec, tensor);
    if (equalization) row.extra_bytes += equalization->len;
    if (time_params) row.extra_bytes += time_params->len;
    row.info.cosine = *cosine;
    row.info.nmse = *nmse;
    if (output_cosine) row.info.output_cosine = *output_cosine;
    if (output_nmse) row.info.output_nmse = *output_nmse;
    if (method) row.info.method = text_of(*method);
    if (candidates) row.info.candidates = text_of(*candidates);
  }

 private:
  float check_scale(float scale, const std::string& tensor) const {
    if (std::isfinite(scale) && scale > 0) return scale;
    fail_damaged(path_, "tensor_scale is not a positive number", tensor);
  }

  int8_t check_unit(std::optional<int32_t> unit, const AffineSpec& spec,
                    const std::string& tensor) const {
    const bool two_level = spec.param_encoding == ParamEncoding::kTwoLevel;
    const auto value = static_cast<int8_t>(unit.value_or(0));
    if (unit.has_value() == two_level && value == unit.value_or(0)) return value;
    fail_damaged(path_, "offset_unit does not fit the parameter encoding", tensor);
  }

  const std::string& path_;
  Int32Column bit_width_;
  Int32Column group_size_;
  Int32Column axis_;
  BytesColumn param_encoding_;
  FloatColumn tensor_scale_;
  Int32Column offset_unit_;
  BytesColumn equalization_;
  BytesColumn time_params_;
  FloatColumn cosine_;
  FloatColumn nmse_;
  FloatColumn output_cosine_;
  FloatColumn output_nmse_;
  std::optional<BytesColumn> method_;
  std::optional<BytesColumn> candidates_;
};

}  // namespace

void read_rows(parquet::RowGroupReader& group, int number, const std::string& path,
               std::vector<PartRow>& out) {
  const int64_t rows = group.metadata()->num_rows();
  auto shapes = read_shapes(group, rows, path);
  BytesColumn name(group, kColName, path);
  BytesColumn dtype(group, kColSourceDtype, path);
  BytesColumn encoding(group, kColEncoding, path);
  Int32Column chunk(group, kColChunk, path);
  Int64Column row_begin(group, kColRowBegin, path);
  AffineColumns affine(group, path);
  for (int64_t i = 0; i < rows; ++i) {
    PartRow row{.row_group = number, .row_in_group = i};
    row.info.name = text_of(name.require());
    row.info.shape = std::move(shapes[static_cast<size_t>(i)]);
    const auto parsed_dtype = parse_dtype(text_of(dtype.require()));
    if (!parsed_dtype) fail_damaged(path, "unknown source dtype", row.info.name);
    row.info.source_dtype = *parsed_dtype;
    row.info.encoding = parse_encoding(text_of(encoding.require()), path);
    row.chunk = chunk.require();
    const int64_t begin = row_begin.require();
    if (begin < 0) fail_damaged(path, "a negative row_begin", row.info.name);
    row.row_begin = static_cast<uint64_t>(begin);
    affine.read(row);
    out.push_back(std::move(row));
  }
}

}  // namespace arrow_quant
