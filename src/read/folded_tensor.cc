#include "read/folded_tensor.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "arrow_quant/error.h"
#include "core/text.h"
#include "kernels/convert.h"

namespace arrow_quant {
namespace {

/// What a row is divided by, and the offset of that; 1 and 0 for a row that no fold divides.
std::pair<double, double> division_of(const TensorFold& fold, uint64_t row) noexcept {
  for (const TensorFold::Rows& part : fold.rows) {
    if (row >= part.begin && row - part.begin < part.factors.size()) {
      return {double{part.factors[row - part.begin]}, part.offset};
    }
  }
  return {1.0, 0.0};
}

/// T is float or double; products are rounded once.
template <typename T>
void scale(const TensorFold& fold, uint64_t cols, uint64_t row, std::span<T> values) noexcept {
  const uint64_t span = fold.columns.empty() ? 1 : cols / fold.columns.size();
  for (size_t first = 0; first < values.size(); first += cols, ++row) {
    const auto [divisor, offset] = division_of(fold, row);
    for (uint64_t c = 0; c < cols; ++c) {
      auto value = static_cast<double>(values[first + c]);
      if (!fold.columns.empty()) value *= double{fold.columns[c / span]};
      if (divisor != 1) value = (value + offset) / divisor - offset;
      values[first + c] = static_cast<T>(value);
    }
  }
}

[[noreturn]] void no_fit(const std::string& path, const std::string& name, const char* what) {
  throw Error(ErrorCode::kMetadata, std::string("a fold does not fit the tensor: ") + what,
              {.path = path, .tensor = printable(name)});
}

void add_columns(const ChosenFold& chosen, const TensorInfo& tensor, const std::string& path,
                 TensorFold& fold) {
  if (tensor.shape.size() < 2 || tensor.shape[1] != chosen.factors.size()) {
    no_fit(path, tensor.name, "another number of input channels");
  }
  if (!fold.columns.empty()) no_fit(path, tensor.name, "it is in another fold already");
  fold.columns = chosen.factors;
}

void add_rows(const ChosenFold& chosen, const FoldSource& source, const TensorInfo& tensor,
              const std::string& path, TensorFold& fold) {
  const uint64_t count = chosen.factors.size();
  if (tensor.shape.empty() || source.row > tensor.shape[0] ||
      count > tensor.shape[0] - source.row) {
    no_fit(path, tensor.name, "it has not so many rows");
  }
  for (const TensorFold::Rows& other : fold.rows) {
    if (source.row < other.begin + other.factors.size() && other.begin < source.row + count) {
      no_fit(path, tensor.name, "another fold divides these rows already");
    }
  }
  fold.rows.push_back({.begin = source.row, .offset = source.offset, .factors = chosen.factors});
}

}  // namespace

bool can_fold(DType dtype) noexcept {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16 ||
         dtype == DType::kF64;
}

TensorFolds tensor_folds(std::span<const ChosenFold> folds, const ModelIndex& component,
                         const std::string& path) {
  TensorFolds found;
  if (folds.empty()) return found;
  std::map<std::string, const TensorInfo*> tensors;
  for (const TensorInfo& tensor : component.tensors) tensors[tensor.name] = &tensor;
  const auto tensor_of = [&](const std::string& name) -> const TensorInfo& {
    const auto at = tensors.find(name);
    if (at == tensors.end()) no_fit(path, name, "the model has none of this name");
    if (!can_fold(at->second->dtype)) no_fit(path, name, "its type cannot be scaled");
    return *at->second;
  };
  for (const ChosenFold& chosen : folds) {
    for (const std::string& name : chosen.fold.layers) {
      add_columns(chosen, tensor_of(name), path, found[name]);
    }
    for (const FoldSource& source : chosen.fold.sources) {
      add_rows(chosen, source, tensor_of(source.name), path, found[source.name]);
    }
  }
  return found;
}

void fold_rows(const TensorFold& fold, DType dtype, uint64_t cols, uint64_t row,
               std::span<std::byte> rows) {
  if (cols == 0) return;
  const size_t count = rows.size() * 8 / dtype_info(dtype).bits;
  if (dtype == DType::kF64) {
    std::vector<double> values(count);
    std::memcpy(values.data(), rows.data(), rows.size());
    scale<double>(fold, cols, row, values);
    std::memcpy(rows.data(), values.data(), rows.size());
    return;
  }
  std::vector<float> values(count);
  (void)convert_to_f32(dtype, rows.data(), count, values.data());
  scale<float>(fold, cols, row, values);
  if (dtype == DType::kF32) {
    std::memcpy(rows.data(), values.data(), rows.size());
    return;
  }
  std::vector<uint16_t> halves(count);
  if (dtype == DType::kF16) {
    convert_f32_to_f16(values.data(), count, halves.data());
  } else {
    convert_f32_to_bf16(values.data(), count, halves.data());
  }
  std::memcpy(rows.data(), halves.data(), rows.size());
}

}  // namespace arrow_quant
