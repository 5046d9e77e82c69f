// What a row of an old layout means: plain values of some type, or integers with scales. Pure
// functions of the record; docs/reference/old-layouts.md has the rules.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "arrow_quant/dtype.h"
#include "arrow_quant/model_index.h"
#include "read/legacy/record.h"
#include "read/legacy/schema.h"

namespace arrow_quant {

/// How the bytes of a row hold its weights.
enum class LegacyCodes : uint8_t {
  kValues,     ///< plain values of LegacyTensor::dtype
  kSigned8,    ///< one two's complement byte each
  kUnsigned8,  ///< one unsigned byte each
  kPacked2,    ///< four to a byte, u = q + 2
};

/// Which scale an element of the flattened tensor uses.
struct LegacyGroups {
  uint64_t count = 0;   ///< scales in use
  uint64_t block = 1;   ///< consecutive elements that share one; the last group takes what is left
  uint64_t stride = 0;  ///< when not 0, element i uses (i / stride) % count instead

  uint64_t of(uint64_t element) const noexcept {
    if (stride != 0) return element / stride % count;
    const uint64_t group = element / block;
    return group < count ? group : count - 1;
  }
};

/// A row as the rest of the library sees it. Integers read as F32: w = (q - zero_point) * scale.
struct LegacyTensor {
  int row_group = 0;
  int64_t row = 0;
  DType dtype = DType::kF32;
  LegacyCodes codes = LegacyCodes::kValues;
  int bit_width = 0;  ///< as the row is labelled; 0 for plain values
  LegacyGroups groups;
  uint64_t row_elements = 1;  ///< weights that share a factor of the equalization
  uint64_t zero_points = 0;   ///< how many; 0: all are zero
  uint64_t equalization = 0;  ///< how many factors; 0: none
  uint64_t data_bytes = 0;
  bool in_companion = false;  ///< the data are the file `<stem>.bin` beside it
};

/// Interpret a row. Raises kMetadata or kShapeMismatch, naming the tensor; also when the weights
/// are absent.
LegacyTensor interpret_legacy(LegacyLayout layout, const LegacyRecord& record,
                              const std::string& path);

/// The rules of each family, used by interpret_legacy.
LegacyTensor interpret_plain_values(const LegacyRecord& record, const std::string& path);
LegacyTensor interpret_table_row(const LegacyRecord& record, const std::string& path);
LegacyTensor interpret_tensor_file(LegacyLayout layout, const LegacyRecord& record,
                                   const std::string& path);

/// Text in lower case without a leading "torch.".
std::string legacy_label(std::string_view text);

/// Raise kShapeMismatch.
[[noreturn]] void fail_legacy_size(const std::string& what, uint64_t expected, uint64_t found,
                                   const LegacyRecord& record, const std::string& path);

/// Raise kMetadata: a row that should have weights has no bytes.
[[noreturn]] void fail_legacy_absent(const LegacyRecord& record, const std::string& path);

}  // namespace arrow_quant
