#include "kernels/dequantize_rows.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "codec/fp16.h"
#include "codec/residual_binary.h"
#include "codec/spec.h"
#include "codec/two_level.h"
#include "core/half.h"
#include "kernels/convert.h"
#include "kernels/rtn.h"
#include "kernels/unpack.h"

namespace arrow_quant {
namespace {

// Groups handled at a time; their levels live on the stack.
constexpr size_t kRun = 64;

// Outputs of at least this many bytes are written past the caches: they would evict everything else
// and be evicted themselves before anyone reads them.
constexpr size_t kStreamBytes = size_t{1} << 20;

struct Run {
  std::array<float, kRun> step, base;
};

/// Levels of `groups` fp16 (scale, offset) pairs.
void load_pairs(const uint8_t* params, size_t groups, Run& run) {
  std::array<uint16_t, kRun> scales, offsets;
  for (size_t g = 0; g < groups; ++g) {
    const codec::fp16::Param param = codec::fp16::read(params, g);
    scales[g] = param.scale;
    offsets[g] = param.offset;
  }
  (void)convert_to_f32(DType::kF16, scales.data(), groups, run.step.data());
  (void)convert_to_f32(DType::kF16, offsets.data(), groups, run.base.data());
}

void dequantize_residual_row(const AffineSpec& spec, const PackedRows& packed, const uint8_t* codes,
                             const uint8_t* params, float scale, const DequantizeTarget& target,
                             float* out) {
  const size_t group = codec::weights_per_param(spec);
  Run run;
  for (size_t begin = 0; begin < packed.cols; begin += kRun * group) {
    const size_t count = std::min(kRun * group, packed.cols - begin);
    codec::residual_binary::levels(params + begin / group, (count + group - 1) / group, scale,
                                   run.step.data(), run.base.data());
    dequantize_residual_binary(codes + packed_row_bytes(begin, spec.bit_width), count,
                               run.step.data(), run.base.data(), group, target, out + begin);
  }
}

/// Parameters of one row in runs of kRun groups; `scale` is the row's, unused for fp16.
void dequantize_row(const AffineSpec& spec, const PackedRows& packed, const uint8_t* codes,
                    const uint8_t* params, float scale, const DequantizeTarget& target,
                    float* out) {
  const bool two_level = spec.param_encoding == ParamEncoding::kTwoLevel;
  const size_t group = codec::weights_per_param(spec);
  const size_t param_bytes = codec::bytes_per_param(spec.param_encoding);
  const float limit =
      two_level ? codec::two_level::kMaxV * scale : std::numeric_limits<float>::infinity();
  const TwoLevelRow row{spec.bit_width, static_cast<float>(packed.offset_unit), scale};
  Run run;
  for (size_t begin = 0; begin < packed.cols; begin += kRun * group) {
    const size_t count = std::min(kRun * group, packed.cols - begin);
    const size_t groups = (count + group - 1) / group;
    const uint8_t* from = params + begin / group * param_bytes;
    if (two_level) {
      two_level_levels(row, from, groups, run.step.data(), run.base.data());
    } else {
      load_pairs(from, groups, run);
    }
    dequantize_groups(spec.bit_width, codes + packed_row_bytes(begin, spec.bit_width), count,
                      {run.step.data(), run.base.data(), group}, limit, target, out + begin);
  }
}

void divide_columns(const PackedRows& packed, float* row) noexcept {
  const size_t span = packed.columns_per_factor;
  for (size_t c = 0; c < packed.cols; c += span) {
    const float factor = packed.equalization[c / span];
    for (size_t i = c; i < std::min(c + span, packed.cols); ++i) row[i] /= factor;
  }
}

}  // namespace

void dequantize_rows(const AffineSpec& spec, const PackedRows& packed, float* out) noexcept {
  const size_t code_bytes = packed_row_bytes(packed.cols, spec.bit_width);
  const size_t param_bytes = param_row_bytes(packed.cols, spec);
  const DequantizeTarget target{
      packed.tensor_scale,
      packed.equalization == nullptr && packed.rows * packed.cols * sizeof(float) >= kStreamBytes};
  for (size_t r = 0; r < packed.rows; ++r) {
    const uint8_t* codes = packed.codes + r * code_bytes;
    float* to = out + r * packed.cols;
    const float scale =
        spec.param_encoding == ParamEncoding::kFp16 ? 1.0F : f16_to_f32(packed.row_scales[r]);
    if (spec.param_encoding == ParamEncoding::kRow) {
      dequantize_int8(codes, packed.cols, scale, target, to);
    } else if (spec.param_encoding == ParamEncoding::kResidualBinary) {
      dequantize_residual_row(spec, packed, codes, packed.params + r * param_bytes, scale, target,
                              to);
    } else {
      dequantize_row(spec, packed, codes, packed.params + r * param_bytes, scale, target, to);
    }
    if (packed.equalization != nullptr) divide_columns(packed, to);
  }
  if (target.stream) finish_stream();
}

void unpack_rows(const AffineSpec& spec, const PackedRows& packed, uint8_t* out) noexcept {
  const size_t code_bytes = packed_row_bytes(packed.cols, spec.bit_width);
  for (size_t r = 0; r < packed.rows; ++r) {
    unpack_codes(spec.bit_width, packed.codes + r * code_bytes, packed.cols, out + r * packed.cols);
  }
}

void expand_int8_rows(const AffineSpec& spec, const PackedRows& packed, int8_t* out) noexcept {
  if (spec.param_encoding == ParamEncoding::kRow) {
    std::memcpy(out, packed.codes, packed.rows * packed.cols);
    return;
  }
  const size_t code_bytes = packed_row_bytes(packed.cols, spec.bit_width);
  const size_t param_bytes = param_row_bytes(packed.cols, spec);
  const size_t group = codec::weights_per_param(spec);
  for (size_t r = 0; r < packed.rows; ++r) {
    const uint8_t* codes = packed.codes + r * code_bytes;
    const uint8_t* params = packed.params + r * param_bytes;
    int8_t* to = out + r * packed.cols;
    if (spec.param_encoding == ParamEncoding::kResidualBinary) {
      expand_residual_binary(codes, packed.cols, params, group, to);
    } else {
      expand_two_level(spec.bit_width, codes, packed.cols, params, packed.offset_unit, group, to);
    }
  }
}

}  // namespace arrow_quant
