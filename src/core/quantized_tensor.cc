#include "arrow_quant/quantized_tensor.h"

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

uint64_t QuantizedTensorInfo::rows() const noexcept { return shape.empty() ? 1 : shape[0]; }

uint64_t QuantizedTensorInfo::cols() const noexcept {
  uint64_t n = 1;
  for (size_t i = 1; i < shape.size(); ++i) n *= shape[i];
  return n;
}

}  // namespace arrow_quant
