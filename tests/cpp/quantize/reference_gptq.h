// GPTQ in natural loops and double precision, from the paper (arXiv 2210.17323, algorithm 1): the
// inverse of the damped Gram matrix, its upper Cholesky factor, column by column.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <vector>

#include "arrow_quant/gram.h"

namespace arrow_quant {

class ReferenceGptq {
 public:
  using Square = std::vector<std::vector<double>>;

  /// `damping` is a fraction of the mean diagonal over channels that are not dead.
  ReferenceGptq(const GramMatrix& gram, double damping) : n_(gram.channels()), order_(n_) {
    std::iota(order_.begin(), order_.end(), size_t{0});
    // Equal energies keep the order that makes the last channel come first.
    std::ranges::reverse(order_);
    std::ranges::stable_sort(order_, std::greater(), [&](size_t i) { return gram.at(i, i); });
    double sum = 0, live = 0;
    for (size_t i = 0; i < n_; ++i) sum += gram.at(i, i), live += gram.at(i, i) > 0 ? 1 : 0;
    Square h(n_, std::vector<double>(n_));
    for (size_t i = 0; i < n_; ++i) {
      for (size_t j = 0; j < n_; ++j) h[i][j] = gram.at(order_[i], order_[j]);
      h[i][i] = h[i][i] > 0 ? h[i][i] + damping * sum / live : sum / live;
    }
    upper_ = upper_factor(inverse(h));
  }

  /// Quantize one row; `level` gives the nearest level of column `c` to a weight.
  std::vector<double> quantize(const float* row,
                               const std::function<double(size_t c, double w)>& level) const {
    std::vector<double> w(n_), result(n_);
    for (size_t k = 0; k < n_; ++k) w[k] = row[order_[k]];
    for (size_t k = 0; k < n_; ++k) {
      const double v = level(order_[k], w[k]);
      const double error = (w[k] - v) / upper_[k][k];
      for (size_t j = k; j < n_; ++j) w[j] -= error * upper_[k][j];
      result[order_[k]] = v;
    }
    return result;
  }

 private:
  /// L with a = L L^T.
  static Square lower_factor(Square a) {
    for (size_t k = 0; k < a.size(); ++k) {
      for (size_t j = 0; j < k; ++j) a[k][k] -= a[k][j] * a[k][j];
      a[k][k] = std::sqrt(a[k][k]);
      for (size_t i = k + 1; i < a.size(); ++i) {
        for (size_t j = 0; j < k; ++j) a[i][k] -= a[i][j] * a[k][j];
        a[i][k] /= a[k][k];
        a[k][i] = 0;
      }
    }
    return a;
  }

  static Square upper_factor(const Square& a) {
    const Square lower = lower_factor(a);
    Square upper = lower;
    for (size_t i = 0; i < a.size(); ++i) {
      for (size_t j = 0; j < a.size(); ++j) upper[i][j] = lower[j][i];
    }
    return upper;
  }

  static Square inverse(const Square& a) {
    const size_t n = a.size();
    const Square lower = lower_factor(a);
    Square result(n, std::vector<double>(n));
    for (size_t c = 0; c < n; ++c) {
      std::vector<double> x(n, 0.0);
      x[c] = 1;
      for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < i; ++j) x[i] -= lower[i][j] * x[j];
        x[i] /= lower[i][i];
      }
      for (size_t i = n; i-- > 0;) {
        for (size_t j = i + 1; j < n; ++j) x[i] -= lower[j][i] * x[j];
        x[i] /= lower[i][i];
      }
      for (size_t i = 0; i < n; ++i) result[i][c] = x[i];
    }
    return result;
  }

  size_t n_;
  std::vector<size_t> order_;
  Square upper_;
};

}  // namespace arrow_quant
