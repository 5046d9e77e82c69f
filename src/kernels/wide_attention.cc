#include "kernels/wide_attention.h"

#include <limits>

#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/wide_attention.cc"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/highway.h"

#include "kernels/exp2.h"

HWY_BEFORE_NAMESPACE();
namespace arrow_quant {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, kWideBlock>;
using VF = hn::Vec<DF>;
constexpr size_t kLanes = hn::MaxLanes(DF());
// Accumulators of a tile: queries times vectors, as many as the registers hold beside one vector of
// the other factor each.
constexpr size_t kTileQueries = kLanes == 16 ? 6 : 4;
constexpr size_t kTileVectors = kLanes == 16 ? 4 : 2;

/// scores[kWideQueries][kWideKeys] of the keys of whole tiles.
HWY_INLINE void score(const KeyBlock& block, const float* HWY_RESTRICT queries,
                      float* HWY_RESTRICT scores) {
  const DF d;
  for (size_t k = 0; k < block.count; k += kTileVectors * kLanes) {
    for (size_t q = 0; q < kWideQueries; q += kTileQueries) {
      VF sums[kTileQueries][kTileVectors];
      for (auto& row : sums) {
        for (auto& sum : row) sum = hn::Zero(d);
      }
      for (size_t i = 0; i < block.width; ++i) {
        VF keys[kTileVectors];
        for (size_t v = 0; v < kTileVectors; ++v) {
          keys[v] = hn::LoadU(d, block.keys + i * kWideKeys + k + v * kLanes);
        }
        for (size_t r = 0; r < kTileQueries; ++r) {
          const auto x = hn::Set(d, queries[i * kWideQueries + q + r]);
          for (size_t v = 0; v < kTileVectors; ++v) sums[r][v] = hn::MulAdd(x, keys[v], sums[r][v]);
        }
      }
      for (size_t r = 0; r < kTileQueries; ++r) {
        for (size_t v = 0; v < kTileVectors; ++v) {
          hn::Store(sums[r][v], d, scores + (q + r) * kWideKeys + k + v * kLanes);
        }
      }
    }
  }
}

/// scores -> 2^(scores - most) of one query; what was gathered before is made relative to the new
/// largest score.
HWY_INLINE void weigh(const KeyBlock& block, size_t q, float* HWY_RESTRICT scores,
                      Gathered& gathered) {
  const DF d;
  const size_t whole = (block.count + kLanes - 1) / kLanes * kLanes;
  const auto lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  if (whole != block.count) {
    float* last = scores + whole - kLanes;
    const auto there = hn::FirstN(d, block.count % kLanes);
    hn::Store(hn::IfThenElse(there, hn::Load(d, last), lowest), d, last);
  }
  auto highest = lowest;
  for (size_t k = 0; k < whole; k += kLanes) highest = hn::Max(highest, hn::Load(d, scores + k));
  const float before = gathered.most[q];
  const float found = hn::GetLane(hn::MaxOfLanes(d, highest));
  const float most = found > before ? found : before;
  const auto shift = hn::Set(d, most);
  auto sum = hn::Zero(d);
  for (size_t k = 0; k < whole; k += kLanes) {
    const auto weight = exp2_of_negative(d, hn::Sub(hn::Load(d, scores + k), shift));
    hn::Store(weight, d, scores + k);
    sum = hn::Add(sum, weight);
  }
  gathered.most[q] = most;
  if (most != before) {
    const auto factor = exp2_of_negative(d, hn::Set(d, before - most));
    gathered.sums[q] *= hn::GetLane(factor);
    float* out = gathered.out + q * block.value_width;
    for (size_t i = 0; i < block.value_width; i += kLanes) {
      hn::StoreU(hn::Mul(hn::LoadU(d, out + i), factor), d, out + i);
    }
  }
  gathered.sums[q] += hn::GetLane(hn::SumOfLanes(d, sum));
}

/// out += weights * values for kTileQueries queries and kVectors vectors of the values.
template <size_t kVectors>
HWY_INLINE void mix(const KeyBlock& block, const float* HWY_RESTRICT weights,
                    const float* HWY_RESTRICT values, float* HWY_RESTRICT out) {
  const DF d;
  VF sums[kTileQueries][kVectors];
  for (size_t r = 0; r < kTileQueries; ++r) {
    for (size_t v = 0; v < kVectors; ++v) {
      sums[r][v] = hn::LoadU(d, out + r * block.value_width + v * kLanes);
    }
  }
  for (size_t k = 0; k < block.count; ++k) {
    VF row[kVectors];
    for (size_t v = 0; v < kVectors; ++v) {
      row[v] = hn::LoadU(d, values + k * block.value_width + v * kLanes);
    }
    for (size_t r = 0; r < kTileQueries; ++r) {
      const auto w = hn::Set(d, weights[r * kWideKeys + k]);
      for (size_t v = 0; v < kVectors; ++v) sums[r][v] = hn::MulAdd(w, row[v], sums[r][v]);
    }
  }
  for (size_t r = 0; r < kTileQueries; ++r) {
    for (size_t v = 0; v < kVectors; ++v) {
      hn::StoreU(sums[r][v], d, out + r * block.value_width + v * kLanes);
    }
  }
}

void AttendBlock(const KeyBlock& block, const float* queries, Gathered& gathered) {
  HWY_ALIGN float scores[kWideQueries * kWideKeys];
  score(block, queries, scores);
  for (size_t q = 0; q < kWideQueries; ++q) weigh(block, q, scores + q * kWideKeys, gathered);
  for (size_t q = 0; q < kWideQueries; q += kTileQueries) {
    const float* weights = scores + q * kWideKeys;
    float* out = gathered.out + q * block.value_width;
    size_t i = 0;
    for (; i + kTileVectors * kLanes <= block.value_width; i += kTileVectors * kLanes) {
      mix<kTileVectors>(block, weights, block.values + i, out + i);
    }
    for (; i < block.value_width; i += kLanes) mix<1>(block, weights, block.values + i, out + i);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace arrow_quant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace arrow_quant {
HWY_EXPORT(AttendBlock);

void attend_block(const KeyBlock& block, const float* queries, Gathered& gathered) noexcept {
  HWY_DYNAMIC_DISPATCH(AttendBlock)(block, queries, gathered);
}

}  // namespace arrow_quant
#endif  // HWY_ONCE
