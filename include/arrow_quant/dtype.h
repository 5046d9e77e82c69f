// Element types of weight files, in one table (name, bits, whether the type can be quantized).
//
// Names are those of the safetensors format. A name that is not in the table is an error before
// anything else about the tensor is looked at.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "arrow_quant/api.h"

namespace arrow_quant {

/// An element type; the names are those of safetensors without underscores.
enum class DType : uint8_t {
  kBool,
  kU8,
  kI8,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
  kF8E4M3,
  kF8E5M2,
  kF8E4M3FNUZ,
  kF8E5M2FNUZ,
  kF8E8M0,
  kF4,
  kF6E2M3,
  kF6E3M2,
};

/// Facts about an element type.
struct DTypeInfo {
  DType dtype;            ///< which one
  std::string_view name;  ///< safetensors name, for example "BF16"
  uint32_t bits;          ///< bits per element; 4 and 6 occur
  bool quantizable;       ///< F64 F32 F16 BF16 F8_E4M3 F8_E5M2 and their FNUZ forms
};

/// Facts about `dtype`; never fails.
ARROW_QUANT_API const DTypeInfo& dtype_info(DType dtype) noexcept;

/// The type with the safetensors name `name` (case matters), or nothing.
ARROW_QUANT_API std::optional<DType> parse_dtype(std::string_view name) noexcept;

}  // namespace arrow_quant
