#include "run/panel_source.h"

#include <algorithm>
#include <cstring>

#include "core/half.h"
#include "kernels/gemm_int8.h"
#include "kernels/unpack.h"

namespace arrow_quant {
namespace {

size_t parameter_group(const AffineSpec& spec) noexcept {
  const auto group = static_cast<size_t>(spec.group_size);
  const bool sub_groups = spec.param_encoding == ParamEncoding::kTwoLevel ||
                          spec.param_encoding == ParamEncoding::kResidualBinary;
  return sub_groups ? group / 4 : group;
}

size_t outputs_of(const PackedWeight& weight, const PanelStretch& stretch) noexcept {
  return std::min(kPanelColumns, weight.outputs - stretch.first_output);
}

void expand_row(const PackedWeight& weight, size_t row, const PanelStretch& stretch, int8_t* out) {
  const uint8_t* codes = weight.codes +
                         row * packed_row_bytes(weight.inputs, weight.spec.bit_width) +
                         packed_row_bytes(stretch.begin, weight.spec.bit_width);
  if (weight.spec.param_encoding == ParamEncoding::kRow) {
    std::memcpy(out, codes, stretch.count);
    return;
  }
  const size_t group = parameter_group(weight.spec);
  const uint8_t* params =
      weight.params + row * param_row_bytes(weight.inputs, weight.spec) + stretch.begin / group;
  if (weight.spec.param_encoding == ParamEncoding::kResidualBinary) {
    expand_residual_binary(codes, stretch.count, params, group, out);
    return;
  }
  expand_two_level(weight.spec.bit_width, codes, stretch.count, params, weight.offset_unit, group,
                   out);
}

}  // namespace

size_t stretch_length(const PackedWeight& weight) noexcept {
  if (weight.spec.param_encoding == ParamEncoding::kRow) return kStretch;
  const size_t group = parameter_group(weight.spec);
  if (weight.spec.param_encoding == ParamEncoding::kFp16) return group;
  return std::max<size_t>(1, kStretch / group) * group;
}

void expand_stretch(const PackedWeight& weight, const PanelStretch& stretch,
                    PanelScratch& scratch) {
  const size_t outputs = outputs_of(weight, stretch);
  scratch.rows.resize(kPanelColumns * stretch.count);
  scratch.panel.resize(panel_bytes(stretch.count));
  auto* rows = reinterpret_cast<int8_t*>(scratch.rows.data());
  for (size_t o = 0; o < outputs; ++o) {
    expand_row(weight, stretch.first_output + o, stretch, rows + o * stretch.count);
  }
  fill_panel(rows, stretch.count, outputs, stretch.count, scratch.panel.data());
}

void unpack_group(const PackedWeight& weight, const PanelStretch& stretch, PanelScratch& scratch) {
  const size_t outputs = outputs_of(weight, stretch);
  scratch.rows.resize(kPanelColumns * stretch.count);
  scratch.panel.resize(panel_bytes(stretch.count));
  scratch.scales.assign(kPanelColumns, 0.0F);
  scratch.offsets.assign(kPanelColumns, 0.0F);
  const size_t group = stretch.begin / static_cast<size_t>(weight.spec.group_size);
  for (size_t o = 0; o < outputs; ++o) {
    const size_t row = stretch.first_output + o;
    const int bits = weight.spec.bit_width;
    unpack_codes(bits,
                 weight.codes + row * packed_row_bytes(weight.inputs, bits) +
                     packed_row_bytes(stretch.begin, bits),
                 stretch.count, scratch.rows.data() + o * stretch.count);
    uint16_t pair[2];
    std::memcpy(pair, weight.params + row * param_row_bytes(weight.inputs, weight.spec) + 4 * group,
                sizeof(pair));
    scratch.scales[o] = weight.tensor_scale * f16_to_f32(pair[0]);
    scratch.offsets[o] = weight.tensor_scale * f16_to_f32(pair[1]);
  }
  fill_panel_codes(scratch.rows.data(), stretch.count, outputs, stretch.count,
                   scratch.panel.data());
}

}  // namespace arrow_quant
