// Names to enums, with an error that lists the names.
#pragma once

#include <string>
#include <string_view>

#include "arrow_quant/dtype.h"
#include "arrow_quant/error.h"
#include "arrow_quant/pipeline.h"
#include "arrow_quant/quantized_tensor.h"

namespace arrow_quant::python {

inline DType dtype_from(std::string_view name) {
  if (const auto dtype = parse_dtype(name)) return *dtype;
  throw Error(ErrorCode::kConfiguration, "unknown element type '" + std::string(name) + "'");
}

inline Method method_from(std::string_view name) {
  for (const Method method : {Method::kRtn, Method::kSearch, Method::kGptq, Method::kR2q}) {
    if (name == to_string(method)) return method;
  }
  throw Error(
      ErrorCode::kConfiguration,
      "expected method 'rtn', 'search', 'gptq' or 'r2q', found '" + std::string(name) + "'");
}

inline FallbackScope fallback_scope_from(std::string_view name) {
  if (name == "model") return FallbackScope::kModel;
  if (name == "layer") return FallbackScope::kLayer;
  throw Error(ErrorCode::kConfiguration,
              "expected fallback_scope 'model' or 'layer', found '" + std::string(name) + "'");
}

inline ParamEncoding param_encoding_from(std::string_view name) {
  for (const ParamEncoding encoding : {ParamEncoding::kTwoLevel, ParamEncoding::kFp16,
                                       ParamEncoding::kRow, ParamEncoding::kResidualBinary}) {
    if (name == to_string(encoding)) return encoding;
  }
  throw Error(ErrorCode::kConfiguration,
              "expected param_encoding 'two_level', 'fp16', 'row' or 'residual_binary', found '" +
                  std::string(name) + "'");
}

}  // namespace arrow_quant::python
