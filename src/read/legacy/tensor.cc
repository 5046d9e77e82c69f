// Layout A, and the plain values that occur in all of them.
#include "read/legacy/tensor.h"

#include <algorithm>
#include <array>
#include <optional>

#include "arrow_quant/error.h"
#include "core/text.h"
#include "read/legacy/columns.h"

namespace arrow_quant {
namespace {

struct Label {
  std::string_view text;
  DType dtype;
};

constexpr std::array kLabels = {
    Label{"float64", DType::kF64},   Label{"double", DType::kF64}, Label{"f64", DType::kF64},
    Label{"float32", DType::kF32},   Label{"float", DType::kF32},  Label{"f32", DType::kF32},
    Label{"float16", DType::kF16},   Label{"half", DType::kF16},   Label{"f16", DType::kF16},
    Label{"bfloat16", DType::kBF16}, Label{"bf16", DType::kBF16},  Label{"int64", DType::kI64},
    Label{"int32", DType::kI32},     Label{"int16", DType::kI16},  Label{"int8", DType::kI8},
    Label{"uint8", DType::kU8},      Label{"bool", DType::kBool},
};

std::optional<DType> dtype_of_label(const std::string& label) {
  const auto found = std::ranges::find(kLabels, label, &Label::text);
  return found == kLabels.end() ? std::nullopt : std::optional(found->dtype);
}

bool is_real(DType dtype) { return dtype_info(dtype).quantizable; }

// The width that the bytes have decides; the label, between types of one width.
std::optional<DType> dtype_of_width(DType labelled, uint64_t width) {
  if (width * 8 == dtype_info(labelled).bits) return labelled;
  if (!is_real(labelled)) return std::nullopt;
  if (width == 4) return DType::kF32;
  if (width == 8) return DType::kF64;
  return std::nullopt;
}

}  // namespace

std::string legacy_label(std::string_view text) {
  if (text.starts_with("torch.")) text.remove_prefix(6);
  std::string label(text);
  std::ranges::transform(label, label.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return label;
}

void fail_legacy_size(const std::string& what, uint64_t expected, uint64_t found,
                      const LegacyRecord& record, const std::string& path) {
  throw Error(ErrorCode::kShapeMismatch,
              what + ": expected " + std::to_string(expected) + ", found " + std::to_string(found),
              {.path = path, .tensor = record.name});
}

void fail_legacy_absent(const LegacyRecord& record, const std::string& path) {
  throw Error(ErrorCode::kMetadata,
              "the weights are absent: the row has no data for " + std::to_string(record.elements) +
                  " weights",
              {.path = path,
               .tensor = record.name,
               .hint = "Whatever wrote this file left them out; convert the model again."});
}

LegacyTensor interpret_plain_values(const LegacyRecord& record, const std::string& path) {
  const auto labelled = dtype_of_label(legacy_label(record.dtype));
  if (!labelled) {
    fail_legacy(path, "dtype '" + printable(record.dtype) + "' is not known", record.name);
  }
  LegacyTensor tensor{.row_group = record.row_group, .row = record.row, .dtype = *labelled};
  tensor.data_bytes = record.data_bytes;
  if (record.elements == 0) {
    if (record.data_bytes != 0)
      fail_legacy_size("bytes of data", 0, record.data_bytes, record, path);
    return tensor;
  }
  if (record.data_bytes == 0) fail_legacy_absent(record, path);
  const uint64_t width = record.data_bytes / record.elements;
  const auto dtype = dtype_of_width(*labelled, width);
  if (!dtype || record.data_bytes % record.elements != 0) {
    fail_legacy_size("bytes of data for " + record.dtype,
                     record.elements * (dtype_info(*labelled).bits / 8), record.data_bytes, record,
                     path);
  }
  tensor.dtype = *dtype;
  return tensor;
}

LegacyTensor interpret_legacy(LegacyLayout layout, const LegacyRecord& record,
                              const std::string& path) {
  switch (layout) {
    case LegacyLayout::kFloatTable:
      return interpret_plain_values(record, path);
    case LegacyLayout::kQuantizedTable:
      return interpret_table_row(record, path);
    case LegacyLayout::kTensorFiles:
    case LegacyLayout::kDiffusionFiles:
      break;
  }
  return interpret_tensor_file(layout, record, path);
}

}  // namespace arrow_quant
