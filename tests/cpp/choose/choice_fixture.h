// One layer in memory with statistics of its input in a file, for tests of what is decided about
// layers.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "arrow_quant/calibration.h"
#include "calibrate/statistics_fixture.h"
#include "choose/calibration_source.h"
#include "choose/layer_choice.h"
#include "core/thread_pool.h"
#include "quantize/chunk_quantizer.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

namespace arrow_quant::testing {

/// What enters the layer at a time: values[tokens][channels].
using Inputs = std::function<std::vector<float>(double time)>;

class ChoiceSubject {
 public:
  static constexpr uint64_t kRows = 96, kCols = 256;
  static constexpr size_t kTokens = 300;

  /// A layer of normal weights, or of these.
  explicit ChoiceSubject(const Inputs& inputs, uint64_t max_bytes = 1U << 30,
                         std::vector<float> weights = random_weights({kRows, kCols}, 3))
      : weights_(std::move(weights)),
        pool_(2),
        quantizer_(pool_, [] {}),
        rows_(std::as_bytes(std::span(weights_)), kCols * sizeof(float)) {
    CalibrationStatistics statistics({.num_threads = 1});
    CalibratedLayer layer{.name = kName, .shape = {kRows, kCols}};
    for (const uint64_t at : weight_sample_positions(weights_.size())) {
      layer.sample.push_back(weights_[at]);
    }
    statistics.add_input({layer}, kCols);
    NoProgress progress;
    for (const double time : {0.0, 250.0, 500.0, 750.0}) {
      const std::vector<float> x = inputs(time);
      const std::span<const float> all(x);
      statistics.add(0, {all.first(x.size() / 2), time, 1.0F, false}, progress);
      statistics.add(0, {all.subspan(x.size() / 2), time, 1.0F, true}, progress);
    }
    statistics.save(folder_ / "statistics", false);
    source_ = std::make_unique<CalibrationSource>(folder_ / "statistics", max_bytes, pool_, [] {});
  }

  /// Normal inputs, alike at all times.
  static std::vector<float> plain(double time) {
    return random_activations(kTokens, kCols, 1 + static_cast<unsigned>(time));
  }

  QuantizedTensorInfo planned(int bits = 4, Method method = Method::kGptq) const {
    QuantizedTensorInfo info{.name = kName,
                             .shape = {kRows, kCols},
                             .source_dtype = DType::kF32,
                             .encoding = Encoding::kAffine,
                             .spec = {bits, 128, ParamEncoding::kTwoLevel, method}};
    info.encoding = encoding_of(info.spec);
    return info;
  }

  std::vector<TimeSpan> times() const { return {{0, 250}, {250, 500}, {500, 1000}}; }

  LayerChoice choose(const QuantizedTensorInfo& info, const ChoiceOptions& options) {
    return choose_layer(info, rows_, path_, *source_, 0, options, quantizer_);
  }

  /// Of the output over the inputs that judge, with everything that was chosen.
  double output_nmse(const LayerChoice& choice) {
    return quantizer_.quantize(choice.info, rows_, 0, kRows, choice.input(), path_)
        .output_error.nmse();
  }

  CalibrationSource& source() { return *source_; }
  ChunkQuantizer& quantizer() { return quantizer_; }
  const RowSource& rows() const { return rows_; }
  const std::string& path() const { return path_; }

  static constexpr const char* kName = "block.proj.weight";

 private:
  TempFolder folder_;
  std::string path_ = "model.safetensors";
  std::vector<float> weights_;
  ThreadPool pool_;
  ChunkQuantizer quantizer_;
  MemoryRows rows_;
  std::unique_ptr<CalibrationSource> source_;
};

/// Inputs of which a few channels are much larger than the others.
inline std::vector<float> with_outliers(double time) {
  std::vector<float> x = ChoiceSubject::plain(time);
  for (size_t i = 0; i < x.size(); ++i) {
    if (i % ChoiceSubject::kCols % 32 == 5) x[i] *= 60;
  }
  return x;
}

/// Inputs that are mostly a mean which changes with time.
inline std::vector<float> with_means(double time) {
  std::vector<float> x = ChoiceSubject::plain(time);
  for (size_t i = 0; i < x.size(); ++i) {
    const auto channel = static_cast<double>(i % ChoiceSubject::kCols);
    x[i] = 0.05F * x[i] + 3 * static_cast<float>(std::sin(channel * (1 + time / 250)));
  }
  return x;
}

}  // namespace arrow_quant::testing
