// Layout B: rows of quantized weights with binary scales.
#include <optional>
#include <string>

#include "arrow_quant/error.h"
#include "core/text.h"
#include "read/legacy/columns.h"
#include "read/legacy/tensor.h"

namespace arrow_quant {
namespace {

LegacyGroups groups_of(const LegacyRecord& record, const std::string& path) {
  const int64_t group_size = record.group_size.value_or(0);
  const int64_t axis = record.quant_axis.value_or(-1);
  if (group_size < 0) {
    fail_legacy(path, "group_size is " + std::to_string(group_size), record.name);
  }
  if (group_size > 0) {
    const auto size = static_cast<uint64_t>(group_size);
    return {.count = record.elements / size + (record.elements % size != 0 ? 1 : 0), .block = size};
  }
  if (axis == -1) return {.count = 1, .block = record.elements};
  if (axis < 0 || static_cast<uint64_t>(axis) >= record.shape.size()) {
    fail_legacy(path,
                "quant_axis is " + std::to_string(axis) + " for a shape of " +
                    std::to_string(record.shape.size()) + " dimensions",
                record.name);
  }
  uint64_t stride = 1;
  for (size_t i = static_cast<size_t>(axis) + 1; i < record.shape.size(); ++i) {
    stride *= record.shape[i];
  }
  return {.count = record.shape[static_cast<size_t>(axis)], .stride = stride};
}

// fp16 and fp32 rows: the width comes from the bytes, so the label is only a hint.
LegacyTensor interpret_float(const LegacyRecord& record, const std::string& kind,
                             const std::string& path) {
  LegacyRecord plain = record;
  const bool is_half = record.elements != 0 && record.data_bytes / record.elements == 2;
  if (kind == "fp16" || kind == "fp32") {
    const bool bfloat = legacy_label(record.dtype) == "bfloat16" && kind != "fp16";
    plain.dtype = !is_half ? "float32" : bfloat ? "bfloat16" : "float16";
  }
  return interpret_plain_values(plain, path);
}

}  // namespace

LegacyTensor interpret_table_row(const LegacyRecord& record, const std::string& path) {
  const std::string kind = legacy_label(record.quant_type);
  if (kind.empty() || kind == "none" || kind == "fp16" || kind == "fp32") {
    return interpret_float(record, kind, path);
  }
  if (kind != "int8" && kind != "int2") {
    throw Error(ErrorCode::kMetadata,
                "quant_type '" + printable(record.quant_type) + "' is not known",
                {.path = path,
                 .tensor = record.name,
                 .hint = "This layout has int8, int2, fp16, fp32 and none."});
  }
  LegacyTensor tensor{.row_group = record.row_group, .row = record.row};
  tensor.codes = kind == "int8" ? LegacyCodes::kSigned8 : LegacyCodes::kPacked2;
  tensor.bit_width = kind == "int8" ? 8 : 2;
  tensor.data_bytes = record.data_bytes;
  if (record.elements != 0 && record.data_bytes == 0) fail_legacy_absent(record, path);
  const uint64_t bytes =
      kind == "int8" ? record.elements : record.elements / 4 + (record.elements % 4 != 0 ? 1 : 0);
  if (record.data_bytes != bytes) {
    fail_legacy_size("bytes of " + kind + " data", bytes, record.data_bytes, record, path);
  }
  if (record.elements == 0) return tensor;
  tensor.groups = groups_of(record, path);
  tensor.zero_points = record.zero_points;
  if (record.scales != tensor.groups.count) {
    fail_legacy_size("scales", tensor.groups.count, record.scales, record, path);
  }
  if (record.zero_points != 0 && record.zero_points != tensor.groups.count) {
    fail_legacy_size("zero points", tensor.groups.count, record.zero_points, record, path);
  }
  return tensor;
}

}  // namespace arrow_quant
