// Products of int8 activations and int8 weights, accumulated exactly in 32 bits.
//
// Weights come in panels of kPanelColumns outputs: [quads][kPanelColumns][4] bytes, four
// consecutive inputs of one output side by side, stored as v + 128 (unsigned). The layout is the
// same on every instruction set. Pure functions, safe from many threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace arrow_quant {

/// Outputs of a panel.
inline constexpr size_t kPanelColumns = 64;

/// What a byte of a panel has on top of its weight.
inline constexpr int kPanelBias = 128;

/// Inputs that one call may sum over without leaving 32 bits: 2^31 / (127 * 255), in whole quads.
inline constexpr size_t kMaxReduction = 65536;

/// Bytes of a panel of `inputs` inputs.
constexpr size_t panel_bytes(size_t inputs) noexcept {
  return (inputs + 3) / 4 * 4 * kPanelColumns;
}

/// Put weights[outputs][stride] of `inputs` inputs each into a panel; missing outputs and the rest
/// of the last quad become the weight 0. `outputs` <= kPanelColumns.
void fill_panel(const int8_t* weights, size_t stride, size_t outputs, size_t inputs,
                uint8_t* panel) noexcept;

/// Put unsigned codes as they are (no bias) into a panel.
void fill_panel_codes(const uint8_t* codes, size_t stride, size_t outputs, size_t inputs,
                      uint8_t* panel) noexcept;

/// Rows of activations to multiply by a panel. Segment p of row r starts `segments[p]` bytes behind
/// rows[r] and has `quads` * 4 signed bytes; the panel holds the segments one after the other. A
/// matrix product has one segment, at 0; a convolution one for every position of its kernel.
struct PanelRows {
  const int8_t* const* rows = nullptr;
  size_t count = 0;
  std::span<const ptrdiff_t> segments;
  size_t quads = 0;  ///< of a segment
};

/// sums[count][kPanelColumns] = or += sum over all inputs of activation * byte of the panel.
void multiply_panel(const PanelRows& a, const uint8_t* panel, bool accumulate,
                    int32_t* sums) noexcept;

}  // namespace arrow_quant
