// What a layer's parts are tried with and kept by: the trial, correction over time, equalization.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "choose/choice_fixture.h"
#include "choose/layer_equalization.h"
#include "choose/layer_time.h"
#include "choose/layer_trial.h"

namespace arrow_quant {
namespace {

using testing::ChoiceSubject;

/// A layer with its first choice, tried.
struct Tried {
  Tried(ChoiceSubject& subject, int bits, Method method)
      : planned(subject.planned(bits, method)),
        choice(first_choice(planned, subject.source(), 0, {})),
        trial(planned, subject.rows(), subject.path(), subject.quantizer()),
        nmse(trial.output_nmse(choice)) {}

  QuantizedTensorInfo planned;
  LayerChoice choice;
  LayerTrial trial;
  double nmse;
};

TEST(LayerTrial, TellsTheErrorThatTheWholeLayerHas) {
  ChoiceSubject subject(ChoiceSubject::plain);
  Tried tried(subject, 4, Method::kGptq);
  ASSERT_NE(tried.choice.sample, nullptr);
  EXPECT_GT(tried.nmse, 0);
  EXPECT_NEAR(tried.nmse / subject.output_nmse(tried.choice), 1, 0.25);
  EXPECT_EQ(tried.trial.is_whole(), tried.choice.sample->rows == ChoiceSubject::kRows);
}

TEST(LayerTrial, MoreBitsHaveLessError) {
  ChoiceSubject subject(ChoiceSubject::plain);
  EXPECT_LT(10 * Tried(subject, 4, Method::kSearch).nmse, Tried(subject, 2, Method::kSearch).nmse);
}

TEST(LayerTrial, ARowGainIsTriedOnTheSameCodes) {
  ChoiceSubject subject(ChoiceSubject::plain);
  Tried tried(subject, 2, Method::kGptq);
  LayerChoice rescaled = tried.choice;
  rescaled.row_gain = RowGain::kLeastSquares;
  const double error = tried.trial.rescaled_nmse(rescaled);
  EXPECT_TRUE(rescaled.sample->codes == tried.choice.sample->codes);
  EXPECT_NE(rescaled.sample, tried.choice.sample);
  EXPECT_NEAR(error / tried.nmse, 1, 0.2);
}

TEST(LayerTrial, RoundedActivationsAddToTheError) {
  ChoiceSubject subject(ChoiceSubject::plain);
  Tried tried(subject, 4, Method::kSearch);
  const std::vector<TimeSpan> times = subject.times();
  tried.trial.round_activations(subject.source().facts(0), times);
  LayerChoice again = tried.choice;
  EXPECT_GT(tried.trial.output_nmse(again), tried.nmse);
}

TEST(LayerTrial, WeightSizesAreThoseOfItsRows) {
  std::vector<float> weights(ChoiceSubject::kRows * ChoiceSubject::kCols, 0.5F);
  for (size_t r = 0; r < ChoiceSubject::kRows; ++r) weights[r * ChoiceSubject::kCols + 3] = -2;
  ChoiceSubject subject(ChoiceSubject::plain, 1U << 30, weights);
  Tried tried(subject, 4, Method::kSearch);
  const ChannelSizes& sizes = tried.trial.weight_sizes();
  EXPECT_EQ(sizes.largest[3], 2);
  EXPECT_EQ(sizes.largest[4], 0.5F);
  EXPECT_FLOAT_EQ(sizes.root_mean_square[3], 2);
}

TEST(LayerTime, ACorrectionOfMeansIsKeptWhereInputsAreMostlyMeans) {
  for (const Method method : {Method::kSearch, Method::kGptq}) {
    ChoiceSubject subject(testing::with_means);
    Tried tried(subject, 2, method);
    const LayerChoice before = tried.choice;
    double least = tried.nmse;
    nlohmann::json record = nlohmann::json::array();
    const auto centre = [&](const TimeMeans& means) { return subject.source().centred(means); };
    correct_over_time(subject.source().facts(0), subject.times(), centre, tried.trial, tried.choice,
                      least, record);
    ASSERT_NE(tried.choice.time, nullptr);
    EXPECT_LT(least, 0.9 * tried.nmse);
    EXPECT_NEAR(subject.output_nmse(tried.choice) / least, 1, 0.35);
    EXPECT_GE(record.size(), 2U);
  }
}

TEST(LayerTime, NoCorrectionIsKeptWhereItBringsNothing) {
  ChoiceSubject subject(ChoiceSubject::plain);
  Tried tried(subject, 4, Method::kSearch);
  double least = tried.nmse;
  nlohmann::json record = nlohmann::json::array();
  correct_over_time(subject.source().facts(0), subject.times(), {}, tried.trial, tried.choice,
                    least, record);
  EXPECT_EQ(tried.choice.time, nullptr);
  EXPECT_EQ(least, tried.nmse);
  EXPECT_EQ(record.size(), 2U) << "one group, and three: both were tried";
}

TEST(LayerEqualization, FactorsAreKeptWhereChannelsDiffer) {
  ChoiceSubject subject(testing::with_outliers);
  Tried tried(subject, 4, Method::kSearch);
  double least = tried.nmse;
  nlohmann::json record = nlohmann::json::array();
  equalize_layer(subject.source().facts(0), tried.trial, tried.choice, least, record);
  ASSERT_EQ(tried.choice.equalization.size(), ChoiceSubject::kCols);
  EXPECT_LT(least, 0.99 * tried.nmse);
  EXPECT_GT(tried.choice.equalization[5], 1.5F * tried.choice.equalization[6]);
  EXPECT_NEAR(subject.output_nmse(tried.choice) / least, 1, 0.25);
  EXPECT_EQ(record.size(), 1U);
}

TEST(LayerEqualization, DividesTheImportanceOfColumnsByTheSquaresOfTheirFactors) {
  ChoiceSubject subject(ChoiceSubject::plain);
  Tried tried(subject, 4, Method::kSearch);
  std::vector<float> factors(ChoiceSubject::kCols, 1.0F);
  factors[2] = 4;
  const LayerChoice equalized = with_factors(tried.choice, factors);
  EXPECT_EQ(equalized.importance[2], tried.choice.importance[2] / 16);
  EXPECT_EQ(equalized.importance[3], tried.choice.importance[3]);
  EXPECT_EQ(equalized.equalization, factors);
}

TEST(LayerEqualization, TheBestFormIsTheOneWithTheLeastErrorOrNone) {
  const auto at = [](Pooling pooling, float alpha) {
    const double best = std::abs(alpha - 0.375F);
    return pooling == Pooling::kEnergy ? 1 + best : 2 + best;
  };
  const std::optional<FactorForm> form = best_form(1.5, at);
  ASSERT_TRUE(form);
  EXPECT_EQ(form->pooling, Pooling::kEnergy);
  EXPECT_EQ(form->alpha, 0.375F);
  EXPECT_EQ(form->error, 1);
  EXPECT_FALSE(best_form(0.5, at)) << "nothing is below the plain layer";
}

}  // namespace
}  // namespace arrow_quant
