// param_encoding "fp16": w = tensor_scale * (scale * code + offset).
#include <algorithm>
#include <array>
#include <limits>

#include "arrow_quant/dtype.h"
#include "codec/fp16.h"
#include "core/half.h"
#include "kernels/convert.h"
#include "kernels/encode.h"
#include "kernels/rtn.h"
#include "kernels/search.h"
#include "quantize/encodings.h"
#include "quantize/group_batch.h"

namespace arrow_quant {
namespace {

// Groups handled at a time; their levels live on the stack.
constexpr size_t kRun = 32;

constexpr uint16_t kOne = 0x3C00, kMinusZero = 0x8000;  // bits of fp16

struct Run {
  std::array<float, kRun> step, base;
};

/// Replace step and base by the nearest fp16 numbers and write them as (scale, offset) pairs. A
/// scale of zero, that of a constant group, becomes 1. Return whether all of them are finite.
bool store_pairs(Run& run, size_t groups, uint8_t* params) {
  std::array<uint16_t, kRun> scales, offsets;
  convert_f32_to_f16(run.step.data(), groups, scales.data());
  convert_f32_to_f16(run.base.data(), groups, offsets.data());
  for (size_t g = 0; g < groups; ++g) {
    if (scales[g] == 0) scales[g] = kOne;
    if (offsets[g] == kMinusZero) offsets[g] = 0;
    codec::fp16::write({scales[g], offsets[g]}, params, g);
  }
  const bool finite_scales = convert_to_f32(DType::kF16, scales.data(), groups, run.step.data());
  const bool finite_offsets = convert_to_f32(DType::kF16, offsets.data(), groups, run.base.data());
  return finite_scales && finite_offsets;
}

/// Store the levels in `run` and encode the groups from `column` on.
bool finish_run(const AffineSpec& spec, float factor, const float* weights, size_t count, Run& run,
                uint8_t* params, uint8_t* codes, ErrorSums& sums) {
  const size_t group = static_cast<size_t>(spec.group_size);
  if (!store_pairs(run, (count + group - 1) / group, params)) return false;
  encode_groups(spec.bit_width, weights, count, factor, {run.step.data(), run.base.data(), group},
                std::numeric_limits<float>::infinity(), codes, sums);
  return true;
}

bool rtn_row(const AffineSpec& spec, float factor, const float* weights, size_t cols,
             uint8_t* params, uint8_t* codes, ErrorSums& sums) {
  const size_t group = static_cast<size_t>(spec.group_size);
  std::array<float, kRun> low, high;
  for (size_t begin = 0; begin < cols; begin += kRun * group) {
    const size_t count = std::min(kRun * group, cols - begin);
    Run run;
    group_ranges(weights + begin, count, group, low.data(), high.data());
    range_levels(spec.bit_width, low.data(), high.data(), (count + group - 1) / group, factor,
                 run.step.data(), run.base.data());
    if (!finish_run(spec, factor, weights + begin, count, run,
                    params + begin / group * codec::fp16::kParamBytes,
                    codes + packed_row_bytes(begin, spec.bit_width), sums)) {
      return false;
    }
  }
  return true;
}

struct SearchScratch {
  GroupBatch batch;
  std::vector<float> step, base;
};

bool search_rows(const AffineSpec& spec, float factor, const RowBlock& block, size_t row_begin,
                 size_t rows, SearchScratch& scratch, const PackedRowsOut& out, ErrorSums& sums) {
  const size_t group = static_cast<size_t>(spec.group_size);
  GroupBatch& batch = scratch.batch;
  batch.load(block, row_begin, rows, group, factor);
  scratch.step.resize(std::max(scratch.step.size(), batch.slots()));
  scratch.base.resize(scratch.step.size());
  for (size_t i = 0; i < batch.tiles(); ++i) {
    search_affine(batch.tile(i), spec.bit_width, SearchEffort::kFull,
                  scratch.step.data() + i * kTileLanes, scratch.base.data() + i * kTileLanes);
  }
  for (size_t r = 0; r < rows; ++r) {
    const size_t row = row_begin + r;
    for (size_t k = 0; k < batch.groups_per_row(); k += kRun) {
      const size_t groups = std::min(kRun, batch.groups_per_row() - k);
      Run run;
      for (size_t g = 0; g < groups; ++g) {
        run.step[g] = scratch.step[batch.slot(r, k + g)];
        run.base[g] = scratch.base[batch.slot(r, k + g)];
      }
      const size_t column = k * group;
      if (!finish_run(
              spec, factor, block.weights + row * block.cols + column,
              std::min(kRun * group, block.cols - column), run,
              out.params + row * param_row_bytes(block.cols, spec) + k * codec::fp16::kParamBytes,
              out.codes + row * packed_row_bytes(block.cols, spec.bit_width) +
                  packed_row_bytes(column, spec.bit_width),
              sums)) {
        return false;
      }
    }
  }
  return true;
}

}  // namespace

bool quantize_fp16(const AffineSpec& spec, float factor, const RowBlock& block,
                   const PackedRowsOut& out, ErrorSums& sums) {
  // At 8 bits the best range is the whole range to within 1e-4 of the error: clipping by a fraction
  // f gains 2 f of range^2 / (12 * 255^2) per weight and costs (f range)^2 / 2 per group.
  if (spec.method != Method::kRtn && spec.bit_width < 8) {
    static thread_local SearchScratch scratch;
    const size_t batch = GroupBatch::rows_for(block.cols, static_cast<size_t>(spec.group_size));
    for (size_t row = 0; row < block.rows; row += batch) {
      const size_t rows = std::min(batch, block.rows - row);
      if (!search_rows(spec, factor, block, row, rows, scratch, out, sums)) return false;
    }
    return true;
  }
  for (size_t row = 0; row < block.rows; ++row) {
    if (!rtn_row(spec, factor, block.weights + row * block.cols, block.cols,
                 out.params + row * param_row_bytes(block.cols, spec),
                 out.codes + row * packed_row_bytes(block.cols, spec.bit_width), sums)) {
      return false;
    }
  }
  return true;
}

}  // namespace arrow_quant
