#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "arrow_quant/calibration.h"
#include "calibrate/statistics_file.h"
#include "calibrate/statistics_fixture.h"
#include "support/expect_error.h"
#include "support/temp_folder.h"

namespace arrow_quant {
namespace {

using namespace testing;
using ::testing::ElementsAre;

CalibrationStatistics statistics(size_t channels, uint64_t block = 0, int threads = 1) {
  CalibrationStatistics result({.component = "unet", .num_threads = threads});
  result.add_input({layer("to_q.weight", 8, channels), layer("to_k.weight", 4, channels, 3.0F)},
                   channels, block);
  return result;
}

void add(CalibrationStatistics& to, const std::vector<float>& x, double timestep,
         bool held_out = false, float weight = 1.0F, size_t input = 0) {
  NoProgress progress;
  to.add(input, {x, timestep, weight, held_out}, progress);
}

void expect_same(const InputStatistics& a, const InputStatistics& b) {
  ASSERT_EQ(a.gram.channels(), b.gram.channels());
  EXPECT_EQ(a.gram.block(), b.gram.block());
  for (uint64_t i = 0; i < a.gram.channels(); ++i) {
    for (uint64_t j = i; j < a.gram.channels(); ++j) {
      ASSERT_EQ(a.gram.at(i, j), b.gram.at(i, j)) << i << ", " << j;
      if (a.held_out.channels() != 0) {
        ASSERT_EQ(a.held_out.at(i, j), b.held_out.at(i, j));
      }
    }
  }
  EXPECT_EQ(a.held_out.channels(), b.held_out.channels());
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.held_out_tokens, b.held_out_tokens);
  ASSERT_EQ(a.bins.size(), b.bins.size());
  for (size_t i = 0; i < a.bins.size(); ++i) {
    EXPECT_EQ(a.bins[i].begin, b.bins[i].begin);
    EXPECT_EQ(a.bins[i].end, b.bins[i].end);
    EXPECT_EQ(a.bins[i].tokens, b.bins[i].tokens);
    EXPECT_EQ(a.bins[i].low, b.bins[i].low);
    EXPECT_EQ(a.bins[i].high, b.bins[i].high);
    EXPECT_EQ(a.bins[i].sum, b.bins[i].sum);
    EXPECT_EQ(a.bins[i].squares, b.bins[i].squares);
  }
}

TEST(Calibration, SumsTheGramMatrixOverBlocksOfAnyLength) {
  for (size_t channels : {1, 5, 300, 520}) {
    const std::vector<float> x = random_activations(137, channels);
    CalibrationStatistics whole = statistics(channels);
    add(whole, x, 0);
    CalibrationStatistics pieces = statistics(channels);
    for (size_t t = 0; t < 137; t += 50) {
      const size_t end = std::min<size_t>(137, t + 50);
      add(pieces,
          {x.begin() + static_cast<ptrdiff_t>(t * channels),
           x.begin() + static_cast<ptrdiff_t>(end * channels)},
          0);
    }
    const GramMatrix& gram = whole.input(0).gram;
    for (size_t i = 0; i < channels; i += 17) {
      for (size_t j = 0; j < channels; j += 13) {
        const double expected = moment(x, channels, i, j);
        EXPECT_NEAR(gram.at(i, j), expected, 1e-2) << i << ", " << j;
        EXPECT_EQ(gram.at(i, j), gram.at(j, i));
        EXPECT_NEAR(pieces.input(0).gram.at(i, j), expected, 1e-2);
      }
    }
    EXPECT_EQ(whole.input(0).tokens, 137U);
  }
}

TEST(Calibration, KeepsAFewTokensWhateverTheOrderOfAdding) {
  const size_t channels = 20;
  const std::vector<float> x = random_activations(60, channels);
  const auto token = [&](size_t t) {
    return std::vector<float>(x.begin() + static_cast<ptrdiff_t>(t * channels),
                              x.begin() + static_cast<ptrdiff_t>((t + 1) * channels));
  };
  CalibrationStatistics forwards = statistics(channels), backwards = statistics(channels);
  CalibrationStatistics first = statistics(channels), second = statistics(channels);
  for (size_t t = 0; t < 60; ++t) {
    add(forwards, token(t), 3);
    add(backwards, token(59 - t), 3);
    add(t < 25 ? first : second, token(t), 3);
  }
  first.merge(second);
  const std::vector<float> sample = forwards.input(0).bins[0].fitted.sample;
  ASSERT_EQ(sample.size(), kSampleTokens * channels);
  EXPECT_EQ(backwards.input(0).bins[0].fitted.sample, sample);
  EXPECT_EQ(first.input(0).bins[0].fitted.sample, sample);
  for (size_t i = 0; i < kSampleTokens; ++i) {
    const auto begin = sample.begin() + static_cast<ptrdiff_t>(i * channels);
    EXPECT_NE(std::search(x.begin(), x.end(), begin, begin + channels), x.end());
  }
  add(forwards, token(0), 3);
  EXPECT_EQ(forwards.input(0).bins[0].fitted.sample, sample) << "a token is kept once";
}

TEST(Calibration, KeepsOnlyTheDiagonalBlocksIfAsked) {
  const size_t channels = 600;
  const std::vector<float> x = random_activations(64, channels);
  CalibrationStatistics full = statistics(channels), blocks = statistics(channels, 256);
  add(full, x, 0);
  add(blocks, x, 0);
  const GramMatrix& gram = blocks.input(0).gram;
  for (size_t i = 0; i < channels; i += 7) {
    for (size_t j = 0; j < channels; j += 11) {
      EXPECT_EQ(gram.at(i, j), i / 256 == j / 256 ? full.input(0).gram.at(i, j) : 0.0F);
    }
  }
  EXPECT_EQ(GramMatrix::bytes(channels, 256), gram.values().size() * sizeof(float));
  EXPECT_EQ(GramMatrix::bytes(channels), full.input(0).gram.values().size() * sizeof(float));
}

TEST(Calibration, GivesTheSameBitsForAnyNumberOfThreads) {
  const std::vector<float> x = random_activations(301, 700);
  CalibrationStatistics one = statistics(700, 0, 1), three = statistics(700, 0, 3);
  add(one, x, 5);
  add(three, x, 5);
  expect_same(one.input(0), three.input(0));
}

TEST(Calibration, KeepsHeldOutTokensApartAndWeighsTheOthers) {
  const std::vector<float> x = random_activations(40, 6), y = random_activations(30, 6, 2);
  CalibrationStatistics stats = statistics(6);
  add(stats, x, 0, false, 2.5F);
  EXPECT_EQ(stats.input(0).held_out.channels(), 0U);
  add(stats, y, 1, true);
  EXPECT_NEAR(stats.input(0).gram.at(2, 4), 2.5 * moment(x, 6, 2, 4), 1e-3);
  EXPECT_NEAR(stats.input(0).held_out.at(2, 4), moment(y, 6, 2, 4), 1e-3);
  EXPECT_EQ(stats.input(0).tokens, 40U);
  EXPECT_EQ(stats.input(0).held_out_tokens, 30U);
}

TEST(Calibration, KnowsRangeAndMomentsOfEveryChannelByTime) {
  const size_t channels = 19;
  CalibrationStatistics stats = statistics(channels);
  const std::vector<float> x = random_activations(600, channels),
                           y = random_activations(3, channels, 2);
  add(stats, x, 0.25);
  add(stats, y, 0.75);
  const std::vector<TimeBin>& bins = stats.input(0).bins;
  ASSERT_EQ(bins.size(), 2U);
  EXPECT_LE(bins[0].begin, 0.25);
  EXPECT_GT(bins[0].end, 0.25);
  EXPECT_EQ(bins[0].tokens, 600U);
  EXPECT_EQ(bins[1].tokens, 3U);
  for (size_t c = 0; c < channels; ++c) {
    double sum = 0, squares = 0;
    float low = HUGE_VALF, high = -HUGE_VALF;
    for (size_t t = 0; t < 600; ++t) {
      const float v = x[t * channels + c];
      sum += double{v}, squares += double{v} * double{v};
      low = std::min(low, v), high = std::max(high, v);
    }
    EXPECT_EQ(bins[0].low[c], low);
    EXPECT_EQ(bins[0].high[c], high);
    EXPECT_NEAR(bins[0].sum[c], sum, 1e-3);
    EXPECT_NEAR(bins[0].squares[c], squares, 1e-2);
  }
}

TEST(Calibration, TimeBinsAdaptToTheTimestepsWhateverTheirOrder) {
  const std::vector<float> x = random_activations(1, 2);
  for (const double scale : {1.0, 1.0 / 999.0, -1e6}) {
    CalibrationStatistics up = statistics(2), down = statistics(2);
    for (int t = 0; t < 1000; ++t) {
      add(up, x, scale * t);
      add(down, x, scale * (999 - t));
    }
    const std::vector<TimeBin> bins = up.input(0).bins;
    EXPECT_GT(bins.size(), 31U);
    EXPECT_LE(bins.size(), 64U);
    uint64_t tokens = 0;
    for (size_t i = 0; i < bins.size(); ++i) {
      tokens += bins[i].tokens;
      if (i > 0) {
        EXPECT_GE(bins[i].begin, bins[i - 1].end);
      }
      EXPECT_EQ(down.input(0).bins[i].begin, bins[i].begin);
      EXPECT_EQ(down.input(0).bins[i].tokens, bins[i].tokens);
    }
    EXPECT_EQ(tokens, 1000U);
  }
}

TEST(Calibration, MergesByAddition) {
  CalibrationStatistics both = statistics(300), a = statistics(300), b = statistics(300);
  const std::vector<float> x = random_activations(50, 300), y = random_activations(70, 300, 2);
  add(both, x, 1), add(a, x, 1);
  add(both, y, 700, true), add(b, y, 700, true);
  NoProgress progress;
  both.add_input({layer("other.weight", 2, 3)}, 3);
  b.add_input({layer("other.weight", 2, 3)}, 3);
  add(both, {1, 2, 3}, 1, false, 1, 1), add(b, {1, 2, 3}, 1, false, 1, 1);
  a.merge(b);
  ASSERT_EQ(a.size(), 2U);
  expect_same(a.input(0), both.input(0));
  expect_same(a.input(1), both.input(1));
}

TEST(Calibration, RefusesToMergeStatisticsOfAnotherModel) {
  CalibrationStatistics a = statistics(4);
  add(a, random_activations(5, 4), 0);
  CalibrationStatistics other_weights({.component = "unet", .num_threads = 1});
  other_weights.add_input({layer("to_q.weight", 8, 4, 1.5F), layer("to_k.weight", 4, 4, 3.0F)}, 4);
  CalibrationStatistics other_sharing({.component = "unet", .num_threads = 1});
  other_sharing.add_input({layer("to_q.weight", 8, 4)}, 4);
  CalibrationStatistics other_component({.component = "vae", .num_threads = 1});
  for (const CalibrationStatistics* other : {&other_weights, &other_sharing}) {
    expect_error(ErrorCode::kShapeMismatch, {"to_q.weight", "same weight"},
                 [&] { a.merge(*other); });
  }
  expect_error(ErrorCode::kShapeMismatch, {"'unet'", "'vae'"}, [&] { a.merge(other_component); });
  EXPECT_EQ(a.input(0).tokens, 5U);
}

TEST(Calibration, RefusesBadActivationsAndKeepsWhatItHas) {
  CalibrationStatistics stats = statistics(4);
  const std::vector<float> good = random_activations(5, 4);
  add(stats, good, 3);
  for (const float bad : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
    std::vector<float> x = good;
    x[9] = bad;
    expect_error(ErrorCode::kQuantization,
                 {"to_q.weight", "NaN or Inf", "token 2", "channel 1", "timestep 7"},
                 [&] { add(stats, x, 7); });
  }
  std::vector<float> large = good;
  large[0] = 2e15F;
  expect_error(ErrorCode::kQuantization, {"1e15"}, [&] { add(stats, large, 7); });
  expect_error(ErrorCode::kShapeMismatch, {"rows of 4", "21 values"},
               [&] { add(stats, std::vector<float>(21), 7); });
  expect_error(ErrorCode::kConfiguration, {"timestep"}, [&] { add(stats, good, NAN); });
  expect_error(ErrorCode::kConfiguration, {"weight above 0"},
               [&] { add(stats, good, 7, false, 0.0F); });
  CalibrationStatistics only_good = statistics(4);
  add(only_good, good, 3);
  expect_same(stats.input(0), only_good.input(0));
}

TEST(Calibration, RefusesLayersThatDoNotFitTheirInput) {
  CalibrationStatistics stats({.num_threads = 1});
  expect_error(ErrorCode::kShapeMismatch, {"a.weight", "5 elements", "[2 x 4]"},
               [&] { stats.add_input({layer("a.weight", 2, 4)}, 5); });
  CalibratedLayer conv = layer("conv.weight", 3, 18);
  conv.shape = {3, 2, 3, 3};
  EXPECT_EQ(stats.add_input({conv}, 18), 0U);
  expect_error(ErrorCode::kShapeMismatch, {"another input already"},
               [&] { stats.add_input({conv}, 18); });
  conv.name = "b";
  conv.sample.pop_back();
  expect_error(ErrorCode::kShapeMismatch, {"sample of 32", "found 31"},
               [&] { stats.add_input({conv}, 18); });
  expect_error(ErrorCode::kConfiguration, {"multiple of 256"},
               [&] { stats.add_input({layer("c", 2, 4)}, 4, 100); });
}

TEST(Calibration, RecognisesAWeightInAnyFloatFormat) {
  const std::vector<float> w = {1.0F, -0.3F, 1e-7F, 2.0F};
  EXPECT_TRUE(same_weight(w, {{1.003F, -0.3008F, 0.0F, 2.0F}}));
  EXPECT_FALSE(same_weight(w, {{1.0F, -0.3F, 1e-7F, 2.1F}}));
  EXPECT_FALSE(same_weight(w, {{1.0F, 0.3F, 1e-7F, 2.0F}}));
  EXPECT_FALSE(same_weight(w, {{1.0F, -0.3F, 1e-7F}}));
  EXPECT_FALSE(same_weight(w, {{1.0F, -0.3F, NAN, 2.0F}}));
  EXPECT_THAT(weight_sample_positions(3), ElementsAre(0U, 1U, 2U));
  EXPECT_THAT(weight_sample_positions(1), ElementsAre(0U));
  EXPECT_TRUE(weight_sample_positions(0).empty());
  EXPECT_EQ(weight_sample_positions(1'000'000).size(), 32U);
  EXPECT_LT(weight_sample_positions(1'000'000).back(), 1'000'000U);
}

TEST(Calibration, FileGivesBackEverything) {
  const TempFolder folder;
  for (const uint64_t block : {0, 256}) {
    CalibrationStatistics stats = statistics(600, block);
    stats.add_input({layer("small.weight", 2, 3)}, 3);
    add(stats, random_activations(20, 600), 10);
    add(stats, random_activations(20, 600, 2), 500, true);
    add(stats, {1, 2, 3}, -4, false, 1, 1);
    stats.save(folder / "stats.parquet", block != 0);
    const CalibrationStatistics back = CalibrationStatistics::load(folder / "stats.parquet");
    ASSERT_EQ(back.size(), 2U);
    EXPECT_EQ(back.component(), "unet");
    expect_same(back.input(0), stats.input(0));
    expect_same(back.input(1), stats.input(1));
    ASSERT_EQ(back.input(0).layers.size(), 2U);
    EXPECT_EQ(back.input(0).layers[1].name, "to_k.weight");
    EXPECT_EQ(back.input(0).layers[1].sample, stats.input(0).layers[1].sample);
    CalibrationStatistics twice = CalibrationStatistics::load(folder / "stats.parquet");
    twice.merge(back);
    EXPECT_EQ(twice.input(0).tokens, 40U);
    EXPECT_EQ(twice.input(0).gram.at(599, 598), 2 * stats.input(0).gram.at(598, 599));
  }
}

TEST(Calibration, SensitivitiesAreKeptAndAveragedWhenMerged) {
  const TempFolder folder;
  CalibrationStatistics stats = statistics(4);
  add(stats, random_activations(5, 4), 0);
  EXPECT_TRUE(stats.sensitivities().empty());
  stats.set_sensitivities({{"to_q.weight", 0.5}, {"to_k.weight", 1e-9}});
  stats.save(folder / "s", false);
  CalibrationStatistics back = CalibrationStatistics::load(folder / "s");
  EXPECT_EQ(back.sensitivities(), stats.sensitivities());
  stats.set_sensitivities({{"to_q.weight", 1.5}});
  back.merge(stats);
  EXPECT_EQ(back.sensitivities().at("to_q.weight"), 1.0);
  EXPECT_EQ(back.sensitivities().at("to_k.weight"), 1e-9);
  for (const double bad : {-1.0, double{NAN}, double{INFINITY}}) {
    expect_error(ErrorCode::kConfiguration, {"finite", "to_k"},
                 [&] { stats.set_sensitivities({{"to_k.weight", bad}}); });
  }
  EXPECT_EQ(stats.sensitivities().size(), 1U);
}

TEST(Calibration, SensitivitiesOfAnyNumberOfRunsAreTheirMeanInAnyOrder) {
  const TempFolder folder;
  const std::vector<double> measured = {0.1, 0.7, 1.3};
  const auto run = [&](size_t number) {
    CalibrationStatistics stats = statistics(4);
    stats.set_sensitivities({{"to_q.weight", measured[number]}});
    return stats;
  };
  std::vector<size_t> order = {0, 1, 2};
  std::vector<double> found;
  do {
    CalibrationStatistics left = run(order[0]);
    left.merge(run(order[1]));
    left.save(folder / "s", true);  // between two merges
    CalibrationStatistics all = CalibrationStatistics::load(folder / "s");
    all.merge(run(order[2]));
    CalibrationStatistics right = run(order[2]);
    right.merge(left);
    found.push_back(all.sensitivities().at("to_q.weight"));
    found.push_back(right.sensitivities().at("to_q.weight"));
  } while (std::ranges::next_permutation(order).found);
  EXPECT_DOUBLE_EQ(found[0], 0.7);
  for (const double mean : found) EXPECT_EQ(mean, found[0]);
}

TEST(Calibration, FilesOfOneRunAreAsTheyAlwaysWere) {
  const TempFolder folder;
  CalibrationStatistics stats = statistics(4);
  stats.set_sensitivities({{"to_q.weight", 0.25}});
  stats.save(folder / "s", false);
  EXPECT_EQ(read_file(folder / "s").find("sensitivity_runs"), std::string::npos);
  CalibrationStatistics back = CalibrationStatistics::load(folder / "s");
  back.merge(stats);
  back.merge(stats);
  back.save(folder / "merged", false);
  EXPECT_NE(read_file(folder / "merged").find("sensitivity_runs"), std::string::npos);
  EXPECT_EQ(back.sensitivities().at("to_q.weight"), 0.25) << "read without a count: one run";
}

TEST(Calibration, FileKeepsAMatrixThatNeedsSeveralRowsOfTheTable) {
  const TempFolder folder;
  const size_t channels = 6000;  // 72 MB
  CalibrationStatistics stats({.num_threads = 1});
  stats.add_input({layer("w", 1, channels)}, channels);
  const std::vector<float> x = random_activations(2, channels);
  add(stats, x, 0);
  stats.save(folder / "s", false);
  const StatisticsReader reader(folder / "s");
  const GramMatrix gram = reader.read_gram(0, false);
  EXPECT_EQ(reader.gram_bytes(0), gram.values().size() * sizeof(float));
  EXPECT_FALSE(reader.has_held_out(0));
  const GramMatrix& mine = stats.input(0).gram;
  for (size_t i = 0; i < channels; i += 41) {
    for (size_t j = i; j < channels; j += 37) ASSERT_EQ(gram.at(i, j), mine.at(i, j));
  }
}

TEST(Calibration, AReaderKeepsNoBinsAndReadsThoseOfOneInput) {
  const TempFolder folder;
  CalibrationStatistics stats({.num_threads = 1});
  for (size_t i = 0; i < 5; ++i) {
    stats.add_input({layer("w" + std::to_string(i), 2, 40)}, 40);
    for (double t = 0; t < 3; ++t) {
      add(stats, random_activations(6, 40), t, t == 1, 1.0F, i);
    }
  }
  stats.save(folder / "s", false);
  const StatisticsReader reader(folder / "s");
  ASSERT_EQ(reader.inputs().size(), 5U);
  for (const size_t i : {4, 0, 2}) {
    EXPECT_TRUE(reader.inputs()[i].bins.empty());
    EXPECT_EQ(reader.inputs()[i].tokens, 12U);
    InputStatistics facts = reader.read_facts(i);
    EXPECT_EQ(facts.layers[0].name, "w" + std::to_string(i));
    facts.gram = reader.read_gram(i, false);
    facts.held_out = reader.read_gram(i, true);
    expect_same(facts, stats.input(i));
  }
  EXPECT_THROW((void)reader.read_facts(5), std::out_of_range);
}

TEST(Calibration, FileIsNeverReplacedUnlessAskedAndNeverHalfWritten) {
  const TempFolder folder;
  CalibrationStatistics stats = statistics(4);
  add(stats, random_activations(5, 4), 0);
  stats.save(folder / "s", false);
  const std::string before = read_file(folder / "s");
  expect_error(ErrorCode::kOutput, {"exists"}, [&] { stats.save(folder / "s", false); });
  expect_error(ErrorCode::kOutput, {"none"}, [&] { stats.save(folder / "none/s", false); });
  EXPECT_EQ(read_file(folder / "s"), before);
  stats.save(folder / "s", true);
  EXPECT_EQ(read_file(folder / "s"), before);  // same statistics, same bytes
  EXPECT_EQ(read_tree(folder.path()).size(), 1U);
}

TEST(Calibration, OtherFilesAndDamageAreNamed) {
  const TempFolder folder;
  expect_error(ErrorCode::kModelNotFound, {"absent"},
               [&] { CalibrationStatistics::load(folder / "absent"); });
  write_file(folder / "text", "hello, this is not Parquet");
  expect_error(ErrorCode::kMetadata, {"not a file of calibration statistics"},
               [&] { CalibrationStatistics::load(folder / "text"); });
  CalibrationStatistics stats = statistics(40);
  add(stats, random_activations(50, 40), 0);
  stats.save(folder / "s", false);
  const std::string good = read_file(folder / "s");
  size_t accepted = 0;
  for (size_t i = 0; i < good.size(); i += 101) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x20);
    write_file(folder / "bad", bad);
    try {
      CalibrationStatistics::load(folder / "bad");
      ++accepted;  // a bit of the footer that says nothing about the data
    } catch (const Error& error) {
      EXPECT_TRUE(error.code() == ErrorCode::kMetadata || error.code() == ErrorCode::kValidation)
          << error.what();
    }
    write_file(folder / "cut", good.substr(0, i));
    EXPECT_THROW(CalibrationStatistics::load(folder / "cut"), Error);
  }
  EXPECT_LT(accepted, good.size() / 101 / 3);
}

}  // namespace
}  // namespace arrow_quant
