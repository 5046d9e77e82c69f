#include "choose/time_groups.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace arrow_quant {
namespace {

constexpr size_t kChannels = 6;

/// `tokens` fitted and as many held out in [begin, begin + 1), all channels within [low, high].
TimeBin bin(double begin, double mean, float low, float high, uint64_t tokens = 10) {
  TimeBin b{.begin = begin, .end = begin + 1, .tokens = 2 * tokens};
  const auto n = static_cast<double>(tokens);
  b.low.assign(kChannels, low);
  b.high.assign(kChannels, high);
  b.sum.assign(kChannels, 2 * n * mean);
  b.squares.assign(kChannels, 2 * n * (mean * mean + 1));
  b.fitted = {n, std::vector<double>(kChannels, n * mean), {}};
  b.held_out = {n, std::vector<double>(kChannels, n * (mean + 0.5)), {}};
  return b;
}

InputStatistics steps(const std::vector<double>& means) {
  InputStatistics input;
  for (size_t t = 0; t < means.size(); ++t) {
    input.bins.push_back(bin(static_cast<double>(10 * t), means[t], -1, 1));
  }
  return input;
}

std::vector<TimeSpan> partition(const std::vector<InputStatistics>& inputs, size_t most,
                                int activation_bits) {
  return partition_times(each_of(inputs), most, activation_bits);
}

TEST(TimeGroups, CutWhereTheMeansChange) {
  const std::vector<TimeSpan> spans = partition({steps({1, 1, 1, 5, 5, 9, 9, 9})}, 3, 0);
  ASSERT_EQ(spans.size(), 3U);
  EXPECT_EQ(spans[0].begin, 0);
  EXPECT_EQ(spans[1].begin, 30);
  EXPECT_EQ(spans[2].begin, 50);
  EXPECT_EQ(spans[0].end, spans[1].begin);
  EXPECT_EQ(spans[2].end, 71);
}

TEST(TimeGroups, AreNoMoreThanThereAreTimes) {
  EXPECT_EQ(partition({steps({1, 2, 3})}, 10, 0).size(), 3U);
  EXPECT_TRUE(partition({}, 10, 0).empty());
  EXPECT_TRUE(partition({InputStatistics{}}, 10, 0).empty());
}

TEST(TimeGroups, OfAllInputsTogetherWeighTheirRelativeDrift) {
  // A large input drifts little, a small one much: the small one decides.
  InputStatistics large = steps({1000, 1000, 1000.5, 1000.5}), small = steps({0, 3, 3, 3});
  const std::vector<TimeSpan> spans = partition({large, small}, 2, 0);
  ASSERT_EQ(spans.size(), 2U);
  EXPECT_EQ(spans[1].begin, 10);
}

TEST(TimeGroups, OfStaticActivationsAlsoCutWhereTheRangeChanges) {
  InputStatistics input = steps({0, 0, 0, 0});
  for (size_t t : {2, 3}) {
    input.bins[t].low.assign(kChannels, -100);
    input.bins[t].high.assign(kChannels, 100);
  }
  const std::vector<TimeSpan> spans = partition({input}, 2, 8);
  ASSERT_EQ(spans.size(), 2U);
  EXPECT_EQ(spans[1].begin, 20);
}

TEST(TimeGroups, MeansAreThoseOfTheTokensOfEitherMatrix) {
  const InputStatistics input = steps({1, 3, 8});
  const std::vector<TimeSpan> spans = {{0, 20}, {20, 30}, {50, 60}};
  const TimeMeans means = means_by_time(input, spans);
  EXPECT_FLOAT_EQ(means.fitted[0], 2.0F);
  EXPECT_FLOAT_EQ(means.fitted[kChannels], 8.0F);
  EXPECT_FLOAT_EQ(means.held_out[0], 2.5F);
  EXPECT_EQ(means.fitted_weights, (std::vector<double>{20, 10, 0}));
  EXPECT_FLOAT_EQ(means.fitted[2 * kChannels], 4.0F) << "without tokens: the mean of all";
}

TEST(TimeGroups, WithoutHeldOutTokensTheFittedOnesJudge) {
  InputStatistics input = steps({1, 3});
  for (TimeBin& b : input.bins) b.held_out = {0, std::vector<double>(kChannels, 0.0), {}};
  const TimeMeans means = means_by_time(input, std::vector<TimeSpan>{{0, 10}, {10, 20}});
  EXPECT_EQ(means.held_out, means.fitted);
  EXPECT_EQ(means.held_out_weights, means.fitted_weights);
}

TEST(TimeGroups, TakingMeansOutLeavesTheGramMatrixOfTheRest) {
  // 300 channels reach over more than one tile; two groups of 40 tokens.
  constexpr size_t kWide = 300, kTokens = 40;
  std::mt19937 random(4);
  std::normal_distribution<float> normal;
  std::vector<std::vector<float>> tokens(2 * kTokens, std::vector<float>(kWide));
  TimeMeans means;
  means.fitted.assign(2 * kWide, 0.0F);
  means.fitted_weights = {kTokens, kTokens};
  for (size_t i = 0; i < tokens.size(); ++i) {
    const size_t group = i / kTokens;
    for (size_t c = 0; c < kWide; ++c) {
      tokens[i][c] = normal(random) + (group == 0 ? 3.0F : -1.0F);
      means.fitted[group * kWide + c] += tokens[i][c] / kTokens;
    }
  }
  GramMatrix all(kWide), rest(kWide);
  for (const GramMatrix::Tile& tile : all.tiles()) {
    for (uint64_t i = 0; i < tile.rows; ++i) {
      for (uint64_t j = 0; j < tile.columns; ++j) {
        const size_t at = tile.offset + i * tile.columns + j;
        for (size_t t = 0; t < tokens.size(); ++t) {
          const float* mean = means.fitted.data() + t / kTokens * kWide;
          const float a = tokens[t][tile.row + i], b = tokens[t][tile.column + j];
          all.values()[at] += a * b;
          rest.values()[at] += (a - mean[tile.row + i]) * (b - mean[tile.column + j]);
        }
      }
    }
  }
  take_means_out(means, all);
  for (uint64_t i = 0; i < kWide; i += 17) {
    for (uint64_t j = i; j < kWide; j += 13) EXPECT_NEAR(all.at(i, j), rest.at(i, j), 0.02F);
  }
}

TEST(TimeGroups, TheSpreadIsWhatIsLeftOfTheDiagonalWithoutTheMeans) {
  TimeMeans means;
  means.fitted = {1, 2, 3, 4, 5, 6, -1, -2, -3, -4, -5, -6};
  means.fitted_weights = {3, 2};
  GramMatrix gram(kChannels);
  const auto trace = [&] {
    double sum = 0;
    for (size_t c = 0; c < kChannels; ++c) sum += gram.at(c, c);
    return sum;
  };
  for (size_t c = 0; c < kChannels; ++c) gram.values()[c * kChannels + c] = 400;
  const double before = trace(), spread = spread_about(means, gram);
  take_means_out(means, gram);
  EXPECT_NEAR(spread, trace() / before, 1e-6);
  EXPECT_LT(spread, 1);
}

}  // namespace
}  // namespace arrow_quant
