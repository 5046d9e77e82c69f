#include "kernels/rtn.h"

#include <algorithm>

#include "codec/two_level.h"
#include "kernels/isa.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rtn.cc"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace arrow_quant {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;

// ------------------------------ Ranges

template <class D>
struct Range {
  hn::Vec<D> low, high;
};

/// Lane-wise range of `count` weights, a multiple of the lanes and not 0.
template <class D>
HWY_INLINE Range<D> lane_range(D d, const float* HWY_RESTRICT weights, size_t count) {
  hn::Vec<D> low = hn::LoadU(d, weights), high = low;
  for (size_t i = hn::Lanes(d); i < count; i += hn::Lanes(d)) {
    const auto v = hn::LoadU(d, weights + i);
    low = hn::Min(low, v);
    high = hn::Max(high, v);
  }
  return {low, high};
}

#if HWY_TARGET != HWY_SCALAR
/// Ranges of as many groups as there are lanes, by a tree in which each step halves the number of
/// vectors: one group per lane in the end, without a horizontal reduction per group.
template <class D>
HWY_INLINE void tree_ranges(D d, const float* HWY_RESTRICT weights, size_t group,
                            float* HWY_RESTRICT low, float* HWY_RESTRICT high) {
  constexpr size_t kLanes = hn::MaxLanes(d);
  HWY_ALIGN float lows[kLanes * kLanes];
  HWY_ALIGN float highs[kLanes * kLanes];
  for (size_t g = 0; g < kLanes; ++g) {
    const Range<D> range = lane_range(d, weights + g * group, group);
    hn::Store(range.low, d, lows + g * kLanes);
    hn::Store(range.high, d, highs + g * kLanes);
  }
  for (size_t vectors = kLanes / 2; vectors != 0; vectors /= 2) {
    for (size_t g = 0; g < vectors; ++g) {
      const auto low0 = hn::Load(d, lows + 2 * g * kLanes);
      const auto low1 = hn::Load(d, lows + (2 * g + 1) * kLanes);
      hn::Store(hn::Min(hn::ConcatEven(d, low1, low0), hn::ConcatOdd(d, low1, low0)), d,
                lows + g * kLanes);
      const auto high0 = hn::Load(d, highs + 2 * g * kLanes);
      const auto high1 = hn::Load(d, highs + (2 * g + 1) * kLanes);
      hn::Store(hn::Max(hn::ConcatEven(d, high1, high0), hn::ConcatOdd(d, high1, high0)), d,
                highs + g * kLanes);
    }
  }
  hn::StoreU(hn::Load(d, lows), d, low);
  hn::StoreU(hn::Load(d, highs), d, high);
}
#endif

/// Range of one group of any length.
template <class D>
HWY_INLINE void one_range(D d, const float* HWY_RESTRICT weights, size_t count, float* low,
                          float* high) {
  const size_t whole = count - count % hn::Lanes(d);
  float lo = weights[0], hi = weights[0];
  if (whole != 0) {
    const Range<D> range = lane_range(d, weights, whole);
    lo = hn::GetLane(hn::MinOfLanes(d, range.low));
    hi = hn::GetLane(hn::MaxOfLanes(d, range.high));
  }
  for (size_t i = whole; i < count; ++i) {
    lo = std::min(lo, weights[i]);
    hi = std::max(hi, weights[i]);
  }
  *low = lo;
  *high = hi;
}

template <class D>
void all_ranges(D d, const float* HWY_RESTRICT weights, size_t count, size_t group, float* low,
                float* high) {
  size_t g = 0;
#if HWY_TARGET != HWY_SCALAR
  const size_t full = count / group;
  if (group % hn::Lanes(d) == 0) {
    for (; g + hn::Lanes(d) <= full; g += hn::Lanes(d)) {
      tree_ranges(d, weights + g * group, group, low + g, high + g);
    }
  }
#endif
  for (size_t begin = g * group; begin < count; begin += group, ++g) {
    one_range(d, weights + begin, std::min(group, count - begin), low + g, high + g);
  }
}

void GroupRanges(const float* HWY_RESTRICT weights, size_t count, size_t group, float* low,
                 float* high) {
  const DF full;
  const hn::CappedTag<float, 8> narrow;
  if (group % hn::Lanes(full) == 0) {
    all_ranges(full, weights, count, group, low, high);
  } else {
    all_ranges(narrow, weights, count, group, low, high);
  }
}

