#include "arrow_quant/dtype.h"

#include <array>

namespace arrow_quant {
namespace {

// Indexed by the enum's value; the static_assert below keeps the order honest.
constexpr std::array kTable = {
    DTypeInfo{DType::kBool, "BOOL", 8, false},
    DTypeInfo{DType::kU8, "U8", 8, false},
    DTypeInfo{DType::kI8, "I8", 8, false},
    DTypeInfo{DType::kI16, "I16", 16, false},
    DTypeInfo{DType::kU16, "U16", 16, false},
    DTypeInfo{DType::kF16, "F16", 16, true},
    DTypeInfo{DType::kBF16, "BF16", 16, true},
    DTypeInfo{DType::kI32, "I32", 32, false},
    DTypeInfo{DType::kU32, "U32", 32, false},
    DTypeInfo{DType::kF32, "F32", 32, true},
    DTypeInfo{DType::kC64, "C64", 64, false},
    DTypeInfo{DType::kF64, "F64", 64, true},
    DTypeInfo{DType::kI64, "I64", 64, false},
    DTypeInfo{DType::kU64, "U64", 64, false},
    DTypeInfo{DType::kF8E4M3, "F8_E4M3", 8, true},
    DTypeInfo{DType::kF8E5M2, "F8_E5M2", 8, true},
    DTypeInfo{DType::kF8E4M3FNUZ, "F8_E4M3FNUZ", 8, true},
    DTypeInfo{DType::kF8E5M2FNUZ, "F8_E5M2FNUZ", 8, true},
    DTypeInfo{DType::kF8E8M0, "F8_E8M0", 8, false},
    DTypeInfo{DType::kF4, "F4", 4, false},
    DTypeInfo{DType::kF6E2M3, "F6_E2M3", 6, false},
    DTypeInfo{DType::kF6E3M2, "F6_E3M2", 6, false},
};

constexpr bool table_is_in_enum_order() {
  for (size_t i = 0; i < kTable.size(); ++i) {
    if (static_cast<size_t>(kTable[i].dtype) != i) return false;
  }
  return true;
}
static_assert(table_is_in_enum_order());

}  // namespace

const DTypeInfo& dtype_info(DType dtype) noexcept { return kTable[static_cast<size_t>(dtype)]; }

std::optional<DType> parse_dtype(std::string_view name) noexcept {
  for (const DTypeInfo& info : kTable) {
    if (info.name == name) return info.dtype;
  }
  return std::nullopt;
}

}  // namespace arrow_quant
