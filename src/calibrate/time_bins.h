// Statistics by time, in bins whose width adapts to whatever timesteps come.
//
// The width is the smallest power of two for which at most kMaxBins bins are occupied. It depends
// on the set of timesteps alone, not on their order, so that any two sets of bins can be merged.
// Not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "arrow_quant/calibration.h"

namespace arrow_quant {

class TimeBins {
 public:
  static constexpr size_t kMaxBins = 64;

  explicit TimeBins(uint64_t channels) : channels_(channels) {}

  /// Add x[tokens][channels], all at `timestep` (finite), which count `weight` each in the Gram
  /// matrix, or in the one of held-out tokens.
  void add(double timestep, const float* x, uint64_t tokens, double weight, bool held_out);

  /// Add bins as `bins` returned them; their widths are powers of two.
  void add(const std::vector<TimeBin>& bins);

  /// By time; bins without tokens are left out.
  std::vector<TimeBin> bins() const;

 private:
  TimeBin& bin(int64_t key);
  void coarsen();

  uint64_t channels_;
  int exponent_ = -20;  ///< bins are 2^exponent_ wide
  std::map<int64_t, TimeBin> bins_;
};

}  // namespace arrow_quant