RangeSummary SummarizeRanges(const float* HWY_RESTRICT low, const float* HWY_RESTRICT high,
                             size_t groups, float factor) {
  const DF d;
  auto width = hn::Zero(d), top = width, bottom = width;
  size_t g = 0;
  for (; g + hn::Lanes(d) <= groups; g += hn::Lanes(d)) {
    // Scaled before the difference: high - low of huge weights would overflow.
    const auto lo = hn::Mul(hn::LoadU(d, low + g), hn::Set(d, factor));
    const auto hi = hn::Mul(hn::LoadU(d, high + g), hn::Set(d, factor));
    width = hn::Max(width, hn::Sub(hi, lo));
    top = hn::Max(top, hi);
    bottom = hn::Min(bottom, lo);
  }
  RangeSummary all{hn::GetLane(hn::MaxOfLanes(d, width)), hn::GetLane(hn::MaxOfLanes(d, top)),
                   hn::GetLane(hn::MinOfLanes(d, bottom))};
  for (; g < groups; ++g) {
    all.width = std::max(all.width, high[g] * factor - low[g] * factor);
    all.high = std::max(all.high, high[g] * factor);
    all.low = std::min(all.low, low[g] * factor);
  }
  return all;
}

// ------------------------------ fp16 pairs

void RangeLevels(int bits, const float* HWY_RESTRICT low, const float* HWY_RESTRICT high,
                 size_t groups, float factor, float* HWY_RESTRICT step, float* HWY_RESTRICT base) {
  const float top = static_cast<float>((1 << bits) - 1);
  for (size_t g = 0; g < groups; ++g) {
    const float lo = low[g] * factor;
    base[g] = lo;
    step[g] = (high[g] * factor - lo) / top;
  }
}

// ------------------------------ two_level bytes

struct RowUnits {
  float inverse_scale, unit, inverse_unit, cells;
};

/// Covered means that every weight lies within half a step of a level. The levels of (q, z) are
/// centred at m z - q / 2. Coverage can fail for the smallest q because z is an integer, so a few
/// larger q are tried.
template <class D>
HWY_INLINE hn::Vec<hn::RebindToSigned<D>> cover(D d, hn::Vec<D> low, hn::Vec<D> high,
                                                const RowUnits& units) {
  constexpr int kTries = 4;
  constexpr float kMinQ = codec::two_level::kMinQ, kMaxQ = codec::two_level::kMaxQ;
  constexpr float kMinZ = codec::two_level::kMinZ, kMaxZ = codec::two_level::kMaxZ;
  const hn::RebindToSigned<D> di;
  const auto half = hn::Set(d, 0.5F);
  const auto middle = hn::Mul(half, hn::Add(low, high));
  // What the width of the range needs, and what its ends need when z is at its limit.
  const float side = 0.5F * units.cells;
  const auto width_q = hn::Mul(hn::Sub(high, low), hn::Set(d, 1.0F / units.cells));
  const auto high_q =
      hn::Mul(hn::Sub(high, hn::Set(d, kMaxZ * units.unit)), hn::Set(d, 1.0F / (side - 0.5F)));
  const auto low_q =
      hn::Mul(hn::Sub(hn::Set(d, kMinZ * units.unit), low), hn::Set(d, 1.0F / (side + 0.5F)));
  const auto first_q = hn::Ceil(hn::Max(width_q, hn::Max(high_q, low_q)));
  auto best_q = hn::Set(d, 1.0F), best_z = hn::Zero(d);
  auto searching = hn::Eq(best_q, best_q);
  for (int k = 0; k < kTries; ++k) {
    const auto wanted = hn::Add(first_q, hn::Set(d, static_cast<float>(k)));
    const auto q = hn::Min(hn::Max(wanted, hn::Set(d, kMinQ)), hn::Set(d, kMaxQ));
    const auto exact = hn::Mul(hn::MulAdd(q, half, middle), hn::Set(d, units.inverse_unit));
    const auto z = hn::Min(hn::Max(hn::Round(exact), hn::Set(d, kMinZ)), hn::Set(d, kMaxZ));
    best_q = hn::IfThenElse(searching, q, best_q);
    best_z = hn::IfThenElse(searching, z, best_z);
    const auto center = hn::NegMulAdd(q, half, hn::Mul(z, hn::Set(d, units.unit)));
    const auto reach = hn::Mul(q, hn::Set(d, 0.5F * units.cells * 1.0001F));
    const auto covered =
        hn::And(hn::Ge(hn::Add(center, reach), high), hn::Le(hn::Sub(center, reach), low));
    searching = hn::And(searching, hn::Not(covered));
    if (hn::AllFalse(d, searching)) break;
  }
  const auto zero = hn::And(hn::Eq(low, hn::Zero(d)), hn::Eq(high, hn::Zero(d)));
  best_q = hn::IfThenElse(zero, hn::Set(d, 1.0F), best_q);
  best_z = hn::IfThenZeroElse(zero, best_z);
  const auto low_field = hn::ConvertTo(di, hn::Sub(best_q, hn::Set(d, kMinQ)));
  const auto high_field = hn::ConvertTo(di, hn::Sub(best_z, hn::Set(d, kMinZ)));
  return hn::Or(low_field, hn::ShiftLeft<codec::two_level::kFieldBits>(high_field));
}

