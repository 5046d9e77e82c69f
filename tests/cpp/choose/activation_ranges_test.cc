#include "choose/activation_ranges.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "arrow_quant/calibration.h"
#include "support/tiny_model.h"

namespace arrow_quant {
namespace {

constexpr size_t kCols = 48;
constexpr size_t kRows = 16;

/// A layer of random weights, and inputs that calibration saw.
class Subject {
 public:
  Subject() : weights_(kRows * kCols), energy_(kCols, 0.0), statistics_({.num_threads = 1}) {
    for (float& w : weights_) w = normal_(random_);
    for (size_t i = 0; i < weights_.size(); ++i) {
      energy_[i % kCols] += double{weights_[i]} * double{weights_[i]};
    }
    std::vector<float> sample;
    for (const uint64_t at : weight_sample_positions(kRows * kCols)) {
      sample.push_back(weights_[at]);
    }
    statistics_.add_input({{"w", {kRows, kCols}, sample}}, kCols);
  }

  /// Tokens of which `make(random)` gives each value.
  template <typename Make>
  std::vector<float> add(double time, size_t tokens, bool held_out, const Make& make) {
    std::vector<float> x(tokens * kCols);
    for (size_t i = 0; i < x.size(); ++i) x[i] = make(normal_(random_), i % kCols);
    statistics_.add(0, {.values = x, .timestep = time, .held_out = held_out}, progress_);
    return x;
  }

  ReadingLayer layer() const { return {weights_, kCols, energy_}; }
  InputStatistics facts() const { return statistics_.input(0); }

  /// Mean over tokens of the squared error of the outputs, one token after the other.
  double error(const std::vector<float>& x, const TimeGroup& group) const {
    double sum = 0;
    for (size_t t = 0; t < x.size(); t += kCols) {
      for (size_t r = 0; r < kRows; ++r) {
        double y = 0;
        for (size_t c = 0; c < kCols; ++c) {
          const double step = double{group.activation_scale}, zero = double{group.activation_zero};
          const double code =
              std::clamp(std::nearbyint(double{x[t + c]} / step) + zero, -128.0, 127.0);
          y += double{weights_[r * kCols + c]} * ((code - zero) * step - double{x[t + c]});
        }
        sum += y * y;
      }
    }
    return sum / static_cast<double>(x.size() / kCols);
  }

