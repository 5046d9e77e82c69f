#include "choose/rounding_costs.h"

#include <algorithm>
#include <cmath>

#include "kernels/convert.h"
#include "kernels/dequantize_rows.h"
#include "quantize/affine.h"

namespace arrow_quant {
namespace {

constexpr size_t kFewRows = 32;

/// What a squared error of each column costs.
std::vector<float> costs_of(const LayerChoice& choice) {
  if (!needs_statistics(choice.info.spec.method)) return choice.importance;
  std::vector<float> costs(choice.factor->channels);
  for (const FeedbackBlock& block : choice.factor->blocks) {
    for (uint64_t k = 0; k < block.size; ++k) costs[block.begin + block.order[k]] = block.cost[k];
  }
  return costs;
}

}  // namespace

RoundingCosts::RoundingCosts(const LayerChoice& choice, std::span<const float> weights,
                             int8_t offset_unit)
    : choice_(choice),
      weights_(weights),
      cols_(choice.info.cols()),
      rows_(std::min(kFewRows, weights.size() / cols_)),
      offset_unit_(offset_unit),
      costs_(costs_of(choice)) {}

double RoundingCosts::operator()(std::span<const float> factors) const {
  const AffineSpec& spec = choice_.info.spec;
  const size_t all = weights_.size() / cols_;
  const size_t span = factors.empty() ? cols_ : cols_ / factors.size();
  std::vector<float> costs = costs_, by_column(cols_, 1.0F);
  for (size_t c = 0; c < cols_ && !factors.empty(); ++c) {
    by_column[c] = factors[c / span];
    costs[c] /= by_column[c] * by_column[c];
  }
  std::vector<float> scaled(rows_ * cols_), rounded(rows_ * cols_);
  for (size_t r = 0; r < rows_; ++r) {
    const float* row = weights_.data() + r * all / rows_ * cols_;
    for (size_t c = 0; c < cols_; ++c) scaled[r * cols_ + c] = row[c] * by_column[c];
  }
  const ChunkSettings settings{
      .tensor_scale = tensor_scale_for(spec, absmax(scaled.data(), scaled.size())),
      .offset_unit = offset_unit_};
  std::vector<uint8_t> codes(rows_ * packed_row_bytes(cols_, spec.bit_width));
  std::vector<uint8_t> params(rows_ * param_row_bytes(cols_, spec));
  std::vector<uint16_t> row_scales(rows_);
  const RowBlock block{
      .weights = scaled.data(), .rows = rows_, .cols = cols_, .importance = costs.data()};
  ErrorSums sums;
  if (!quantize_rows(spec, settings, block, {codes.data(), params.data(), row_scales.data()},
                     sums)) {
    return HUGE_VAL;
  }
  dequantize_rows(spec,
                  {.codes = codes.data(),
                   .params = params.data(),
                   .row_scales = row_scales.data(),
                   .tensor_scale = settings.tensor_scale,
                   .offset_unit = settings.offset_unit,
                   .rows = rows_,
                   .cols = cols_},
                  rounded.data());
  std::vector<float> misses(cols_, 0.0F);
  for (size_t r = 0; r < rows_; ++r) {
    for (size_t c = 0; c < cols_; ++c) {
      const float miss = scaled[r * cols_ + c] - rounded[r * cols_ + c];
      misses[c] += miss * miss;
    }
  }
  double total = 0;
  for (size_t c = 0; c < cols_; ++c) {
    total += static_cast<double>(costs[c]) * static_cast<double>(misses[c]);
  }
  return total;
}

}  // namespace arrow_quant
