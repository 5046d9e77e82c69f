#include "quantize/feedback_factor.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "arrow_quant/error.h"
#include "core/cholesky.h"

namespace arrow_quant {
namespace {

// Fractions of the mean diagonal (algorithms: held-out error of layers with few tokens).
constexpr double kDamping = 0.01;
constexpr double kTwoBitDamping = 0.03;     // 2 bits: errors are larger than what samples can tell
constexpr double kFewTokensDamping = 0.05;  // below kEnoughTokens per channel
constexpr double kDeficientDamping = 0.2;   // some directions never occurred
constexpr uint64_t kEnoughTokens = 4;
constexpr double kDampingRatio = 10;  // from one step of the ladder to the next
constexpr int kDampingSteps = 5;

// Damping under which directions that never occurred show: what is left of a channel, given those
// before it, is then about the damping itself. Well above the rounding of f32.
constexpr double kProbe = 1e-5;
constexpr double kProbeRatio = 8;
constexpr double kDeficientShare = 0.05;  // of the channels
// The probe costs a factorisation, so it is made only where the factor in hand gives reason to.
constexpr double kSuspiciousRatio = 4;

using Poll = std::function<void()>;

/// A diagonal block of the Gram matrix on its way to a factor.
class Block {
 public:
  Block(const GramMatrix& gram, uint64_t begin, uint64_t size, std::span<const float> diagonal,
        bool act_order)
      : gram_(gram), diagonal_(diagonal.subspan(begin, size)) {
    out_.begin = begin;
    out_.size = size;
    out_.order.resize(size);
    std::iota(out_.order.begin(), out_.order.end(), 0U);
    if (act_order) {
      std::ranges::stable_sort(out_.order, {}, [&](uint32_t i) { return diagonal_[i]; });
    } else {
      std::ranges::reverse(out_.order);
    }
    double sum = 0;
    for (float h : diagonal_) sum += h, live_ += h > 0.0F ? 1 : 0;
    mean_ = live_ > 0 ? sum / static_cast<double>(live_) : 1.0;
  }

  bool factor(double damping, ThreadPool& pool, const Poll& poll) {
    load(damping, pool, poll);
    return cholesky(out_.size, out_.mix.data(), pool, poll);
  }

  /// Whether more than a few channels are all but determined by those before them: by how much, as
  /// a fraction of the mean diagonal.
  bool missing(double fraction) const {
    const double min_square = fraction * mean_;
    uint64_t count = 0;
    for (uint64_t k = 0; k < out_.size; ++k) {
      const double pivot = pivot_at(k);
      if (diagonal_[out_.order[k]] > 0.0F && pivot * pivot < min_square) ++count;
    }
    return static_cast<double>(count) > kDeficientShare * static_cast<double>(live_);
  }

  /// Whether directions are missing that the tokens could have had. Overwrites the factor.
  bool rank_deficient(ThreadPool& pool, const Poll& poll) {
    return !factor(kProbe, pool, poll) || missing(kProbeRatio * kProbe);
  }

  /// Turn the Cholesky factor into coefficients.
  FeedbackBlock finish(ThreadPool& pool, const Poll& poll) {
    constexpr uint64_t kRows = 128;
    const uint64_t n = out_.size;
    std::vector<float> inverse(n);
    out_.cost.resize(n);
    for (uint64_t k = 0; k < n; ++k) {
      const double pivot = pivot_at(k);
      inverse[k] = static_cast<float>(1.0 / pivot);
      out_.cost[k] = static_cast<float>(pivot * pivot);
    }
    pool.parallel_for((n + kRows - 1) / kRows,
                      [&](size_t rows, int) {
                        for (uint64_t s = rows * kRows; s < std::min(n, (rows + 1) * kRows); ++s) {
                          float* row = out_.mix.data() + s * n;
                          for (uint64_t r = 0; r < s; ++r) row[r] *= inverse[r];
                        }
                      },
                      poll);
    return std::move(out_);
  }

 private:
  double pivot_at(uint64_t k) const { return out_.mix[k * out_.size + k]; }

  /// The block in the order of its channels, lower triangle, with damping on the diagonal. A dead
  /// channel stands alone: it keeps its weight's nearest level and passes no error on.
  void load(double damping, ThreadPool& pool, const Poll& poll) {
    const uint64_t n = out_.size;
    // Zeros, which dead channels keep through every attempt.
    out_.mix.resize(n * n);
    std::vector<uint32_t> place(n);
    for (uint64_t k = 0; k < n; ++k) place[out_.order[k]] = static_cast<uint32_t>(k);
    std::vector<const GramMatrix::Tile*> tiles;
    for (const GramMatrix::Tile& tile : gram_.tiles()) {
      if (tile.row >= out_.begin && tile.row < out_.begin + n) tiles.push_back(&tile);
    }
    pool.parallel_for(
        tiles.size(), [&](size_t index, int) { scatter(*tiles[index], place); }, poll);
    const float added = static_cast<float>(damping * mean_);
    for (uint64_t k = 0; k < n; ++k) {
      const float h = diagonal_[out_.order[k]];
      out_.mix[k * n + k] = h > 0.0F ? h + added : static_cast<float>(mean_);
    }
  }

  void scatter(const GramMatrix::Tile& tile, const std::vector<uint32_t>& place) {
    const uint64_t n = out_.size;
    const float* values = gram_.values().data() + tile.offset;
    for (uint64_t i = 0; i < tile.rows; ++i) {
      const uint64_t row = tile.row - out_.begin + i;
      if (!(diagonal_[row] > 0.0F)) continue;
      const uint64_t p = place[row];
      for (uint64_t j = tile.row == tile.column ? i + 1 : 0; j < tile.columns; ++j) {
        const uint64_t column = tile.column - out_.begin + j;
        if (!(diagonal_[column] > 0.0F)) continue;
        const uint64_t q = place[column];
        out_.mix[std::max(p, q) * n + std::min(p, q)] = values[i * tile.columns + j];
      }
    }
  }

