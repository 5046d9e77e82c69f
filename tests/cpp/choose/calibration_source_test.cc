#include "choose/calibration_source.h"

#include <gtest/gtest.h>

#include <cmath>

#include "choose/choice_fixture.h"
#include "support/expect_error.h"

namespace arrow_quant {
namespace {

using testing::ChoiceSubject;

TEST(CalibrationSource, FindsTheInputOfALayerAndSaysWhatEntersIt) {
  ChoiceSubject subject(ChoiceSubject::plain);
  CalibrationSource& source = subject.source();
  EXPECT_EQ(source.find(ChoiceSubject::kName), 0U);
  EXPECT_FALSE(source.find("other.weight"));
  EXPECT_TRUE(source.holds_out());
  EXPECT_TRUE(source.inputs()[0].bins.empty());
  EXPECT_EQ(source.facts(0).bins.size(), 4U);
  EXPECT_EQ(source.facts(0).tokens, 2 * ChoiceSubject::kTokens);
  EXPECT_EQ(source.block(0), source.channels(0));
  const std::vector<float> importance = source.importance(0);
  ASSERT_EQ(importance.size(), ChoiceSubject::kCols);
  for (const float square : importance) EXPECT_GT(square, 0);
}

TEST(CalibrationSource, EachInputIsAsItWasSeenWhateverFactorsDivideTheFacts) {
  ChoiceSubject subject(ChoiceSubject::plain);
  CalibrationSource& source = subject.source();
  const float low = source.facts(0).bins[0].low[3];
  source.divide({{0, std::vector<float>(ChoiceSubject::kCols, 2.0F)}});
  EXPECT_EQ(source.facts(0).bins[0].low[3], low / 2);
  size_t seen = 0;
  source.each_input()([&](const InputStatistics& facts) {
    ++seen;
    EXPECT_EQ(facts.bins[0].low[3], low);
  });
  EXPECT_EQ(seen, 1U);
  source.divide({});
  EXPECT_EQ(source.facts(0).bins[0].low[3], low);
}

TEST(CalibrationSource, MatricesComeDividedByTheFactorsOfTheirInput) {
  ChoiceSubject subject(ChoiceSubject::plain);
  CalibrationSource& source = subject.source();
  const GramMatrix before = source.matrices(0, 4)->gram;
  std::vector<float> factors(ChoiceSubject::kCols, 1.0F);
  factors[7] = 4;
  source.divide({{0, factors}});
  const GramMatrix after = source.matrices(0, 4)->gram;
  EXPECT_FLOAT_EQ(after.at(7, 7), before.at(7, 7) / 16);
  EXPECT_FLOAT_EQ(after.at(7, 9), before.at(7, 9) / 4);
  EXPECT_EQ(after.at(8, 9), before.at(8, 9));
}

TEST(CalibrationSource, KeepsTheMatricesOfTheLastInputAndWidth) {
  ChoiceSubject subject(ChoiceSubject::plain);
  CalibrationSource& source = subject.source();
  const auto four = source.matrices(0, 4);
  EXPECT_EQ(source.matrices(0, 4), four);
  EXPECT_NE(source.matrices(0, 2), four);
  const auto by_time = source.matrices(0, 2, subject.times());
  EXPECT_EQ(source.matrices(0, 2, subject.times()), by_time);
  EXPECT_NE(source.matrices(0, 2), by_time);
}

TEST(CalibrationSource, ReadsNoMatrixThatMemoryDoesNotHold) {
  const uint64_t matrix = GramMatrix::bytes(ChoiceSubject::kCols);
  ChoiceSubject none(ChoiceSubject::plain, matrix - 1);
  EXPECT_EQ(none.source().matrices(0, 4)->judge(), nullptr);
  ChoiceSubject judged(ChoiceSubject::plain, matrix);
  EXPECT_NE(judged.source().matrices(0, 4)->judge(), nullptr);
  EXPECT_EQ(judged.source().matrices(0, 4)->factor, nullptr) << "room to judge, not to fit";
  ChoiceSubject whole(ChoiceSubject::plain, 100 * matrix);
  EXPECT_NE(whole.source().matrices(0, 4)->factor, nullptr);
}

TEST(CalibrationSource, WhatIsLeftWithoutMeansIsTheSpreadAboutThem) {
  ChoiceSubject subject(testing::with_means);
  CalibrationSource& source = subject.source();
  const TimeMeans means = means_by_time(source.facts(0), subject.times());
  const auto matrices = source.matrices(0, 4);
  const Centred centred = source.centred(means);
  ASSERT_NE(centred.gram, nullptr);
  EXPECT_LT(centred.gram->at(5, 5), 0.5F * matrices->gram.at(5, 5));
  EXPECT_EQ(source.centred(means).gram, centred.gram) << "kept";
}

TEST(CalibrationSource, RefusesAModelWithoutTheLayer) {
  ChoiceSubject subject(ChoiceSubject::plain);
  const ModelIndex other{.path = "other"};
  testing::expect_error(ErrorCode::kShapeMismatch, {"no such layer", ChoiceSubject::kName},
                        [&] { subject.source().check_model(other); });
}

}  // namespace
}  // namespace arrow_quant