void TwoLevelParams(const TwoLevelRow& row, const float* HWY_RESTRICT low,
                    const float* HWY_RESTRICT high, size_t groups, float factor,
                    uint8_t* HWY_RESTRICT params) {
  const DF d;
  const hn::Rebind<uint8_t, DF> d8;
  const hn::RebindToUnsigned<DF> du;
  const size_t lanes = hn::Lanes(d);
  const RowUnits units{1.0F / row.row_scale, row.offset_unit, 1.0F / row.offset_unit,
                       static_cast<float>(1 << row.bits)};
  HWY_ALIGN float lows[hn::MaxLanes(d)] = {}, highs[hn::MaxLanes(d)] = {};
  HWY_ALIGN uint8_t bytes[hn::MaxLanes(d)];
  for (size_t g = 0; g < groups; g += lanes) {
    const size_t n = std::min(lanes, groups - g);
    std::copy_n(low + g, n, lows);
    std::copy_n(high + g, n, highs);
    const auto to_v = [&](const float* from) {
      return hn::Mul(hn::Mul(hn::Load(d, from), hn::Set(d, factor)),
                     hn::Set(d, units.inverse_scale));
    };
    const auto codes = cover(d, to_v(lows), to_v(highs), units);
    hn::Store(hn::TruncateTo(d8, hn::BitCast(du, codes)), d8, bytes);
    std::copy_n(bytes, n, params + g);
  }
}

void TwoLevelLevels(const TwoLevelRow& row, const uint8_t* HWY_RESTRICT params, size_t groups,
                    float* HWY_RESTRICT step, float* HWY_RESTRICT base) {
  const int unit = static_cast<int>(row.offset_unit);
  for (size_t g = 0; g < groups; ++g) {
    const codec::two_level::Param param = codec::two_level::decode(params[g]);
    step[g] = row.row_scale * static_cast<float>(param.q);
    base[g] = row.row_scale * static_cast<float>(codec::two_level::base(param, row.bits, unit));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace arrow_quant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace arrow_quant {
HWY_EXPORT(GroupRanges);
HWY_EXPORT(SummarizeRanges);
HWY_EXPORT(RangeLevels);
HWY_EXPORT(TwoLevelParams);
HWY_EXPORT(TwoLevelLevels);

void group_ranges(const float* weights, size_t count, size_t group, float* low,
                  float* high) noexcept {
  ARROW_QUANT_DISPATCH(GroupRanges)(weights, count, group, low, high);
}

RangeSummary summarize_ranges(const float* low, const float* high, size_t groups,
                              float factor) noexcept {
  return ARROW_QUANT_DISPATCH(SummarizeRanges)(low, high, groups, factor);
}

void range_levels(int bits, const float* low, const float* high, size_t groups, float factor,
                  float* step, float* base) noexcept {
  ARROW_QUANT_DISPATCH(RangeLevels)(bits, low, high, groups, factor, step, base);
}

void two_level_params(const TwoLevelRow& row, const float* low, const float* high, size_t groups,
                      float factor, uint8_t* params) noexcept {
  ARROW_QUANT_DISPATCH(TwoLevelParams)(row, low, high, groups, factor, params);
}

void two_level_levels(const TwoLevelRow& row, const uint8_t* params, size_t groups, float* step,
                      float* base) noexcept {
  ARROW_QUANT_DISPATCH(TwoLevelLevels)(row, params, groups, step, base);
}
}  // namespace arrow_quant
#endif  // HWY_ONCE