  const GramMatrix& gram_;
  std::span<const float> diagonal_;
  FeedbackBlock out_;
  double mean_ = 1;
  uint64_t live_ = 0;
};

std::vector<float> diagonal_of(const GramMatrix& gram) {
  std::vector<float> diagonal(gram.channels());
  for (const GramMatrix::Tile& tile : gram.tiles()) {
    if (tile.row != tile.column) continue;
    for (uint64_t i = 0; i < tile.rows; ++i) {
      diagonal[tile.row + i] = gram.values()[tile.offset + i * tile.columns + i];
    }
  }
  return diagonal;
}

void require_finite(const GramMatrix& gram) {
  for (const GramMatrix::Tile& tile : gram.tiles()) {
    const std::span<const float> values =
        gram.values().subspan(tile.offset, tile.rows * tile.columns);
    const auto bad = std::ranges::find_if(values, [](float v) { return !std::isfinite(v); });
    if (bad == values.end()) continue;
    const uint64_t at = static_cast<uint64_t>(bad - values.begin());
    throw Error(ErrorCode::kQuantization,
                "expected a finite Gram matrix, found NaN or Inf between channels " +
                    std::to_string(tile.row + at / tile.columns) + " and " +
                    std::to_string(tile.column + at % tile.columns),
                {.hint = "Calibrate again: the statistics are damaged."});
  }
}

std::vector<float> feedback_importance(const std::vector<float>& diagonal,
                                       const std::vector<FeedbackBlock>& blocks) {
  std::vector<float> importance(diagonal.size());
  for (const FeedbackBlock& block : blocks) {
    for (uint64_t k = 0; k < block.size; ++k) {
      const uint64_t channel = block.begin + block.order[k];
      importance[channel] = std::sqrt(std::max(0.0F, diagonal[channel]) * block.cost[k]);
    }
  }
  return importance;
}

}  // namespace

uint64_t FeedbackFactor::bytes(const GramMatrix& gram) noexcept {
  const uint64_t n = gram.channels(), block = std::max<uint64_t>(1, gram.block());
  const uint64_t whole = n / block, rest = n % block;
  return (whole * block * block + rest * rest) * sizeof(float);
}

FeedbackFactor make_feedback_factor(const GramMatrix& gram, uint64_t tokens,
                                    const FeedbackOptions& options, ThreadPool& pool,
                                    const std::function<void()>& poll) {
  require_finite(gram);
  FeedbackFactor result;
  result.channels = gram.channels();
  const std::vector<float> diagonal = diagonal_of(gram);
  const float count = static_cast<float>(std::max<uint64_t>(1, tokens));
  for (float h : diagonal) {
    result.importance.push_back(std::max(0.0F, h) / count);
    result.dead += h > 0.0F ? 0 : 1;
  }
  for (uint64_t begin = 0; begin < gram.channels(); begin += gram.block()) {
    const uint64_t size = std::min(gram.block(), gram.channels() - begin);
    Block block(gram, begin, size, diagonal, options.act_order);
    bool deficient = tokens < size;
    double damping = options.damping > 0             ? options.damping
                     : deficient                     ? kDeficientDamping
                     : tokens < kEnoughTokens * size ? kFewTokensDamping
                     : options.bit_width == 2        ? kTwoBitDamping
                                                     : kDamping;
    damping *= options.uncertain;
    bool done = block.factor(damping, pool, poll);
    if (!deficient && (!done || block.missing(kSuspiciousRatio * damping))) {
      deficient = block.rank_deficient(pool, poll);
      if (deficient && !(options.damping > 0)) damping = kDeficientDamping * options.uncertain;
      done = block.factor(damping, pool, poll);
    }
    result.rank_deficient |= deficient;
    for (int step = 0; step < kDampingSteps && !done; ++step) {
      damping *= kDampingRatio;
      done = block.factor(damping, pool, poll);
    }
    result.damping = std::max(result.damping, damping);
    if (!done) {
      result.usable = false;
      result.blocks.clear();
      result.warning = "the Gram matrix is not positive definite, even with " +
                       std::to_string(damping) +
                       " of its mean diagonal added: quantized by search instead of error feedback";
      return result;
    }
    result.blocks.push_back(block.finish(pool, poll));
  }
  result.feedback_importance = feedback_importance(diagonal, result.blocks);
  return result;
}

FeedbackFactor equalized(const FeedbackFactor& factor, std::span<const float> factors,
                         size_t columns) {
  FeedbackFactor result = factor;
  for (size_t c = 0; c < result.channels; ++c) {
    const float s = factors[c / columns];
    result.importance[c] /= s * s;
    result.feedback_importance[c] /= s * s;
  }
  for (FeedbackBlock& block : result.blocks) {
    std::vector<float> s(block.size);
    for (uint64_t k = 0; k < block.size; ++k) {
      s[k] = factors[(block.begin + block.order[k]) / columns];
      block.cost[k] /= s[k] * s[k];
    }
    for (uint64_t k = 0; k < block.size; ++k) {
      float* row = block.mix.data() + k * block.size;
      for (uint64_t r = 0; r < k; ++r) row[r] *= s[r] / s[k];
    }
  }
  return result;
}

}  // namespace arrow_quant
