// param_encoding "residual_binary": w = tensor_scale * row_scale * (q1 * b1 + q2 * b2).
#include "codec/residual_binary.h"
#include "codec/spec.h"
#include "kernels/residual.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "core/half.h"
#include "kernels/feedback.h"
#include "quantize/encodings.h"
#include "quantize/group_batch.h"
#include "quantize/row_scale.h"

namespace arrow_quant {
namespace {

constexpr float kMaxQ1 = codec::residual_binary::kMaxQ1;
constexpr float kMaxQ2 = codec::residual_binary::kMaxQ2;

// Row scales to try: from somewhat above the least that holds every group downwards.
constexpr float kFirstScale = 1.25F;
constexpr float kScaleRatio = 0.94F;
constexpr int kScales = 32;
constexpr size_t kFinalists = 3;

struct Scratch {
  GroupBatch batch;
  std::vector<float> outer, inner, outer_weight, inner_weight, scale, error;
  std::vector<uint8_t> params, best_params, codes;
  std::vector<float> first, second;

  void grow(size_t slots, size_t groups, size_t cols) {
    if (outer.size() < slots) {
      for (auto* buffer : {&outer, &inner, &outer_weight, &inner_weight, &scale, &error}) {
        buffer->resize(slots);
      }
      params.resize(slots), best_params.resize(slots);
    }
    if (first.size() < groups) first.resize(groups), second.resize(groups);
    if (codes.size() < cols) codes.resize(cols);
  }
};

/// A row scale and its error, estimated or real.
struct Candidate {
  float scale = 1;
  double error = HUGE_VAL;
};

using Finalists = std::array<Candidate, kFinalists>;

class BatchSearch {
 public:
  BatchSearch(Scratch& scratch, bool by_range) : s_(scratch), by_range_(by_range) {}

  /// Find row scales and parameters of all rows of the batch: scratch.best_params by slot, `scales`
  /// by row. Return false when a scale does not fit fp16.
  bool run(std::vector<float>& scales);

 private:
  void fit();
  void fit_ranges();
  float min_scale(size_t row) const;
  double estimate(size_t row, float scale) const;
  Finalists screen(size_t row) const;
  void evaluate();

