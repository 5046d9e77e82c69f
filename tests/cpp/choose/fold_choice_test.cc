#include "choose/fold_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "choose/choice_fixture.h"
#include "plan/plan.h"
#include "read/model_directory.h"
#include "support/tiny_model.h"

namespace arrow_quant {
namespace {

using testing::ChoiceSubject;
using ::testing::HasSubstr;
using testing::Inputs;
using testing::QuietProgress;
using testing::TempFolder;

constexpr uint64_t kRows = ChoiceSubject::kRows, kCols = ChoiceSubject::kCols;

/// A norm whose outputs enter one layer, and what was seen there.
class FoldSubject {
 public:
  explicit FoldSubject(const Inputs& inputs, std::optional<std::vector<Fold>> folds = {{fold()}},
                       uint64_t max_bytes = 1U << 30)
      : pool_(2) {
    const std::vector<float> weights = testing::random_weights({kRows, kCols}, 3);
    testing::write_tiny_model(folder_.path() / "model",
                              {testing::f32_tensor("block.norm.weight", {kCols}, 1),
                               testing::f32_tensor("block.proj.weight", {kRows, kCols}, weights),
                               testing::f32_tensor("block.other.weight", {8, kCols}, 5)});
    CalibrationStatistics statistics({.num_threads = 1});
    CalibratedLayer layer{.name = "block.proj.weight", .shape = {kRows, kCols}};
    for (const uint64_t at : weight_sample_positions(weights.size())) {
      layer.sample.push_back(weights[at]);
    }
    statistics.add_input({layer}, kCols);
    QuietProgress progress;
    for (const double time : {0.0, 500.0}) {
      statistics.add(0, {inputs(time), time, 1.0F, time > 0}, progress);
    }
    if (folds) statistics.set_folds(*folds);
    statistics.save(folder_ / "statistics", false);
    source_ = std::make_unique<CalibrationSource>(folder_ / "statistics", max_bytes, pool_, [] {});
  }

  static Fold fold() {
    return {.layers = {"block.proj.weight"}, .sources = {{"block.norm.weight", 0, 0}}};
  }

  FoldPlan choose(const PlanOptions& options = planned(), uint64_t max_memory = 1U << 30) {
    const ModelDirectory model = open_model(folder_ / "model");
    const Plan plan = make_plan(model, options);
    QuietProgress progress;
    return choose_folds(model.components[0], plan.components[0], {.equalize = true}, max_memory,
                        *source_, pool_, progress);
  }

  static PlanOptions planned() { return {.bit_width = 4, .modality = "image"}; }

  CalibrationSource& source() { return *source_; }

 private:
  TempFolder folder_;
  ThreadPool pool_;
  std::unique_ptr<CalibrationSource> source_;
};

TEST(FoldChoice, FactorsGoIntoTheNormWhereChannelsDiffer) {
  FoldSubject subject(testing::with_outliers);
  const float low = subject.source().facts(0).bins[0].low[5];
  const FoldPlan plan = subject.choose();
  ASSERT_EQ(plan.folds.size(), 1U);
  const std::vector<float>& factors = plan.folds[0].factors;
  ASSERT_EQ(factors.size(), kCols);
  EXPECT_GT(factors[5], 1.5F * factors[6]);
  EXPECT_EQ(plan.tensors.at("block.proj.weight").columns, factors);
  EXPECT_EQ(plan.tensors.at("block.norm.weight").rows[0].factors, factors);
  EXPECT_EQ(subject.source().facts(0).bins[0].low[5], low / factors[5])
      << "from now on inputs come divided";
}

TEST(FoldChoice, NothingIsFoldedWhereNothingPrecedesALayer) {
  FoldSubject subject(testing::with_outliers, std::vector<Fold>());
  const FoldPlan plan = subject.choose();
  EXPECT_TRUE(plan.folds.empty());
  ASSERT_EQ(plan.warnings.size(), 1U);
  EXPECT_THAT(plan.warnings[0], HasSubstr("made by parameters that nothing else reads"));
}

TEST(FoldChoice, SaysThatTheStatisticsDoNotKnowWhatPrecedesTheLayers) {
  FoldSubject subject(testing::with_outliers, std::nullopt);
  const FoldPlan plan = subject.choose();
  EXPECT_TRUE(plan.folds.empty());
  ASSERT_EQ(plan.warnings.size(), 1U);
  EXPECT_THAT(plan.warnings[0], HasSubstr("do not say what precedes the layers"));
}

TEST(FoldChoice, NamesLayersThatStandInTheWay) {
  FoldSubject kept(testing::with_outliers);
  PlanOptions options = FoldSubject::planned();
  options.layer_rules = {{"*proj*", 0}};
  EXPECT_THAT(kept.choose(options).warnings.at(0), HasSubstr("a layer of the input is kept"));
  Fold other = FoldSubject::fold();
  other.sources[0].name = "block.gone.weight";
  FoldSubject gone(testing::with_outliers, {{other}});
  EXPECT_THAT(gone.choose().warnings.at(0), HasSubstr("not all parameters before it"));
}

TEST(FoldChoice, NothingIsFoldedWhereMemoryHoldsNoMatrices) {
  FoldSubject small(testing::with_outliers, {{FoldSubject::fold()}}, 1000);
  EXPECT_THAT(small.choose().warnings.at(0), HasSubstr("max_memory_mb does not hold"));
  FoldSubject scratch(testing::with_outliers);
  EXPECT_THAT(scratch.choose(FoldSubject::planned(), 64U << 20).warnings.at(0),
              HasSubstr("max_memory_mb does not hold"));
}

}  // namespace
}  // namespace arrow_quant