 private:
  std::mt19937 random_{7};
  std::normal_distribution<float> normal_;
  std::vector<float> weights_;
  std::vector<double> energy_;
  CalibrationStatistics statistics_;
  testing::QuietProgress progress_;
};

const std::vector<TimeSpan> kWhole = {{0, 100}};

float as_is(float x, size_t /*column*/) { return x; }

TEST(ActivationRanges, ClipRareLargeValuesOfNoWeight) {
  Subject subject;
  std::vector<float> all;
  for (int time = 0; time < 20; ++time) {
    const std::vector<float> x = subject.add(time, 50, false, as_is);
    all.insert(all.end(), x.begin(), x.end());
  }
  const float largest =
      std::abs(*std::ranges::max_element(all, {}, [](float x) { return std::abs(x); }));
  const TimeGroup found = activation_groups(subject.facts(), kWhole, subject.layer(), {})[0];
  TimeGroup whole = found;
  whole.activation_scale = largest / 127;
  whole.activation_zero = 0;
  EXPECT_LT(found.activation_scale, whole.activation_scale);
  EXPECT_LT(subject.error(all, found), 0.95 * subject.error(all, whole));
}

TEST(ActivationRanges, HoldAnOutlierThatNoSampledTokenShows) {
  // One token in 200 is 60 times as large: the extremes know of it.
  Subject subject;
  std::vector<float> all;
  for (int time = 0; time < 20; ++time) {
    std::vector<float> x = subject.add(time, 199, false, as_is);
    const std::vector<float> loud =
        subject.add(time, 1, false, [](float v, size_t) { return 60 * v; });
    all.insert(all.end(), x.begin(), x.end());
    all.insert(all.end(), loud.begin(), loud.end());
  }
  const TimeGroup found = activation_groups(subject.facts(), kWhole, subject.layer(), {})[0];
  double least = HUGE_VAL;
  for (float scale = 0.01F; scale < 3; scale *= 1.05F) {
    TimeGroup other = found;
    other.activation_scale = scale;
    other.activation_zero = 0;
    least = std::min(least, subject.error(all, other));
  }
  EXPECT_LT(subject.error(all, found), 1.6 * least);
}

TEST(ActivationRanges, MoveTheZeroOfOneSidedValuesToTheEnd) {
  Subject subject;
  for (int time = 0; time < 20; ++time) {
    subject.add(time, 50, false, [](float x, size_t) { return std::abs(x); });
  }
  const TimeGroup found = activation_groups(subject.facts(), kWhole, subject.layer(), {})[0];
  EXPECT_EQ(found.activation_zero, -128.0F);
}

TEST(ActivationRanges, AreOfInputsDividedByTheFactors) {
  Subject subject;
  std::vector<float> factors(kCols, 1.0F);
  factors[3] = 64;
  for (int time = 0; time < 20; ++time) {
    subject.add(time, 50, false, [](float x, size_t c) { return c == 3 ? 64 * x : x; });
  }
  const TimeGroup plain = activation_groups(subject.facts(), kWhole, subject.layer(), {})[0];
  const TimeGroup divided = activation_groups(subject.facts(), kWhole, subject.layer(), factors)[0];
  EXPECT_LT(divided.activation_scale, 0.1F * plain.activation_scale);
}

TEST(ActivationRanges, EachGroupHasItsOwn) {
  Subject subject;
  for (int time = 0; time < 20; ++time) {
    const float size = time < 10 ? 1.0F : 20.0F;
    subject.add(time, 50, false, [&](float x, size_t) { return size * x; });
  }
  const std::vector<TimeSpan> spans = {{0, 10}, {10, 20}};
  const std::vector<TimeGroup> found =
      activation_groups(subject.facts(), spans, subject.layer(), {});
  ASSERT_EQ(found.size(), 2U);
  EXPECT_NEAR(found[1].activation_scale / found[0].activation_scale, 20, 5);
}

TEST(ActivationRanges, TheErrorIsThatOfTheTokensThatJudge) {
  Subject subject;
  double expected = 0;
  for (int time = 0; time < 10; ++time) {
    subject.add(time, 40, false, as_is);
    // As many as are kept, so that the estimate is exact.
    const std::vector<float> judges = subject.add(time, kSampleTokens, true, as_is);
    const TimeGroup group{.begin = 0, .end = 100, .activation_scale = 0.05F};
    expected += static_cast<double>(kSampleTokens) * subject.error(judges, group);
  }
  const std::vector<TimeGroup> groups = {{.begin = 0, .end = 100, .activation_scale = 0.05F}};
  EXPECT_NEAR(activation_error(subject.facts(), groups, subject.layer(), {}), expected,
              1e-3 * expected);
}

TEST(ActivationRanges, WithoutSampledTokensHoldTheWholeRange) {
  InputStatistics facts;
  TimeBin bin{.begin = 0, .end = 1, .tokens = 10};
  bin.low.assign(kCols, 0);
  bin.high.assign(kCols, 20);
  bin.sum.assign(kCols, 0);
  bin.squares.assign(kCols, 0);
  bin.fitted = {10, std::vector<double>(kCols, 0.0), {}};
  bin.held_out = {0, std::vector<double>(kCols, 0.0), {}};
  facts.bins = {bin};
  const Subject subject;
  const TimeGroup found = activation_groups(facts, kWhole, subject.layer(), {})[0];
  EXPECT_FLOAT_EQ(found.activation_scale, 20.0F / 255);
  EXPECT_EQ(found.activation_zero, -128.0F);
  EXPECT_GT(activation_error(facts, std::vector<TimeGroup>{found}, subject.layer(), {}), 0);
}

}  // namespace
}  // namespace arrow_quant
