#include "arrow_quant/quantized_tensor.h"

#include <algorithm>
#include <cmath>

namespace arrow_quant {

std::string_view to_string(Encoding encoding) noexcept {
  switch (encoding) {
    case Encoding::kCopy:
      return "copy";
    case Encoding::kAffine:
      return "affine";
    case Encoding::kResidualBinary:
      return "residual_binary";
  }
  return "";
}

std::string_view to_string(ParamEncoding encoding) noexcept {
  switch (encoding) {
    case ParamEncoding::kTwoLevel:
      return "two_level";
    case ParamEncoding::kFp16:
      return "fp16";
    case ParamEncoding::kRow:
      return "row";
    case ParamEncoding::kResidualBinary:
      return "residual_binary";
  }
  return "";
}

std::string_view to_string(Method method) noexcept {
  switch (method) {
    case Method::kRtn:
      return "rtn";
    case Method::kSearch:
      return "search";
    case Method::kGptq:
      return "gptq";
    case Method::kR2q:
      return "r2q";
    case Method::kLearned:
      return "learned";
  }
  return "";
}

double ErrorSums::nmse() const noexcept { return err == 0 ? 0 : err / ww; }

double ErrorSums::cosine() const noexcept {
  if (ww == 0 && vv == 0) return 1;
  if (ww == 0 || vv == 0) return 0;
  return wv / std::sqrt(ww * vv);
}

uint64_t QuantizedTensorInfo::elements() const noexcept {
  uint64_t n = 1;
  for (uint64_t dim : shape) n *= dim;
  return n;
}

uint64_t QuantizedTensorInfo::rows() const noexcept {
  const size_t last = std::min(shape.size(), static_cast<size_t>(row_dimensions));
  uint64_t n = 1;
  for (size_t i = 0; i < last; ++i) n *= shape[i];
  return n;
}

uint64_t QuantizedTensorInfo::cols() const noexcept {
  uint64_t n = 1;
  for (size_t i = static_cast<size_t>(row_dimensions); i < shape.size(); ++i) n *= shape[i];
  return n;
}

uint64_t QuantizedTensorInfo::channels() const noexcept {
  const auto first = static_cast<size_t>(row_dimensions);
  return first < shape.size() ? shape[first] : 0;
}

void QuantizedTensorInfo::keep_rows(uint64_t count) {
  if (row_dimensions == 1) {
    shape.at(0) = count;
    return;
  }
  shape = {count, cols()};
  row_dimensions = 1;
}

}  // namespace arrow_quant
