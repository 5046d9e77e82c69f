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
#include "arrow_quant/quantized_tensor.h"
#include "core/thread_pool.h"

namespace arrow_quant {

/// Sums over the outputs of every row of original[rows][channels] and of its restored form; `count`
/// is 1 per row. The same bits for any number of threads.
std::vector<ErrorSums> output_sums(const GramMatrix& gram, std::span<const float> original,
                                   std::span<const float> restored, ThreadPool& pool,
                                   const std::function<void()>& poll = {});

/// The sums if what was restored were multiplied by `factor`.
ErrorSums scaled(const ErrorSums& sums, double factor) noexcept;

/// All rows together.
ErrorSums total(std::span<const ErrorSums> rows) noexcept;

}  // namespace arrow_quant