  Scratch& s_;
  bool by_range_;
};

void BatchSearch::fit() {
  for (size_t i = 0; i < s_.batch.tiles(); ++i) {
    const size_t slot = i * kTileLanes;
    const MagnitudePairs out{s_.outer.data() + slot, s_.inner.data() + slot,
                             s_.outer_weight.data() + slot, s_.inner_weight.data() + slot};
    fit_magnitudes(s_.batch.tile(i), out);
  }
}

/// Four levels at equal distances that span the range.
void BatchSearch::fit_ranges() {
  for (size_t i = 0; i < s_.batch.slots(); ++i) {
    s_.outer[i] = std::max(std::abs(s_.batch.low()[i]), std::abs(s_.batch.high()[i]));
    s_.inner[i] = s_.outer[i] / 3.0F;
    s_.outer_weight[i] = s_.inner_weight[i] = 1.0F;
  }
}

/// The least scale for which the fit of every group lies within the range of q1 and q2.
float BatchSearch::min_scale(size_t row) const {
  float need = 0;
  for (size_t k = 0; k < s_.batch.groups_per_row(); ++k) {
    const size_t slot = s_.batch.slot(row, k);
    const float sum = 0.5F * (s_.outer[slot] + s_.inner[slot]);
    const float difference = 0.5F * (s_.outer[slot] - s_.inner[slot]);
    need = std::max({need, sum / kMaxQ1, difference / kMaxQ2});
  }
  return need;
}

/// What rounding the fit to multiples of `scale` adds to the error, weights staying where they are.
double BatchSearch::estimate(size_t row, float scale) const {
  double error = 0;
  const float half = 0.5F / scale;
  for (size_t k = 0; k < s_.batch.groups_per_row(); ++k) {
    const size_t slot = s_.batch.slot(row, k);
    const float outer = s_.outer[slot], inner = s_.inner[slot];
    const float q1 = std::clamp(std::nearbyint((outer + inner) * half), 1.0F, kMaxQ1);
    const float q2 = std::clamp(std::nearbyint((outer - inner) * half), 0.0F, kMaxQ2);
    const float above = scale * (q1 + q2) - outer, below = scale * std::abs(q1 - q2) - inner;
    error += static_cast<double>(s_.outer_weight[slot] * above * above +
                                 s_.inner_weight[slot] * below * below);
  }
  return error;
}

Finalists BatchSearch::screen(size_t row) const {
  const float min_error = min_scale(row);
  Finalists best;
  float next = kFirstScale * min_error;
  best.fill({usable_row_scale(next), HUGE_VAL});
  if (min_error == 0.0F) return best;  // a row of zeros
  for (int i = 0; i < kScales; ++i, next *= kScaleRatio) {
    Candidate candidate{usable_row_scale(next), 0};
    candidate.error = estimate(row, candidate.scale);
    if (!(candidate.error < best.back().error)) continue;
    best.back() = candidate;
    std::ranges::stable_sort(best, {}, &Candidate::error);
  }
  return best;
}

void BatchSearch::evaluate() {
  for (size_t i = 0; i < s_.batch.tiles(); ++i) {
    const size_t slot = i * kTileLanes;
    search_residual_binary(s_.batch.tile(i), s_.scale.data() + slot, s_.outer.data() + slot,
                           s_.inner.data() + slot, s_.params.data() + slot, s_.error.data() + slot);
  }
}

bool BatchSearch::run(std::vector<float>& scales) {
  const GroupBatch& batch = s_.batch;
  if (by_range_) {
    fit_ranges();
  } else {
    fit();
  }
  std::vector<Finalists> finalists;
  for (size_t r = 0; r < batch.rows(); ++r) {
    if (!std::isfinite(usable_row_scale(kFirstScale * min_scale(r)))) return false;
    finalists.push_back(screen(r));
  }
  std::fill_n(s_.scale.begin(), batch.slots(), 1.0F);
  std::vector<double> min_error(batch.rows(), HUGE_VAL);
  scales.assign(batch.rows(), 1.0F);
  for (size_t round = 0; round < kFinalists; ++round) {
    for (size_t r = 0; r < batch.rows(); ++r) {
      for (size_t k = 0; k < batch.groups_per_row(); ++k) {
        s_.scale[batch.slot(r, k)] = finalists[r][round].scale;
      }
    }
    evaluate();
    for (size_t r = 0; r < batch.rows(); ++r) {
      double error = 0;
      for (size_t k = 0; k < batch.groups_per_row(); ++k) {
        error += static_cast<double>(s_.error[batch.slot(r, k)]);
      }
      if (!(error < min_error[r])) continue;
      min_error[r] = error, scales[r] = finalists[r][round].scale;
      for (size_t k = 0; k < batch.groups_per_row(); ++k) {
        s_.best_params[batch.slot(r, k)] = s_.params[batch.slot(r, k)];
      }
    }
  }
  return true;
}

/// Encode one row with its final parameters.
void encode_row(float factor, float scale, const float* weights, size_t cols, size_t group,
                const uint8_t* params, Scratch& scratch, uint8_t* codes, ErrorSums& sums) {
  codec::residual_binary::levels(params, (cols + group - 1) / group, scale, scratch.first.data(),
                                 scratch.second.data());
  encode_residual_binary(weights, cols, factor, scratch.first.data(), scratch.second.data(), group,
                         scratch.codes.data(), sums);
  pack_strided_codes(2, scratch.codes.data(), cols, 1, codes);
}

}  // namespace

bool quantize_residual_binary(const AffineSpec& spec, float factor, const RowBlock& block,
                              const PackedRowsOut& out, ErrorSums& sums) {
  static thread_local Scratch scratch;
  const size_t group = codec::weights_per_param(spec);
  const size_t step = GroupBatch::rows_for(block.cols, group);
  std::vector<float> scales;
  for (size_t begin = 0; begin < block.rows; begin += step) {
    const size_t rows = std::min(step, block.rows - begin);
    GroupBatch& batch = scratch.batch;
    batch.load(block, begin, rows, group, factor);
    const size_t groups = batch.groups_per_row();
    scratch.grow(batch.slots(), groups, block.cols);
    if (!BatchSearch(scratch, spec.method == Method::kRtn).run(scales)) return false;
    for (size_t r = 0; r < rows; ++r) {
      const size_t row = begin + r;
      uint8_t* params = out.params + row * groups;
      for (size_t k = 0; k < groups; ++k) params[k] = scratch.best_params[batch.slot(r, k)];
      out.row_scales[row] = f32_to_f16(scales[r]);
      encode_row(factor, scales[r], block.weights + row * block.cols, block.cols, group, params,
                 scratch, out.codes + row * packed_row_bytes(block.cols, 2), sums);
    }
  }
  return true;
}

}  // namespace arrow_quant
