#include "choose/activation_ranges.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/blas.h"

namespace arrow_quant {
namespace {

constexpr float kLowest = -128.0F;  // codes
constexpr float kHighest = 127.0F;
constexpr double kWorthZero = 0.9;  // of the symmetric error: a zero costs speed
// Parts of the whole range. An outlier may well be worth clipping to a fraction of it.
constexpr std::array kParts = {1.0F, 0.95F, 0.9F, 0.85F, 0.8F, 0.75F, 0.7F,
                               0.6F, 0.5F,  0.4F, 0.3F,  0.2F, 0.1F};

constexpr std::array kFewParts = {1.0F, 0.8F, 0.6F, 0.4F, 0.2F};
constexpr size_t kLanes = 16;  // sums side by side, so that loops vectorize

/// To the nearest integer, ties to even; |x| < 2^22. Vectorizes where rint does not.
float nearest(float x) noexcept {
  constexpr float kMagic = 12582912.0F;  // 1.5 * 2^23
  return (x + kMagic) - kMagic;
}

struct Scale {
  float step = 1;
  float zero = 0;

  float low() const noexcept { return (kLowest - zero) * step; }
  float high() const noexcept { return (kHighest - zero) * step; }
  /// Values beyond the codes are those of the last ones.
  float rounded(float x, float inverse) const noexcept {
    const float inside = std::min(std::max(x, low()), high());
    return nearest(inside * inverse) * step;
  }
};

Scale symmetric(float low, float high, float part) noexcept {
  return {part * std::max(-low, high) / kHighest, 0};
}

Scale affine(float low, float high, float part) noexcept {
  const float step = part * (high - low) / (kHighest - kLowest);
  return {step, std::round(kLowest - part * low / step)};
}

/// What one group of time knows of its activations, all after equalization.
class Group {
 public:
  Group(size_t cols, std::span<const double> energy, std::span<const float> equalization)
      : cols_(cols), columns_(equalization.empty() ? cols : cols / equalization.size()) {
    for (size_t c = 0; c < cols; ++c) {
      const float s = equalization.empty() ? 1.0F : equalization[c / columns_];
      inverse_.push_back(1.0F / s);
      energy_.push_back(static_cast<float>(energy[c]) * s * s);
    }
  }

  void add(const TimeBin& bin) {
    for (size_t c = 0; c < cols_; ++c) {
      lows_.push_back(bin.low[c] * inverse_[c]);
      highs_.push_back(bin.high[c] * inverse_[c]);
      low_ = std::min(low_, lows_.back());
      high_ = std::max(high_, highs_.back());
    }
    tokens_ += static_cast<double>(bin.tokens);
    for (size_t i = 0; i < bin.fitted.sample.size(); ++i) {
      sample_.push_back(bin.fitted.sample[i] * inverse_[i % cols_]);
    }
  }

  Scale best(std::span<const float> parts) const {
    if (!(high_ > low_)) return {1, 0};  // an input of zeros
    Scale found = symmetric(low_, high_, 1);
    if (sample_.empty()) {
      const Scale other = affine(low_, high_, 1);
      return other.step * other.step < kWorthZero * kWorthZero * found.step * found.step ? other
                                                                                         : found;
    }
    double min_error = HUGE_VAL;
    Scale with_zero;
    double min_error_with_zero = HUGE_VAL;
    for (const float part : parts) {
      const Scale even = symmetric(low_, high_, part), odd = affine(low_, high_, part);
      if (const double e = error(even); e < min_error) min_error = e, found = even;
      if (const double e = error(odd); e < min_error_with_zero)
        min_error_with_zero = e, with_zero = odd;
    }
    return min_error_with_zero < kWorthZero * min_error ? with_zero : found;
  }

 private:
  /// Mean over tokens of the squared error of the outputs.
  double error(const Scale& scale) const {
    const float low = scale.low(), high = scale.high(), inverse = 1.0F / scale.step;
    const auto beyond = [&](float x) { return std::max({0.0F, low - x, x - high}); };
    double all = 0, clipped = 0, extreme = 0;
    for (size_t i = 0; i < sample_.size(); i += cols_) {
      const float* x = sample_.data() + i;
      all += weighted_squares([&](size_t c) { return x[c] - scale.rounded(x[c], inverse); });
      clipped += weighted_squares([&](size_t c) { return beyond(x[c]); });
    }
    for (size_t i = 0; i < lows_.size(); i += cols_) {
      extreme += weighted_squares([&](size_t c) { return beyond(lows_[i + c]); });
      extreme += weighted_squares([&](size_t c) { return beyond(highs_[i + c]); });
    }
    const double sampled = static_cast<double>(sample_.size()) / static_cast<double>(cols_);
    return all / sampled + std::max(0.0, extreme / std::max(1.0, tokens_) - clipped / sampled);
  }

