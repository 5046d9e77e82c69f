// Weights as panels of the int8 kernels, a stretch of inputs at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "arrow_quant/quantized_tensor.h"

namespace arrow_quant {

/// Inputs that are taken at a time: a panel of this many and the rows it is made of take 128 KiB.
inline constexpr size_t kStretch = 1024;

/// A panel of kPanelColumns outputs over inputs [begin, begin + count).
struct PanelStretch {
  size_t first_output = 0;
  size_t begin = 0;
  size_t count = 0;
};

/// How many inputs a stretch has: about kStretch, in whole groups of parameters; one group of
/// `fp16` parameters.
size_t stretch_length(const PackedWeightView& weight) noexcept;

/// Memory of one thread that makes panels.
struct PanelScratch {
  std::vector<uint8_t> rows;  ///< expanded rows
  std::vector<uint8_t> panel;
  std::vector<float> scales, offsets;  ///< of one group, kPanelColumns each
};

/// Expand a stretch to int8: rows of `count` values, one after the other, in scratch.rows.
const int8_t* expand_rows(const PackedWeightView& weight, const PanelStretch& stretch,
                          PanelScratch& scratch);

/// Expand a stretch to int8 and put it into scratch.panel. Not for `fp16` parameters.
void expand_stretch(const PackedWeightView& weight, const PanelStretch& stretch,
                    PanelScratch& scratch);

/// Put the codes of one group of `fp16` parameters into scratch.panel, its scales and offsets
/// (times tensor_scale) beside it.
void unpack_group(const PackedWeightView& weight, const PanelStretch& stretch,
                  PanelScratch& scratch);

}  // namespace arrow_quant
