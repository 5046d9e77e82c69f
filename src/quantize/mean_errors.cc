#include "quantize/mean_errors.h"

#include "io/time_params.h"
#include "quantize/time_correction.h"

namespace arrow_quant {
namespace {

/// sum_c row[c] * mean[c], in a fixed order.
float dot(const float* row, const float* mean, uint64_t cols) noexcept {
  double part[4] = {0, 0, 0, 0};
  uint64_t c = 0;
  for (; c + 4 <= cols; c += 4) {
    for (size_t k = 0; k < 4; ++k) {
      part[k] += static_cast<double>(row[c + k]) * static_cast<double>(mean[c + k]);
    }
  }
  for (; c < cols; ++c) part[0] += static_cast<double>(row[c]) * static_cast<double>(mean[c]);
  return static_cast<float>((part[0] + part[1]) + (part[2] + part[3]));
}

}  // namespace

MeanErrors::MeanErrors(const TimeCorrection* time, uint64_t rows, uint64_t cols)
    : time_(time != nullptr && !time->means.fitted.empty() ? time : nullptr),
      rows_(rows),
      cols_(cols) {
  if (time_ == nullptr) return;
  for (auto* values : {&fitted_, &held_out_, &outputs_}) {
    values->resize(time_->groups.size() * rows);
  }
}

void MeanErrors::add(uint64_t first, uint64_t count, const std::vector<float>& original,
                     const std::vector<float>& restored) {
  if (time_ == nullptr) return;
  std::vector<float> difference(cols_);
  for (uint64_t r = 0; r < count; ++r) {
    const float* w = original.data() + r * cols_;
    const float* v = restored.data() + r * cols_;
    for (uint64_t c = 0; c < cols_; ++c) difference[c] = v[c] - w[c];
    for (size_t g = 0; g < time_->groups.size(); ++g) {
      const float* fitted = time_->means.fitted.data() + g * cols_;
      const float* held_out = time_->means.held_out.data() + g * cols_;
      const size_t at = g * rows_ + first + r;
      fitted_[at] = dot(difference.data(), fitted, cols_);
      held_out_[at] = dot(difference.data(), held_out, cols_);
      outputs_[at] = dot(w, held_out, cols_);
    }
  }
}

void MeanErrors::correct(std::vector<TimeGroup>& groups, OutputSums& outputs) const {
  if (time_ == nullptr) return;
  for (size_t g = 0; g < groups.size(); ++g) {
    if (groups[g].output_bias.empty()) {
      std::vector<float> bias(rows_);
      for (uint64_t r = 0; r < rows_; ++r) bias[r] = -fitted_[g * rows_ + r];
      groups[g].output_bias = stored_bias(bias);
    }
    const double tokens = time_->means.held_out_weights[g];
    for (uint64_t r = 0; r < rows_; ++r) {
      const auto b = static_cast<double>(groups[g].output_bias[r]);
      outputs.err += tokens * b * (2 * static_cast<double>(held_out_[g * rows_ + r]) + b);
      // The error is y - z, and z grew by b.
      outputs.ye -= tokens * b * static_cast<double>(outputs_[g * rows_ + r]);
    }
  }
}

}  // namespace arrow_quant
