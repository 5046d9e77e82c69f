// Errors of a layer's outputs: what the weights' errors mean for the inputs that calibration saw.
//
// With the Gram matrix H = sum x x^T, rows w of weights and v of their reconstruction have outputs
// with sum (w x)^2 = w H w^T, sum (w x)(v x) = w H v^T, and so on.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "arrow_quant/gram.h"
#include "core/thread_pool.h"

namespace arrow_quant {

/// Sums over outputs y of the original and z of the quantized layer.
struct OutputSums {
  double yy = 0;   ///< sum y^2
  double ye = 0;   ///< sum y (y - z)
  double err = 0;  ///< sum (y - z)^2

  void add(const OutputSums& o) noexcept { yy += o.yy, ye += o.ye, err += o.err; }
  double yz() const noexcept { return yy - ye; }
  double zz() const noexcept { return yy - 2 * ye + err; }
  double nmse() const noexcept;    ///< err / yy; 0 when both are 0
  double cosine() const noexcept;  ///< 1 when y and z are both all zero

  /// The sums if z were multiplied by `factor`.
  OutputSums scaled(double factor) const noexcept;
};

/// Sums of every row of original[rows][channels] and its restored form. The same bits for any
/// number of threads.
std::vector<OutputSums> output_sums(const GramMatrix& gram, std::span<const float> original,
                                    std::span<const float> restored, ThreadPool& pool,
                                    const std::function<void()>& poll = {});

/// All rows together.
OutputSums total(std::span<const OutputSums> rows) noexcept;

}  // namespace arrow_quant
