#include "run/panel_source.h"

#include <algorithm>
#include <cstring>

#include "codec/fp16.h"
#include "codec/spec.h"
#include "core/half.h"
#include "kernels/expand_panel.h"
#include "kernels/gemm_int8.h"
#include "kernels/unpack.h"
#include "run/packed_view.h"

namespace arrow_quant {
namespace {

size_t outputs_of(const PackedWeightView& weight, const PanelStretch& stretch) noexcept {
  return std::min(kPanelColumns, weight.rows - stretch.first_output);
}

/// Codes of a row from the first input of a stretch on.
const uint8_t* codes_of(const PackedWeightView& weight, size_t row, const PanelStretch& stretch) {
  const int bits = weight.spec.bit_width;
  return weight.codes.data() + row * packed_row_bytes(weight.cols, bits) +
         packed_row_bytes(stretch.begin, bits);
}

/// Parameters of a row from the group on that a stretch begins with.
const uint8_t* params_of(const PackedWeightView& weight, size_t row, const PanelStretch& stretch) {
  return weight.params.data() + row * param_row_bytes(weight.cols, weight.spec) +
         stretch.begin / codec::weights_per_param(weight.spec) *
             codec::bytes_per_param(weight.spec.param_encoding);
}

void expand_row(const PackedWeightView& weight, size_t row, const PanelStretch& stretch,
                int8_t* out) {
  const uint8_t* codes = codes_of(weight, row, stretch);
  if (weight.spec.param_encoding == ParamEncoding::kRow) {
    std::memcpy(out, codes, stretch.count);
    return;
  }
  const size_t group = codec::weights_per_param(weight.spec);
  const uint8_t* params = params_of(weight, row, stretch);
  if (weight.spec.param_encoding == ParamEncoding::kResidualBinary) {
    expand_residual_binary(codes, stretch.count, params, group, out);
    return;
  }
  expand_two_level(weight.spec.bit_width, codes, stretch.count, params,
                   chunk_of(weight, row).offset_unit, group, out);
}

}  // namespace

size_t stretch_length(const PackedWeightView& weight) noexcept {
  if (weight.spec.param_encoding == ParamEncoding::kRow) return kStretch;
  const size_t group = codec::weights_per_param(weight.spec);
  if (weight.spec.param_encoding == ParamEncoding::kFp16) return group;
  return std::max<size_t>(1, kStretch / group) * group;
}

const int8_t* expand_rows(const PackedWeightView& weight, const PanelStretch& stretch,
                          PanelScratch& scratch) {
  scratch.rows.resize(kPanelColumns * stretch.count);
  auto* rows = reinterpret_cast<int8_t*>(scratch.rows.data());
  for (size_t o = 0; o < outputs_of(weight, stretch); ++o) {
    expand_row(weight, stretch.first_output + o, stretch, rows + o * stretch.count);
  }
  return rows;
}

void expand_stretch(const PackedWeightView& weight, const PanelStretch& stretch,
                    PanelScratch& scratch) {
  const AffineSpec& spec = weight.spec;
  const size_t outputs = outputs_of(weight, stretch);
  const uint8_t* codes = codes_of(weight, stretch.first_output, stretch);
  if (spec.param_encoding == ParamEncoding::kRow) {
    scratch.panel.resize(panel_bytes(stretch.count));
    fill_panel(reinterpret_cast<const int8_t*>(codes), weight.cols, outputs, stretch.count,
               scratch.panel.data());
    return;
  }
  const size_t group = codec::weights_per_param(spec);
  if (!expands_to_panel(spec.bit_width, group)) {
    const int8_t* rows = expand_rows(weight, stretch, scratch);
    scratch.panel.resize(panel_bytes(stretch.count));
    fill_panel(rows, stretch.count, outputs, stretch.count, scratch.panel.data());
    return;
  }
  int8_t units[kPanelColumns];
  for (size_t o = 0; o < outputs; ++o) {
    units[o] = chunk_of(weight, stretch.first_output + o).offset_unit;
  }
  const bool residual = spec.param_encoding == ParamEncoding::kResidualBinary;
  scratch.panel.resize(expanded_bytes(spec.bit_width, stretch.count));
  scratch.rows.resize(expand_scratch_bytes(spec.bit_width, stretch.count, group));
  expand_panel({.codes = codes,
                .code_stride = packed_row_bytes(weight.cols, spec.bit_width),
                .params = params_of(weight, stretch.first_output, stretch),
                .param_stride = param_row_bytes(weight.cols, spec),
                .offset_units = residual ? nullptr : units,
                .outputs = outputs,
                .inputs = stretch.count,
                .group = group,
                .bits = spec.bit_width},
               scratch.rows.data(), scratch.panel.data());
}

void unpack_group(const PackedWeightView& weight, const PanelStretch& stretch,
                  PanelScratch& scratch) {
  const size_t outputs = outputs_of(weight, stretch);
  scratch.rows.resize(kPanelColumns * stretch.count);
  scratch.panel.resize(panel_bytes(stretch.count));
  scratch.scales.assign(kPanelColumns, 0.0F);
  scratch.offsets.assign(kPanelColumns, 0.0F);
  for (size_t o = 0; o < outputs; ++o) {
    const size_t row = stretch.first_output + o;
    unpack_codes(weight.spec.bit_width, codes_of(weight, row, stretch), stretch.count,
                 scratch.rows.data() + o * stretch.count);
    const codec::fp16::Param param = codec::fp16::read(params_of(weight, row, stretch), 0);
    const float unit = chunk_of(weight, row).tensor_scale;
    scratch.scales[o] = unit * f16_to_f32(param.scale);
    scratch.offsets[o] = unit * f16_to_f32(param.offset);
  }
  fill_panel_codes(scratch.rows.data(), stretch.count, outputs, stretch.count,
                   scratch.panel.data());
}

}  // namespace arrow_quant
