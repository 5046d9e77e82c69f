// The mean error of a chunk's outputs in each group of time, and the biases that correct it.
#pragma once

#include <cstdint>
#include <vector>

#include "arrow_quant/quantized_tensor.h"
#include "quantize/output_error.h"

namespace arrow_quant {

struct TimeCorrection;

/// Feed blocks of rows, then correct. Does nothing without means.
class MeanErrors {
 public:
  /// For a chunk of `rows` rows; `time` may be null and must outlive this object.
  MeanErrors(const TimeCorrection* time, uint64_t rows, uint64_t cols);

  /// Add rows [first, first + count).
  void add(uint64_t first, uint64_t count, const std::vector<float>& original,
           const std::vector<float>& restored);

  /// Give each of `groups` biases unless it has them, and update `outputs`, the sums over the
  /// held-out inputs: for every row and group, with d and d' the mean errors over
  /// tokens fitted to and held out and n the number of the latter, sum (e + b)^2 = sum e^2 + n (2 b
  /// d' + b^2) for b = -d.
  void correct(std::vector<TimeGroup>& groups, OutputSums& outputs) const;

 private:
  const TimeCorrection* time_;
  uint64_t rows_;
  uint64_t cols_;
  // [groups][rows]
  std::vector<float> fitted_, held_out_, outputs_;
};

}  // namespace arrow_quant
