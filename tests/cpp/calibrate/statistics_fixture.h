// Activations and layers for tests of calibration.
#pragma once

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "arrow_quant/calibration.h"

namespace arrow_quant::testing {

class NoProgress final : public Progress {
 public:
  void report(std::string_view /*message*/, double /*fraction*/) override {}
  void poll() override {}
};

/// values[tokens][channels], channels correlated with their neighbours.
inline std::vector<float> random_activations(size_t tokens, size_t channels, unsigned seed = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(tokens * channels);
  for (size_t t = 0; t < tokens; ++t) {
    float before = 0;
    for (size_t c = 0; c < channels; ++c) {
      before = 0.8F * before + normal(random);
      values[t * channels + c] = before + 0.1F * static_cast<float>(c % 7);
    }
  }
  return values;
}

inline CalibratedLayer layer(const std::string& name, uint64_t rows, uint64_t channels,
                             float value = 1.0F) {
  CalibratedLayer result{.name = name, .shape = {rows, channels}, .sample = {}};
  const size_t samples = weight_sample_positions(rows * channels).size();
  for (size_t i = 0; i < samples; ++i) {
    result.sample.push_back(value + static_cast<float>(i));
  }
  return result;
}

/// sum over tokens of weight * x_i * x_j.
inline double moment(const std::vector<float>& x, size_t channels, size_t i, size_t j) {
  double sum = 0;
  for (size_t t = 0; t < x.size() / channels; ++t) {
    sum += double{x[t * channels + i]} * double{x[t * channels + j]};
  }
  return sum;
}

}  // namespace arrow_quant::testing
