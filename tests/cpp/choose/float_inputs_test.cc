#include "choose/float_inputs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace arrow_quant {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

/// One layer whose input has values from -range to range and mean square 1.
InputStatistics input(const std::string& name, float range) {
  TimeBin bin{.begin = 0, .end = 1000, .tokens = 10};
  bin.low = {-range, -1};
  bin.high = {1, range};
  bin.sum = {0, 0};
  bin.squares = {10, 10};
  return {.layers = {{name, {1, 2}, {}}}, .gram = {}, .held_out = {}, .bins = {bin}};
}

std::vector<InputStatistics> inputs(size_t count) {
  std::vector<InputStatistics> all;
  for (size_t i = 0; i < count; ++i) all.push_back(input("w" + std::to_string(i), 4));
  return all;
}

const std::vector<InputStatistics>& twelve() {
  static const std::vector<InputStatistics> all = inputs(12);
  return all;
}

std::map<std::string, double> sensitivities(size_t count, double common) {
  std::map<std::string, double> all;
  for (size_t i = 0; i < count; ++i) all["w" + std::to_string(i)] = common;
  return all;
}

TEST(FloatInputs, AreThoseOfTheFewLayersThatWouldMoveThePredictionMost) {
  std::map<std::string, double> known = sensitivities(12, 1e-4);
  known["w3"] = 2;
  known["w7"] = 1;
  EXPECT_THAT(float_input_layers(each_of(twelve()), known), ElementsAre("w3", "w7"));
}

TEST(FloatInputs, CountWhatRoundingDoesToTheInputToo) {
  std::vector<InputStatistics> all = inputs(11);
  all.push_back(input("outlier", 400));  // steps a hundred times wider
  std::map<std::string, double> known = sensitivities(11, 1e-3);
  known["outlier"] = 1e-3;
  EXPECT_THAT(float_input_layers(each_of(all), known), ElementsAre("outlier"));
}

TEST(FloatInputs, AreNoneWhereManyLayersShareTheEffect) {
  EXPECT_THAT(float_input_layers(each_of(twelve()), sensitivities(12, 1)), IsEmpty());
  std::map<std::string, double> known = sensitivities(12, 1e-6);
  for (const char* name : {"w0", "w1", "w2"}) known[name] = 1;  // a quarter of the layers
  EXPECT_THAT(float_input_layers(each_of(twelve()), known), IsEmpty());
}

TEST(FloatInputs, AreNoneWhereNothingIsKnown) {
  EXPECT_THAT(float_input_layers(each_of(twelve()), {}), IsEmpty());
  const std::vector<InputStatistics> none;
  EXPECT_THAT(float_input_layers(each_of(none), {}), IsEmpty());
}

}  // namespace
}  // namespace arrow_quant
