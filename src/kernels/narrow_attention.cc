#include "kernels/narrow_attention.h"

#include <cmath>
#include <limits>

#include "kernels/isa.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/narrow_attention.cc"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/highway.h"

#include "kernels/exp2.h"

HWY_BEFORE_NAMESPACE();
namespace arrow_quant {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, kKeyBlock / 2>;
using VF = hn::Vec<DF>;
constexpr size_t kLanes = hn::MaxLanes(DF());

/// Scores of kQueryBlock queries; the largest of each goes to `max_score`.
HWY_INLINE void score(const KeyColumns& head, const float* HWY_RESTRICT queries,
                      float* HWY_RESTRICT scores, float* HWY_RESTRICT max_score) {
  const DF d;
  const auto lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  VF highest[kQueryBlock];
  for (auto& h : highest) h = lowest;
  for (size_t k = 0; k < head.padded; k += 2 * kLanes) {
    VF sums[kQueryBlock][2];
    for (auto& pair : sums) pair[0] = pair[1] = hn::Zero(d);
    for (size_t i = 0; i < head.width; ++i) {
      const auto a = hn::Load(d, head.keys + i * head.padded + k);
      const auto b = hn::Load(d, head.keys + i * head.padded + k + kLanes);
      for (size_t q = 0; q < kQueryBlock; ++q) {
        const auto x = hn::Set(d, queries[i * kQueryBlock + q]);
        sums[q][0] = hn::MulAdd(x, a, sums[q][0]);
        sums[q][1] = hn::MulAdd(x, b, sums[q][1]);
      }
    }
    if (HWY_UNLIKELY(k + 2 * kLanes > head.count)) {
      for (auto& pair : sums) {
        for (size_t half = 0; half < 2; ++half) {
          const size_t first = k + half * kLanes;
          const size_t n = first < head.count ? head.count - first : 0;
          pair[half] = hn::IfThenElse(hn::FirstN(d, n), pair[half], lowest);
        }
      }
    }
    for (size_t q = 0; q < kQueryBlock; ++q) {
      highest[q] = hn::Max(highest[q], hn::Max(sums[q][0], sums[q][1]));
      hn::Store(sums[q][0], d, scores + q * head.padded + k);
      hn::Store(sums[q][1], d, scores + q * head.padded + k + kLanes);
    }
  }
  for (size_t q = 0; q < kQueryBlock; ++q) {
    max_score[q] = hn::GetLane(hn::MaxOfLanes(d, highest[q]));
  }
}

/// scores -> 2^(scores - most); the sum of them.
HWY_INLINE float weigh(size_t padded, float max_score, float* HWY_RESTRICT scores) {
  const DF d;
  const auto shift = hn::Set(d, max_score);
  auto a = hn::Zero(d), b = hn::Zero(d);
  for (size_t k = 0; k < padded; k += 2 * kLanes) {
    const auto x = exp2_of_negative(d, hn::Sub(hn::Load(d, scores + k), shift));
    const auto y = exp2_of_negative(d, hn::Sub(hn::Load(d, scores + k + kLanes), shift));
    hn::Store(x, d, scores + k);
    hn::Store(y, d, scores + k + kLanes);
    a = hn::Add(a, x);
    b = hn::Add(b, y);
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(a, b)));
}

/// Two queries by kWidthBlock dimensions of the values.
HWY_INLINE void mix(const float* HWY_RESTRICT values, size_t padded,
                    const float* HWY_RESTRICT weights, const float* inverse,
                    float* HWY_RESTRICT out, size_t out_stride) {
  const DF d;
  VF sums[2][kWidthBlock];
  for (auto& row : sums) {
    for (auto& sum : row) sum = hn::Zero(d);
  }
  for (size_t k = 0; k < padded; k += kLanes) {
    const auto a = hn::Load(d, weights + k), b = hn::Load(d, weights + padded + k);
    for (size_t i = 0; i < kWidthBlock; ++i) {
      const auto v = hn::Load(d, values + i * padded + k);
      sums[0][i] = hn::MulAdd(a, v, sums[0][i]);
      sums[1][i] = hn::MulAdd(b, v, sums[1][i]);
    }
  }
  for (size_t q = 0; q < 2; ++q) {
    for (size_t i = 0; i < kWidthBlock; ++i) {
      out[q * out_stride + i] = hn::GetLane(hn::SumOfLanes(d, sums[q][i])) * inverse[q];
    }
  }
}

void Attend(const KeyColumns& head, const float* queries, float* scores, float* out) {
  float inverse[kQueryBlock];
  score(head, queries, scores, inverse);
  for (size_t q = 0; q < kQueryBlock; ++q) {
    const float max_score = inverse[q];
    const float sum =
        weigh(head.padded, std::isfinite(max_score) ? max_score : 0.0F, scores + q * head.padded);
    inverse[q] = std::isfinite(max_score) ? 1.0F / sum : std::numeric_limits<float>::quiet_NaN();
  }
  const size_t width = (head.width + kWidthBlock - 1) / kWidthBlock * kWidthBlock;
  for (size_t q = 0; q < kQueryBlock; q += 2) {
    for (size_t i = 0; i < width; i += kWidthBlock) {
      mix(head.values + i * head.padded, head.padded, scores + q * head.padded, inverse + q,
          out + q * width + i, width);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace arrow_quant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace arrow_quant {
HWY_EXPORT(Attend);

void attend(const KeyColumns& head, const float* queries, float* scores, float* out) noexcept {
  ARROW_QUANT_DISPATCH(Attend)(head, queries, scores, out);
}

}  // namespace arrow_quant
#endif  // HWY_ONCE
