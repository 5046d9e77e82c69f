#include "kernels/feedback.h"

#include "kernels/isa.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/feedback.cc"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace arrow_quant {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, kFeedbackLanes>;
using V = hn::Vec<D>;

// Codes are rounded by adding 1.5 * 2^23: the sum's low byte is then the two's complement integer.
constexpr float kRounder = 12582912.0F;

HWY_INLINE V set(float value) { return hn::Set(D(), value); }
HWY_INLINE V load(const float* from) { return hn::LoadU(D(), from); }

/// A level and its code, as the low byte of each lane.
struct Rounded {
  V value;
  hn::Vec<hn::RebindToUnsigned<D>> code;
};

struct AffineRule {
  const LaneLevels& levels;
  size_t stride;

  HWY_INLINE Rounded operator()(V x, size_t group, size_t row) const {
    const hn::RebindToSigned<D> di;
    const V step = load(levels.first + group * stride + row);
    const V base = load(levels.second + group * stride + row);
    const V rounder = set(kRounder);
    const V u = hn::Add(hn::Div(hn::Sub(x, base), step), rounder);
    // Rounded codes are positive floats, so their bits compare like the numbers.
    const auto low = hn::BitCast(di, set(kRounder + levels.low_code));
    const auto high = hn::BitCast(di, set(kRounder + levels.high_code));
    const auto bits = hn::Min(hn::Max(hn::BitCast(di, u), low), high);
    V v = hn::MulAdd(hn::Sub(hn::BitCast(D(), bits), rounder), step, base);
    if (levels.limit != nullptr) {
      const V limit = load(levels.limit + row);
      v = hn::Min(hn::Max(v, hn::Neg(limit)), limit);
    }
    return {v, hn::BitCast(hn::RebindToUnsigned<D>(), bits)};
  }
};

struct ResidualRule {
  const LaneLevels& levels;
  size_t stride;

  HWY_INLINE Rounded operator()(V x, size_t group, size_t row) const {
    const hn::RebindToUnsigned<D> du;
    const V first = load(levels.first + group * stride + row);
    const V second = load(levels.second + group * stride + row);
    // The larger step takes the sign of x; the smaller one the side of |x| - larger on top of that.
    const V large = hn::Max(first, second);
    const auto positive = hn::Ge(x, hn::Zero(D()));
    const auto outside = hn::Gt(hn::Abs(x), large);
    const auto follows = hn::Not(hn::Xor(positive, outside));
    const auto swapped = hn::Lt(first, second);
    const auto bit1 = hn::Or(hn::And(swapped, follows), hn::AndNot(swapped, positive));
    const auto bit2 = hn::Or(hn::And(swapped, positive), hn::AndNot(swapped, follows));
    const V v = hn::Add(hn::IfThenElse(bit1, first, hn::Neg(first)),
                        hn::IfThenElse(bit2, second, hn::Neg(second)));
    const auto code = hn::Or(hn::IfThenElseZero(hn::RebindMask(du, bit1), hn::Set(du, 1U)),
                             hn::IfThenElseZero(hn::RebindMask(du, bit2), hn::Set(du, 2U)));
    return {v, code};
  }
};

/// Running sums of one vector of rows.
struct Sums {
  V ww, we, ee, cost;
};

/// sum_{s > k} mix[s] * errors[s], four chains at once.
HWY_INLINE V mixed_errors(const float* HWY_RESTRICT mix, const float* HWY_RESTRICT errors, size_t k,
                          size_t count) {
  V a = hn::Zero(D()), b = a, c = a, d = a;
  size_t s = k + 1;
  for (; s + 4 <= count; s += 4) {
    a = hn::MulAdd(set(mix[s]), hn::Load(D(), errors + s * kFeedbackLanes), a);
    b = hn::MulAdd(set(mix[s + 1]), hn::Load(D(), errors + (s + 1) * kFeedbackLanes), b);
    c = hn::MulAdd(set(mix[s + 2]), hn::Load(D(), errors + (s + 2) * kFeedbackLanes), c);
    d = hn::MulAdd(set(mix[s + 3]), hn::Load(D(), errors + (s + 3) * kFeedbackLanes), d);
  }
  for (; s < count; ++s) {
    a = hn::MulAdd(set(mix[s]), hn::Load(D(), errors + s * kFeedbackLanes), a);
  }
  return hn::Add(hn::Add(a, b), hn::Add(c, d));
}

