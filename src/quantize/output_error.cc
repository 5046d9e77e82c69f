#include "quantize/output_error.h"

#include <algorithm>
#include <cmath>

#include "core/blas.h"

namespace arrow_quant {
namespace {

constexpr size_t kRows = 256;  // of a task
constexpr size_t kTile = GramMatrix::kTile;

/// sum a b over `count` elements: f32 within short runs, else f64.
double dot(const float* a, const float* b, size_t count) {
  constexpr size_t kLanes = 16;
  double total = 0;
  for (size_t begin = 0; begin < count; begin += kTile) {
    const size_t end = std::min(begin + kTile, count);
    float sums[kLanes] = {};
    size_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (size_t lane = 0; lane < kLanes; ++lane) sums[lane] += a[i + lane] * b[i + lane];
    }
    for (; i < end; ++i) sums[0] += a[i] * b[i];
    for (float sum : sums) total += static_cast<double>(sum);
  }
  return total;
}

/// A few rows of weights and of their errors against the whole Gram matrix.
class RowTask {
 public:
  RowTask(const GramMatrix& gram, const float* original, const float* restored, size_t rows)
      : gram_(gram), channels_(gram.channels()), rows_(rows), original_(original) {
    errors_.resize(rows * channels_);
    for (size_t i = 0; i < errors_.size(); ++i) errors_[i] = original[i] - restored[i];
    square_.resize(kTile * kTile);
    product_.resize(rows * kTile);
  }

  void run(OutputSums* sums) {
    for (const GramMatrix::Tile& tile : gram_.tiles()) {
      const bool diagonal = tile.row == tile.column;
      const float* h = gram_.values().data() + tile.offset;
      if (diagonal) h = mirrored(h, tile.rows);
      // Tiles off the diagonal stand for their mirror image too.
      const double weight = diagonal ? 1.0 : 2.0;
      multiply(original_, h, tile);
      for (size_t r = 0; r < rows_; ++r) {
        sums[r].yy += weight * at(original_, tile, r);
        sums[r].ye += at(errors_.data(), tile, r);
      }
      multiply(errors_.data(), h, tile);
      for (size_t r = 0; r < rows_; ++r) {
        sums[r].err += weight * at(errors_.data(), tile, r);
        if (!diagonal) sums[r].ye += at(original_, tile, r);
      }
    }
  }

 private:
  /// product_ = left[:, tile.row ...] * h.
  void multiply(const float* left, const float* h, const GramMatrix::Tile& tile) {
    blas::gemm(rows_, tile.columns, tile.rows, 1.0F, {left + tile.row, channels_},
               {h, tile.columns}, 0.0F, product_.data(), kTile);
  }

  /// Row r of the product times that of `right`.
  double at(const float* right, const GramMatrix::Tile& tile, size_t r) const {
    return dot(product_.data() + r * kTile, right + r * channels_ + tile.column, tile.columns);
  }

  const float* mirrored(const float* upper, size_t n) {
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = i; j < n; ++j) {
        square_[i * n + j] = square_[j * n + i] = upper[i * n + j];
      }
    }
    return square_.data();
  }

  const GramMatrix& gram_;
  size_t channels_, rows_;
  const float* original_;
  std::vector<float> errors_, square_, product_;
};

}  // namespace

double OutputSums::nmse() const noexcept { return err == 0 ? 0 : err / yy; }

double OutputSums::cosine() const noexcept {
  if (yy <= 0 && zz() <= 0) return 1;
  if (yy <= 0 || zz() <= 0) return 0;
  return yz() / std::sqrt(yy * zz());
}

OutputSums OutputSums::scaled(double factor) const noexcept {
  // y - f z = (1 - f) y + f (y - z)
  const double rest = 1 - factor;
  return {yy, rest * yy + factor * ye,
          rest * rest * yy + 2 * rest * factor * ye + factor * factor * err};
}

std::vector<OutputSums> output_sums(const GramMatrix& gram, std::span<const float> original,
                                    std::span<const float> restored, ThreadPool& pool,
                                    const std::function<void()>& poll) {
  const blas::Serial serial;
  const size_t channels = gram.channels();
  const size_t rows = channels == 0 ? 0 : original.size() / channels;
  std::vector<OutputSums> sums(rows);
  pool.parallel_for((rows + kRows - 1) / kRows,
                    [&](size_t task, int) {
                      const size_t row = task * kRows, count = std::min(kRows, rows - row);
                      RowTask(gram, original.data() + row * channels,
                              restored.data() + row * channels, count)
                          .run(sums.data() + row);
                    },
                    poll);
  return sums;
}

OutputSums total(std::span<const OutputSums> rows) noexcept {
  OutputSums sum;
  for (const OutputSums& row : rows) sum.add(row);
  return sum;
}

}  // namespace arrow_quant
