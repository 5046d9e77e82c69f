#include "choose/layer_choice.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "choose/choice_fixture.h"

namespace arrow_quant {
namespace {

using testing::ChoiceSubject;

std::set<std::string> methods_tried(const LayerChoice& choice) {
  std::set<std::string> methods;
  if (choice.info.candidates.empty()) return methods;
  for (const auto& candidate : nlohmann::json::parse(choice.info.candidates)) {
    methods.insert(candidate["method"].get<std::string>());
  }
  return methods;
}

TEST(LayerChoice, TriesEveryMethodThatItMayAndTakesTheLeastError) {
  ChoiceSubject subject(ChoiceSubject::plain);
  for (const int bits : {2, 4}) {
    const QuantizedTensorInfo planned = subject.planned(bits);
    const LayerChoice free = subject.choose(planned, {.any_method = true, .any_encoding = true});
    const std::set<std::string> expected = bits == 2
                                               ? std::set<std::string>{"gptq", "r2q", "search"}
                                               : std::set<std::string>{"gptq", "search"};
    EXPECT_EQ(methods_tried(free), expected);
    for (const Method method : {Method::kGptq, Method::kSearch}) {
      const LayerChoice bound = subject.choose(subject.planned(bits, method), {});
      EXPECT_EQ(bound.info.spec.method, method);
      EXPECT_LE(subject.output_nmse(free), 1.001 * subject.output_nmse(bound));
    }
  }
}

TEST(LayerChoice, ErrorFeedbackBeatsTheSearchOnCorrelatedInputs) {
  ChoiceSubject subject(ChoiceSubject::plain);
  const LayerChoice choice = subject.choose(subject.planned(4), {.any_method = true});
  EXPECT_EQ(choice.info.spec.method, Method::kGptq);
}

TEST(LayerChoice, WithoutRoomForMatricesTheSearchHasToDo) {
  ChoiceSubject subject(ChoiceSubject::plain);
  ChoiceOptions options{.any_method = true};
  options.matrices = false;
  const LayerChoice choice = subject.choose(subject.planned(4), options);
  EXPECT_EQ(choice.info.spec.method, Method::kSearch);
  EXPECT_EQ(choice.matrices->factor, nullptr);
  EXPECT_FALSE(choice.importance.empty()) << "mean squares are known";
  EXPECT_TRUE(choice.info.candidates.empty());
}

TEST(LayerChoice, EqualizesAndCorrectsOnlyIfAsked) {
  ChoiceSubject outliers(testing::with_outliers), means(testing::with_means);
  const QuantizedTensorInfo planned = outliers.planned(4, Method::kSearch);
  EXPECT_FALSE(outliers.choose(planned, {.equalize = true}).equalization.empty());
  EXPECT_TRUE(outliers.choose(planned, {}).equalization.empty());
  ChoiceOptions options{.times = means.times(), .time_aware = true};
  options.has_bias = true;
  EXPECT_NE(means.choose(planned, options).time, nullptr);
  options.has_bias = false;
  EXPECT_EQ(means.choose(planned, options).time, nullptr);
}

TEST(LayerChoice, StaticActivationsGetARangeForEveryGroupOrOneForAll) {
  ChoiceSubject subject(ChoiceSubject::plain);
  ChoiceOptions options{.times = subject.times()};
  options.static_activations = true;
  const LayerChoice choice = subject.choose(subject.planned(8), options);
  ASSERT_NE(choice.time, nullptr);
  const size_t groups = choice.time->groups.size();
  EXPECT_TRUE(groups == 1 || groups == subject.times().size()) << groups;
  for (const TimeGroup& group : choice.time->groups) EXPECT_GT(group.activation_scale, 0);
}

}  // namespace
}  // namespace arrow_quant