  /// Sum over columns of f(c)^2 times the energy of their weights.
  template <typename F>
  double weighted_squares(const F& f) const {
    float sums[kLanes] = {};
    size_t c = 0;
    for (; c + kLanes <= cols_; c += kLanes) {
      for (size_t lane = 0; lane < kLanes; ++lane) {
        const float e = f(c + lane);
        sums[lane] += e * e * energy_[c + lane];
      }
    }
    for (; c < cols_; ++c) {
      const float e = f(c);
      sums[0] += e * e * energy_[c];
    }
    double total = 0;
    for (const float sum : sums) total += static_cast<double>(sum);
    return total;
  }

  size_t cols_;
  size_t columns_;
  std::vector<float> inverse_, energy_;  // of each column: 1 / factor; of its weights
  std::vector<float> lows_, highs_;      // [bins][cols]
  std::vector<float> sample_;            // [tokens][cols]
  double tokens_ = 0;
  float low_ = 0, high_ = 0;
};

/// Tokens of a bin that judge, and what each of them stands for.
struct Judges {
  std::span<const float> sample;
  double weight = 0;
};

Judges judges_of(const TimeBin& bin, bool held_out, size_t cols) {
  const WeightedSum& kind = held_out ? bin.held_out : bin.fitted;
  const double count = static_cast<double>(kind.sample.size()) / static_cast<double>(cols);
  return {kind.sample, count > 0 ? kind.weight / count : 0.0};
}

/// Noise of rounded inputs where nothing but ranges is known: d^2 / 12 for steps of d.
double assumed_error(const InputStatistics& facts, std::span<const TimeGroup> groups,
                     std::span<const TimeSpan> spans, double energy) {
  const TimeMeans means = means_by_time(facts, spans);
  double error = 0;
  for (size_t g = 0; g < groups.size(); ++g) {
    const double step = double{groups[g].activation_scale};
    error += means.held_out_weights[g] * step * step / 12 * energy;
  }
  return error;
}

}  // namespace

std::vector<TimeGroup> activation_groups(const InputStatistics& facts,
                                         std::span<const TimeSpan> spans, const ReadingLayer& layer,
                                         std::span<const float> equalization, bool rough) {
  std::vector<Group> groups(spans.size(), Group(layer.cols, layer.energy, equalization));
  for (const TimeBin& bin : facts.bins) groups[span_of(spans, middle(bin))].add(bin);
  std::vector<TimeGroup> result;
  for (size_t g = 0; g < spans.size(); ++g) {
    const Scale scale = groups[g].best(rough ? std::span<const float>(kFewParts) : kParts);
    result.push_back({.begin = spans[g].begin,
                      .end = spans[g].end,
                      .activation_scale = scale.step,
                      .activation_zero = scale.zero});
  }
  return result;
}

double activation_error(const InputStatistics& facts, std::span<const TimeGroup> groups,
                        const ReadingLayer& layer, std::span<const float> equalization) {
  const size_t cols = layer.cols, rows = layer.weights.size() / cols;
  std::vector<TimeSpan> spans;
  for (const TimeGroup& group : groups) spans.push_back({group.begin, group.end});
  const auto held = [](const TimeBin& bin) { return !bin.held_out.sample.empty(); };
  const bool held_out = std::ranges::any_of(facts.bins, held);
  std::vector<float> errors, outputs;
  std::vector<double> weights;
  for (const TimeBin& bin : facts.bins) {
    const TimeGroup& group = groups[span_of(spans, middle(bin))];
    const Scale scale{group.activation_scale, group.activation_zero};
    const Judges judges = judges_of(bin, held_out, cols);
    const float inverse = 1.0F / scale.step;
    for (size_t i = 0; i < judges.sample.size(); ++i) {
      const size_t c = i % cols;
      const float s = equalization.empty() ? 1.0F : equalization[c / (cols / equalization.size())];
      errors.push_back(s * scale.rounded(judges.sample[i] / s, inverse) - judges.sample[i]);
    }
    weights.insert(weights.end(), judges.sample.size() / cols, judges.weight);
  }
  if (weights.empty()) {
    double energy = 0;
    for (size_t c = 0; c < cols; ++c) {
      const double s =
          equalization.empty() ? 1.0 : double{equalization[c / (cols / equalization.size())]};
      energy += s * s * layer.energy[c];
    }
    return assumed_error(facts, groups, spans, energy);
  }
  outputs.resize(weights.size() * rows);
  const blas::Serial serial;
  blas::gemm(weights.size(), rows, cols, 1.0F, {errors.data(), cols},
             {layer.weights.data(), cols, blas::Op::kTransposed}, 0.0F, outputs.data(), rows);
  double sum = 0;
  for (size_t t = 0; t < weights.size(); ++t) {
    double squares = 0;
    for (size_t r = 0; r < rows; ++r) {
      const double y = double{outputs[t * rows + r]};
      squares += y * y;
    }
    sum += weights[t] * squares;
  }
  return sum;
}

}  // namespace arrow_quant
