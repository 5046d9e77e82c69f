// The statistics of a component while its layers are quantized one after the other.
//
// Matrices are read when a layer asks for its input's and stay in memory until a layer with another
// input comes, so that layers which share an input share them. Not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "arrow_quant/gram.h"
#include "arrow_quant/model_index.h"
#include "arrow_quant/plan.h"
#include "calibrate/each_input.h"
#include "calibrate/statistics_file.h"
#include "choose/time_groups.h"
#include "core/thread_pool.h"
#include "quantize/feedback_factor.h"

namespace arrow_quant {

/// The matrices of an input that fit the memory limit.
struct InputMatrices {
  GramMatrix gram;      ///< to fit to; no channels when it does not fit
  GramMatrix held_out;  ///< to choose and to report by; none when it does not fit
  /// Of `gram`; null when it does not fit.
  std::shared_ptr<const FeedbackFactor> factor;

  const GramMatrix* judge() const noexcept { return held_out.channels() ? &held_out : nullptr; }
};

/// The Gram matrix and its factor after the means of groups of time are subtracted from the inputs.
struct Centred {
  std::shared_ptr<const GramMatrix> gram;
  std::shared_ptr<const FeedbackFactor> factor;
};

class CalibrationSource {
 public:
  /// Open the file `path`; a matrix is read only if it and what is made of it fit `max_bytes`.
  CalibrationSource(const std::string& path, uint64_t max_bytes, ThreadPool& pool,
                    std::function<void()> poll);

  const std::string& path() const noexcept { return reader_.path(); }
  const std::string& component() const noexcept { return reader_.component(); }
  const StatisticsOrigin& origin() const noexcept { return reader_.origin(); }

  /// All inputs without their bins.
  const std::vector<InputStatistics>& inputs() const noexcept { return reader_.inputs(); }

  /// What is known of all inputs as they were seen, one after the other in memory.
  EachInput each_input() const;

  uint64_t channels(size_t input) const { return reader_.channels(input); }
  /// Channels of a diagonal block of its Gram matrix; all of them where it is whole.
  uint64_t block(size_t input) const { return reader_.block(input); }

  /// Layers whose inputs need more than 8 bits.
  const std::set<std::string>& float_inputs() const noexcept { return float_inputs_; }

  /// Whether any input has held-out tokens.
  bool holds_out() const noexcept;

  /// Which of model.components the statistics are of, one of those that `plan` quantizes. Raises
  /// kConfiguration when that is ambiguous.
  uint32_t component_of(const ModelDirectory& model, const Plan& plan) const;

  /// Raise kShapeMismatch unless every layer of the file is a weight of `component`.
  void check_model(const ModelIndex& component) const;

  /// Number of the input of the weight `name`, or nothing.
  std::optional<size_t> find(const std::string& name) const;

  /// What is known of an input, divided by its factors. Valid until those of another are asked for:
  /// there is room for one.
  const InputStatistics& facts(size_t input) const;

  /// From now on, channels of these inputs are divided by equalization scales; those of all other
  /// inputs are as they were observed.
  void divide(std::map<size_t, std::vector<float>> factors);

  /// Mean square of each channel of an input.
  std::vector<float> importance(size_t input) const;

  /// Of the matrices last asked for: the Gram matrix after the means of groups are subtracted, and
  /// its factor; stored by number of groups.
  Centred centred(const TimeMeans& means);

  /// The matrices of an input, factored for codes of `bit_width` bits; made if they are not those
  /// of the last call. With groups of `times` the factor is damped by the spread about their means.
  std::shared_ptr<const InputMatrices> matrices(size_t input, int bit_width,
                                                std::span<const TimeSpan> times = {});

 private:
  GramMatrix read_gram(size_t input, bool held_out) const;
  std::shared_ptr<const FeedbackFactor> factor_of(const GramMatrix& gram, size_t input,
                                                  int bit_width, double uncertain = 1);

  StatisticsReader reader_;
  uint64_t max_bytes_;
  ThreadPool& pool_;
  std::function<void()> poll_;
  std::map<std::string, size_t> by_layer_;
  std::set<std::string> float_inputs_;
  std::map<size_t, std::vector<float>> factors_;
  mutable std::optional<size_t> known_;  ///< whose facts these are
  mutable InputStatistics facts_;
  size_t loaded_ = 0;
  int bit_width_ = 0;
  bool by_time_ = false;
  std::shared_ptr<const InputMatrices> matrices_;
  std::map<size_t, Centred> centred_;  // of the loaded input
};

}  // namespace arrow_quant
