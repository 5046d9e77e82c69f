// Packed codes of many outputs straight to a panel of the int8 kernels (kernels/gemm_int8.h).
//
// The packed bytes are transposed before they are expanded, when they are few; then outputs are
// vector lanes, and each lane has the parameters of its own sub-group. Pure functions, safe from
// many threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/gemm_int8.h"

namespace arrow_quant {

/// The same inputs of up to kPanelColumns outputs.
struct PackedPanel {
  const uint8_t* codes = nullptr;  ///< of the first output
  size_t code_stride = 0;          ///< bytes to the next output
  const uint8_t* params = nullptr;
  size_t param_stride = 0;
  const int8_t* offset_units = nullptr;  ///< m of each output; null: residual binary codes
  size_t outputs = 0;
  size_t inputs = 0;
  size_t group = 0;  ///< codes per parameter byte
  int bits = 0;      ///< 2 or 4
};

/// Whether sub-groups of `group` codes of `bits` bits are whole quads of packed bytes.
constexpr bool expands_to_panel(int bits, size_t group) noexcept {
  return bits != 8 && group % (32 / static_cast<size_t>(bits)) == 0;
}

/// Bytes that expand_panel writes: inputs are filled up to whole quads of packed bytes.
constexpr size_t expanded_bytes(int bits, size_t inputs) noexcept {
  const size_t codes = 32 / static_cast<size_t>(bits);
  return panel_bytes((inputs + codes - 1) / codes * codes);
}

/// Bytes of scratch that expand_panel needs.
constexpr size_t expand_scratch_bytes(int bits, size_t inputs, size_t group) noexcept {
  return expanded_bytes(bits, inputs) * static_cast<size_t>(bits) / 8 +
         panel_bytes((inputs + group - 1) / group);
}

/// Expand as expand_two_level or expand_residual_binary does (kernels/unpack.h). What follows the
/// inputs in their last quads, and missing outputs, are arbitrary weights. Needs
/// expands_to_panel().
void expand_panel(const PackedPanel& from, uint8_t* scratch, uint8_t* panel) noexcept;

}  // namespace arrow_quant
