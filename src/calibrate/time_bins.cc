#include "calibrate/time_bins.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <span>
#include <utility>

#include "core/hash.h"
#include "kernels/moments.h"

namespace arrow_quant {
namespace {

int64_t key_of(double time, int exponent) noexcept {
  // Beyond 2^62 bins from zero all times share the last one.
  constexpr double kLast = 4.6e18;
  return static_cast<int64_t>(std::clamp(std::floor(std::ldexp(time, -exponent)), -kLast, kLast));
}

TimeBin empty_bin(uint64_t channels) {
  TimeBin bin;
  bin.low.assign(channels, std::numeric_limits<float>::infinity());
  bin.high.assign(channels, -std::numeric_limits<float>::infinity());
  bin.sum.assign(channels, 0.0);
  bin.squares.assign(channels, 0.0);
  bin.fitted.sum.assign(channels, 0.0);
  bin.held_out.sum.assign(channels, 0.0);
  return bin;
}

/// Add x[][channels] to a sample: the kSampleTokens different tokens of the least hashes.
void sample_tokens(std::span<const float> x, size_t channels, std::vector<float>& sample) {
  std::map<uint64_t, const float*> smallest;
  const auto offer = [&](std::span<const float> tokens) {
    for (size_t at = 0; at + channels <= tokens.size(); at += channels) {
      const uint64_t hash = hash_64(std::as_bytes(tokens.subspan(at, channels)));
      if (smallest.size() == kSampleTokens && hash >= smallest.rbegin()->first) continue;
      smallest.emplace(hash, tokens.data() + at);
      if (smallest.size() > kSampleTokens) smallest.erase(std::prev(smallest.end()));
    }
  };
  const std::vector<float> before = std::move(sample);
  offer(before);
  offer(x);
  sample.clear();
  for (const auto& [hash, token] : smallest) sample.insert(sample.end(), token, token + channels);
}

void merge(const WeightedSum& from, double factor, WeightedSum& to) {
  to.weight += factor * from.weight;
  for (size_t i = 0; i < to.sum.size(); ++i) to.sum[i] += factor * from.sum[i];
  if (!from.sample.empty()) sample_tokens(from.sample, to.sum.size(), to.sample);
}

void merge(const TimeBin& from, TimeBin& to) {
  to.tokens += from.tokens;
  for (size_t i = 0; i < to.low.size(); ++i) {
    to.low[i] = std::min(to.low[i], from.low[i]);
    to.high[i] = std::max(to.high[i], from.high[i]);
    to.sum[i] += from.sum[i];
    to.squares[i] += from.squares[i];
  }
  merge(from.fitted, 1.0, to.fitted);
  merge(from.held_out, 1.0, to.held_out);
}

}  // namespace

TimeBin& TimeBins::bin(int64_t key) {
  return bins_.try_emplace(key, empty_bin(channels_)).first->second;
}

void TimeBins::coarsen() {
  ++exponent_;
  std::map<int64_t, TimeBin> wider;
  for (auto& [key, bin] : bins_) {
    const auto [at, is_new] = wider.try_emplace(key >> 1);
    if (is_new) {
      at->second = std::move(bin);
    } else {
      merge(bin, at->second);
    }
  }
  bins_ = std::move(wider);
}

void TimeBins::add(double timestep, const float* x, uint64_t tokens, double weight, bool held_out) {
  TimeBin block = empty_bin(channels_);
  block.tokens = tokens;
  add_moments(x, tokens, channels_, channels_,
              {block.low.data(), block.high.data(), block.sum.data(), block.squares.data()});
  WeightedSum& kind = held_out ? block.held_out : block.fitted;
  merge({static_cast<double>(tokens), block.sum, {}}, weight, kind);
  sample_tokens({x, tokens * channels_}, channels_, kind.sample);
  merge(block, bin(key_of(timestep, exponent_)));
  while (bins_.size() > kMaxBins) coarsen();
}

void TimeBins::add(const std::vector<TimeBin>& bins) {
  for (const TimeBin& from : bins) {
    const int exponent = std::ilogb(from.end - from.begin);
    while (exponent_ < exponent) coarsen();
    merge(from, bin(key_of(from.begin, exponent_)));
  }
  while (bins_.size() > kMaxBins) coarsen();
}

std::vector<TimeBin> TimeBins::bins() const {
  std::vector<TimeBin> result;
  for (const auto& [key, bin] : bins_) {
    TimeBin& out = result.emplace_back(bin);
    out.begin = std::ldexp(static_cast<double>(key), exponent_);
    out.end = std::ldexp(static_cast<double>(key + 1), exponent_);
  }
  return result;
}

}  // namespace arrow_quant
