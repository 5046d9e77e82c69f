#include "choose/time_groups.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "calibrate/partition.h"

namespace arrow_quant {
namespace {

constexpr size_t kChannels = 256;  // of an input that the partition looks at
constexpr float kLevels = 255.0F;

/// One input, its times brought to those of the reference: what a run of times costs.
class RunCost {
 public:
  RunCost(const InputStatistics& input, std::span<const TimeSpan> times, int activation_bits)
      : times_(times.size()), activation_bits_(activation_bits) {
    const size_t all = input.bins[0].sum.size();
    channels_ = std::min(all, kChannels);
    sums_.assign((times_ + 1) * channels_, 0.0);
    tokens_.assign(times_ + 1, 0.0);
    low_.assign(times_, 0.0F);
    high_.assign(times_, 0.0F);
    for (const TimeBin& bin : input.bins) {
      const size_t t = span_of(times, middle(bin));
      const auto tokens = static_cast<double>(bin.tokens);
      tokens_[t + 1] += tokens;
      for (size_t i = 0; i < channels_; ++i) {
        const size_t c = i * all / channels_;
        sums_[(t + 1) * channels_ + i] += bin.sum[c];
        energy_ += bin.squares[c];
        within_ += bin.sum[c] * bin.sum[c] / tokens;
      }
      low_[t] = std::min(low_[t], *std::ranges::min_element(bin.low));
      high_[t] = std::max(high_[t], *std::ranges::max_element(bin.high));
    }
    for (size_t t = 1; t <= times_; ++t) {
      tokens_[t] += tokens_[t - 1];
      for (size_t i = 0; i < channels_; ++i) {
        sums_[t * channels_ + i] += sums_[(t - 1) * channels_ + i];
      }
    }
  }

  /// Of the times [begin, end), relative to the energy of the input.
  double operator()(size_t begin, size_t end) const {
    const double tokens = tokens_[end] - tokens_[begin];
    if (!(energy_ > 0) || !(tokens > 0)) return 0;
    double between = 0;
    for (size_t i = 0; i < channels_; ++i) {
      const double sum = sums_[end * channels_ + i] - sums_[begin * channels_ + i];
      between += sum * sum / tokens;
    }
    // The spread of means is within_ minus this sum over all runs: each run gets its share.
    const double share = within_ * tokens / tokens_[times_];
    double cost = share - between;
    if (activation_bits_ == 8) {
      const float low = *std::min_element(low_.begin() + static_cast<ptrdiff_t>(begin),
                                          low_.begin() + static_cast<ptrdiff_t>(end));
      const float high = *std::max_element(high_.begin() + static_cast<ptrdiff_t>(begin),
                                           high_.begin() + static_cast<ptrdiff_t>(end));
      const double step = static_cast<double>(high - low) / static_cast<double>(kLevels);
      cost += tokens * static_cast<double>(channels_) * step * step / 12;
    }
    return cost / energy_;
  }

 private:
  size_t times_;
  int activation_bits_;
  size_t channels_ = 0;
  double energy_ = 0;
  double within_ = 0;
  std::vector<double> sums_;    // of all times before, [times + 1][channels]
  std::vector<double> tokens_;  // the same
  std::vector<float> low_, high_;
};

void add(const WeightedSum& from, WeightedSum& to) {
  to.weight += from.weight;
  to.sum.resize(from.sum.size(), 0.0);
  for (size_t i = 0; i < from.sum.size(); ++i) to.sum[i] += from.sum[i];
}

/// Means of each group; groups without tokens get the mean of all.
void put_means(const std::vector<WeightedSum>& groups, size_t channels, std::vector<float>& means,
               std::vector<double>& weights) {
  WeightedSum all;
  for (const WeightedSum& group : groups) add(group, all);
  means.assign(groups.size() * channels, 0.0F);
  for (size_t g = 0; g < groups.size(); ++g) {
    const WeightedSum& from = groups[g].weight > 0 ? groups[g] : all;
    weights.push_back(groups[g].weight);
    for (size_t c = 0; c < channels && from.weight > 0; ++c) {
      means[g * channels + c] = static_cast<float>(from.sum[c] / from.weight);
    }
  }
}

}  // namespace

double middle(const TimeBin& bin) noexcept { return 0.5 * (bin.begin + bin.end); }

size_t span_of(std::span<const TimeSpan> spans, double time) noexcept {
  size_t best = 0;
  double min_distance = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < spans.size(); ++i) {
    const double distance = std::max(
        {0.0, spans[i].begin - time, time - std::nexttoward(spans[i].end, spans[i].begin)});
    if (distance < min_distance) min_distance = distance, best = i;
  }
  return best;
}