HWY_INLINE void add_to(V sum, double* to) {
  HWY_ALIGN float lanes[kFeedbackLanes];
  hn::Store(sum, D(), lanes);
  for (size_t i = 0; i < hn::Lanes(D()); ++i) to[i] += lanes[i];
}

template <class Rule>
HWY_INLINE void round_lanes(const FeedbackColumns& columns, const Rule& rule, size_t row,
                            size_t stride, const FeedbackSums& sums) {
  const hn::Rebind<uint8_t, D> d8;
  // The errors of this vector of rows, close together: in the caller's layout they would fall into
  // few sets of the first-level cache.
  HWY_ALIGN float errors[kFeedbackColumns * kFeedbackLanes];
  Sums sum{hn::Zero(D()), hn::Zero(D()), hn::Zero(D()), hn::Zero(D())};
  for (size_t k = columns.count; k-- > 0;) {
    float* at = columns.weights + k * stride + row;
    const V w = load(at);
    const V mixed = mixed_errors(columns.mix + k * columns.count, errors, k, columns.count);
    const V x = hn::Add(hn::Add(w, load(columns.correction + k * stride + row)), mixed);
    const Rounded rounded = rule(x, columns.groups[k], row);
    const V error = hn::Sub(w, rounded.value);
    const V miss = hn::Sub(x, rounded.value);
    hn::Store(error, D(), errors + k * kFeedbackLanes);
    hn::StoreU(error, D(), at);
    hn::StoreU(hn::TruncateTo(d8, rounded.code), d8,
               columns.codes + columns.places[k] * stride + row);
    sum.ww = hn::MulAdd(w, w, sum.ww);
    sum.we = hn::MulAdd(w, error, sum.we);
    sum.ee = hn::MulAdd(error, error, sum.ee);
    sum.cost = hn::MulAdd(hn::Mul(miss, set(columns.cost[k])), miss, sum.cost);
  }
  add_to(sum.ww, sums.ww + row);
  add_to(sum.we, sums.we + row);
  add_to(sum.ee, sums.ee + row);
  add_to(sum.cost, sums.cost + row);
}

void RoundColumns(const FeedbackColumns& columns, const LaneLevels& levels, size_t rows,
                  size_t stride, const FeedbackSums& sums) {
  const size_t lanes = hn::Lanes(D());
  if (levels.rule == LaneLevels::Rule::kAffine) {
    const AffineRule rule{levels, stride};
    for (size_t row = 0; row < rows; row += lanes) round_lanes(columns, rule, row, stride, sums);
  } else {
    const ResidualRule rule{levels, stride};
    for (size_t row = 0; row < rows; row += lanes) round_lanes(columns, rule, row, stride, sums);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace arrow_quant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace arrow_quant {
HWY_EXPORT(RoundColumns);

void feedback_columns(const FeedbackColumns& columns, const LaneLevels& levels, size_t rows,
                      size_t stride, const FeedbackSums& sums) noexcept {
  ARROW_QUANT_DISPATCH(RoundColumns)(columns, levels, rows, stride, sums);
}

void pack_strided_codes(int bits, const uint8_t* codes, size_t count, size_t stride,
                        uint8_t* out) noexcept {
  const size_t width = static_cast<size_t>(bits), per_byte = 8 / width;
  const unsigned mask = (1U << width) - 1;
  for (size_t i = 0; i < count; i += per_byte) {
    unsigned byte = 0;
    const size_t end = i + per_byte < count ? i + per_byte : count;
    for (size_t j = i; j < end; ++j) {
      byte |= (codes[j * stride] & mask) << ((j - i) * width);
    }
    *out++ = static_cast<uint8_t>(byte);
  }
}
}  // namespace arrow_quant
#endif  // HWY_ONCE
