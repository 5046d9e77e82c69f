// The Parquet file of calibration statistics (docs/reference/calibration-file.md). Gram matrices
// are read one at a time, so that a model's statistics may be larger than memory.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "arrow_quant/calibration.h"
#include "calibrate/sensitivity_runs.h"
#include "calibrate/time_bins.h"

namespace arrow_quant {

/// What a file says about all inputs together.
struct StatisticsOrigin {
  std::string component;
  std::string data;
  std::vector<std::string> notes;
  std::optional<std::vector<Fold>> folds;            ///< nothing when nobody looked for them
  std::map<std::string, double> sensitivities = {};  ///< of layers, where they were measured
  SensitivityRuns sensitivity_runs = {};             ///< of which these are the means
  std::map<std::string, std::string> roles = {};     ///< of weights that are not to be quantized
};

/// What is written of one input; its bins are made when their turn comes.
struct InputToWrite {
  const InputStatistics& facts;  ///< without `bins`
  const TimeBins& bins;
};

/// Write `inputs` to `path`, in one step. Raises kOutput.
void write_statistics(const std::string& path, bool overwrite, const StatisticsOrigin& origin,
                      const std::vector<InputToWrite>& inputs);

/// Not thread-safe.
class StatisticsReader {
 public:
  /// Check everything but the Gram matrices, a part of the file at a time. Raises kModelNotFound,
  /// kMetadata for a file of another kind, kValidation for a damaged one.
  explicit StatisticsReader(const std::string& path);
  ~StatisticsReader();
  StatisticsReader(StatisticsReader&&) noexcept;

  const std::string& path() const noexcept;
  const StatisticsOrigin& origin() const noexcept;
  const std::string& component() const noexcept { return origin().component; }

  /// One entry per input, without bins; their matrices have no channels.
  const std::vector<InputStatistics>& inputs() const noexcept;

  /// The same entry with its bins. They are much larger than all else but the matrices, so they are
  /// read when asked for and not kept.
  InputStatistics read_facts(size_t input) const;

  uint64_t channels(size_t input) const;
  uint64_t block(size_t input) const;  ///< channels of a diagonal block of its matrices

  /// Bytes that a matrix of an input takes in memory.
  uint64_t gram_bytes(size_t input) const;
  bool has_held_out(size_t input) const;
  GramMatrix read_gram(size_t input, bool held_out) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace arrow_quant
