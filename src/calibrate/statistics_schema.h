// The columns of a calibration file, in one place for the writer and the reader
// (docs/reference/calibration-file.md).
#pragma once

#include <arrow/type.h>

#include <memory>
#include <string_view>

namespace arrow_quant::statistics_schema {

inline constexpr std::string_view kVersionKey = "arrow_quant_v2.calibration";
inline constexpr std::string_view kVersion = "2";
inline constexpr std::string_view kComponentKey = "component";
inline constexpr std::string_view kDataKey = "data";
inline constexpr std::string_view kNotesKey = "notes";
inline constexpr std::string_view kFoldsKey = "folds";  // JSON; absent where nobody looked for them
inline constexpr std::string_view kSensitivitiesKey = "sensitivities";  // JSON; absent: unknown
inline constexpr std::string_view kRolesKey = "roles";  // JSON; absent: nobody looked
// JSON; absent where each sensitivity is of one run.
inline constexpr std::string_view kSensitivityRunsKey = "sensitivity_runs";

// Kinds of rows.
inline constexpr std::string_view kLayer = "layer";
inline constexpr std::string_view kGram = "gram";
inline constexpr std::string_view kHeldOut = "held_out_gram";
inline constexpr std::string_view kTime = "time";

/// Position of each column.
enum StatColumn : int {
  kStatKind,
  kStatInput,
  kStatChannels,
  kStatBlock,
  kStatTokens,
  kStatName,
  kStatShape,
  kStatSample,
  kStatBegin,
  kStatEnd,
  kStatLow,
  kStatHigh,
  kStatSum,
  kStatSquares,
  kStatRowBegin,
  kStatRows,
  kStatGram,
  kStatFittedWeight,
  kStatFittedSum,
  kStatHeldOutWeight,
  kStatHeldOutSum,
  kStatFittedSample,
  kStatHeldOutSample,
  kStatCount,
};

inline const std::shared_ptr<arrow::Schema>& schema() {
  using arrow::field;
  static const std::shared_ptr<arrow::Schema> all = arrow::schema({
      field("kind", arrow::utf8(), false),
      field("input", arrow::int32(), false),
      field("channels", arrow::int64(), false),
      field("block", arrow::int64()),
      field("tokens", arrow::int64()),
      field("name", arrow::utf8()),
      field("shape", arrow::list(field("element", arrow::int64(), false))),
      field("sample", arrow::list(field("element", arrow::float32(), false))),
      field("time_begin", arrow::float64()),
      field("time_end", arrow::float64()),
      field("low", arrow::list(field("element", arrow::float32(), false))),
      field("high", arrow::list(field("element", arrow::float32(), false))),
      field("sum", arrow::list(field("element", arrow::float64(), false))),
      field("sum_squares", arrow::list(field("element", arrow::float64(), false))),
      field("row_begin", arrow::int64()),
      field("rows", arrow::int64()),
      field("gram", arrow::binary()),
      field("fitted_weight", arrow::float64()),
      field("fitted_sum", arrow::list(field("element", arrow::float64(), false))),
      field("held_out_weight", arrow::float64()),
      field("held_out_sum", arrow::list(field("element", arrow::float64(), false))),
      field("fitted_sample", arrow::binary()),
      field("held_out_sample", arrow::binary()),
  });
  return all;
}

}  // namespace arrow_quant::statistics_schema