std::vector<TimeSpan> partition_times(const EachInput& inputs, size_t max_groups,
                                      int activation_bits) {
  std::vector<TimeSpan> times;  // of the first input with the most of them
  inputs([&](const InputStatistics& input) {
    if (input.bins.size() <= times.size()) return;
    times.clear();
    for (const TimeBin& bin : input.bins) times.push_back({bin.begin, bin.end});
  });
  if (times.empty()) return {};
  std::vector<RunCost> costs;
  inputs([&](const InputStatistics& input) {
    if (!input.bins.empty()) costs.emplace_back(input, times, activation_bits);
  });
  const std::vector<size_t> begins =
      best_partition(times.size(), max_groups, [&](size_t begin, size_t end) {
        double sum = 0;
        for (const RunCost& cost : costs) sum += cost(begin, end);
        return sum;
      });
  std::vector<TimeSpan> spans;
  for (size_t i = 0; i < begins.size(); ++i) {
    const bool last = i + 1 == begins.size();
    spans.push_back({times[begins[i]].begin, last ? times.back().end : times[begins[i + 1]].begin});
  }
  return spans;
}

TimeMeans means_by_time(const InputStatistics& facts, std::span<const TimeSpan> spans) {
  std::vector<WeightedSum> fitted(spans.size()), held_out(spans.size());
  size_t channels = 0;
  double judged = 0;
  for (const TimeBin& bin : facts.bins) {
    const size_t g = span_of(spans, middle(bin));
    add(bin.fitted, fitted[g]);
    add(bin.held_out, held_out[g]);
    channels = bin.sum.size();
    judged += bin.held_out.weight;
  }
  TimeMeans means;
  put_means(fitted, channels, means.fitted, means.fitted_weights);
  put_means(judged > 0 ? held_out : fitted, channels, means.held_out, means.held_out_weights);
  return means;
}

double spread_about(const TimeMeans& means, const GramMatrix& gram) {
  double energy = 0;
  for (const GramMatrix::Tile& tile : gram.tiles()) {
    if (tile.row != tile.column) continue;
    const float* values = gram.values().data() + tile.offset;
    for (uint64_t i = 0; i < tile.rows; ++i) {
      energy += static_cast<double>(values[i * tile.columns + i]);
    }
  }
  double of_means = 0;
  for (size_t g = 0; g < means.fitted_weights.size(); ++g) {
    double square = 0;
    for (uint64_t c = 0; c < gram.channels(); ++c) {
      const auto mean = static_cast<double>(means.fitted[g * gram.channels() + c]);
      square += mean * mean;
    }
    of_means += means.fitted_weights[g] * square;
  }
  return energy > 0 ? 1 - of_means / energy : 1;
}

void take_means_out(const TimeMeans& means, GramMatrix& gram) {
  const size_t channels = gram.channels();
  for (size_t g = 0; g < means.fitted_weights.size(); ++g) {
    const float* m = means.fitted.data() + g * channels;
    const auto weight = static_cast<float>(means.fitted_weights[g]);
    for (const GramMatrix::Tile& tile : gram.tiles()) {
      for (uint64_t i = 0; i < tile.rows; ++i) {
        float* row = gram.values().data() + tile.offset + i * tile.columns;
        const float factor = weight * m[tile.row + i];
        for (uint64_t j = 0; j < tile.columns; ++j) row[j] -= factor * m[tile.column + j];
      }
    }
  }
}

}  // namespace arrow_quant
