#include "kernels/encode.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/isa.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/encode.cc"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace arrow_quant {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Codes are rounded by adding 1.5 * 2^23: the sum's low byte is then the two's complement integer.
constexpr float kRounder = 12582912.0F;

// Codes wait, one per byte, until a block of them is packed. A block also bounds how many f32 terms
// one lane adds up before they move to f64: 64, or 128 where only half of the lanes are used.
constexpr size_t kBlock = 64 * hn::MaxLanes(hn::ScalableTag<float>());

/// The f64 accumulator that takes the lanes of one f32 vector.
#if HWY_TARGET == HWY_SCALAR
template <class DF>
using WideTag = hn::Rebind<double, DF>;
template <class DF>
HWY_INLINE hn::Vec<WideTag<DF>> widen(DF, hn::Vec<DF> v) {
  return hn::PromoteTo(WideTag<DF>(), v);
}
#else
template <class DF>
using WideTag = hn::Rebind<double, hn::Half<DF>>;
template <class DF>
HWY_INLINE hn::Vec<WideTag<DF>> widen(DF, hn::Vec<DF> v) {
  const hn::Half<DF> dh;
  const WideTag<DF> dd;
  return hn::Add(hn::PromoteTo(dd, hn::LowerHalf(dh, v)), hn::PromoteTo(dd, hn::UpperHalf(dh, v)));
}
#endif

/// Sums over x and e = x - v. The other sums follow from them without cancellation.
template <class DF>
struct Sums {
  hn::Vec<DF> xx, ex, ee;

  // Not a constructor: an implicit one would be compiled without the target's instructions.
  HWY_INLINE void clear() { xx = ex = ee = hn::Zero(DF()); }
};

/// Sums in f32 over the latest block, and in f64 over all before.
template <class DF>
struct Accumulator {
  Sums<DF> lanes;
  hn::Vec<WideTag<DF>> wide_xx, wide_ex, wide_ee;

  HWY_INLINE void clear() {
    lanes.clear();
    wide_xx = wide_ex = wide_ee = hn::Zero(WideTag<DF>());
  }

  /// Move the f32 sums to f64; call at least every kBlock elements.
  HWY_INLINE void flush() {
    wide_xx = hn::Add(wide_xx, widen(DF(), lanes.xx));
    wide_ex = hn::Add(wide_ex, widen(DF(), lanes.ex));
    wide_ee = hn::Add(wide_ee, widen(DF(), lanes.ee));
    lanes.clear();
  }

  /// Add what was summed over x / unit.
  HWY_INLINE void add_to(ErrorSums& sums, size_t count, double unit) const {
    const WideTag<DF> dd;
    const double area = unit * unit;
    const double ww = hn::GetLane(hn::SumOfLanes(dd, wide_xx)) * area;
    const double ew = hn::GetLane(hn::SumOfLanes(dd, wide_ex)) * area;
    const double err = hn::GetLane(hn::SumOfLanes(dd, wide_ee)) * area;
    sums.add({ww, ww - 2 * ew + err, ww - ew, err, count});
  }
};

/// The levels of one group, one number in all lanes, and the range of codes.
template <class DF>
struct Rule {
  hn::Vec<DF> step, base, inverse, shift, limit;
  hn::Vec<hn::RebindToSigned<DF>> first, last;  ///< smallest and largest code, plus kRounder
};

template <class DF>
HWY_INLINE Rule<DF> make_rule(DF df, float first, float last, float limit) {
  const hn::RebindToSigned<DF> di;
  Rule<DF> rule;
  rule.step = rule.base = rule.inverse = rule.shift = hn::Zero(df);
  rule.limit = hn::Set(df, limit);
  rule.first = hn::BitCast(di, hn::Set(df, kRounder + first));
  rule.last = hn::BitCast(di, hn::Set(df, kRounder + last));
  return rule;
}

/// Store the codes of `x` and add to the sums; lanes outside `mask` count nothing.
template <bool kLimit, bool kMasked, class DF>
HWY_INLINE void encode_vector(DF df, hn::Vec<DF> x, const Rule<DF>& rule, hn::Mask<DF> mask,
                              Sums<DF>& sums, uint8_t* HWY_RESTRICT codes) {
  const hn::RebindToSigned<DF> di;
  const hn::RebindToUnsigned<DF> du;
  const hn::Rebind<uint8_t, DF> d8;
  const auto rounder = hn::Set(df, kRounder);
  if (kMasked) x = hn::IfThenElseZero(mask, x);
  const auto u = hn::Add(hn::MulAdd(x, rule.inverse, rule.shift), rounder);
  // Rounded codes are positive floats, so their bits compare like the numbers; integer minimum and
  // maximum run beside the floating-point pipes and make NaN harmless.
  const auto bits = hn::Min(hn::Max(hn::BitCast(di, u), rule.first), rule.last);
  const auto code = hn::Sub(hn::BitCast(df, bits), rounder);
  auto v = hn::MulAdd(code, rule.step, rule.base);
  if (kLimit) v = hn::Min(hn::Max(v, hn::Neg(rule.limit)), rule.limit);
  auto e = hn::Sub(x, v);
  auto stored = hn::BitCast(du, bits);
  if (kMasked) {
    e = hn::IfThenElseZero(mask, e);
    stored = hn::IfThenElseZero(hn::RebindMask(du, mask), stored);
  }
  sums.xx = hn::MulAdd(x, x, sums.xx);
  sums.ex = hn::MulAdd(e, x, sums.ex);
  sums.ee = hn::MulAdd(e, e, sums.ee);
  hn::StoreU(hn::TruncateTo(d8, stored), d8, codes);  // the low bytes
}

/// Codes of one block, one per byte, with room for a whole vector after the last.
struct CodeBuffer {
  HWY_ALIGN uint8_t bytes[kBlock + 64];
};

HWY_INLINE hn::Vec<hn::ScalableTag<uint16_t>> join(hn::ScalableTag<uint16_t> d,
                                                   hn::Vec<hn::ScalableTag<uint16_t>> pairs) {
  return hn::And(hn::Or(pairs, hn::ShiftRight<4>(pairs)), hn::Set(d, 0xFF));
}
HWY_INLINE hn::Vec<hn::ScalableTag<uint32_t>> join(hn::ScalableTag<uint32_t> d,
                                                   hn::Vec<hn::ScalableTag<uint32_t>> quads) {
  const auto pairs = hn::Or(quads, hn::ShiftRight<6>(quads));
  return hn::And(hn::Or(pairs, hn::ShiftRight<12>(pairs)), hn::Set(d, 0xFF));
}

/// Pack sizeof(Wide) codes into each byte of out[0, bytes).
template <typename Wide>
HWY_INLINE void pack(const CodeBuffer& codes, size_t bytes, uint8_t* HWY_RESTRICT out) {
  const hn::ScalableTag<Wide> dw;
  const hn::Rebind<uint8_t, hn::ScalableTag<Wide>> d8;
  HWY_ALIGN uint8_t packed[kBlock / sizeof(Wide) + 64];
  const size_t lanes = hn::Lanes(dw);
  const Wide* HWY_RESTRICT from = reinterpret_cast<const Wide*>(codes.bytes);
  for (size_t i = 0; i < bytes; i += lanes) {
    hn::StoreU(hn::TruncateTo(d8, join(dw, hn::Load(dw, from + i))), d8, packed + i);
  }
  std::memcpy(out, packed, bytes);
}

/// Write `count` codes of the block that starts at code `begin` of a row.
HWY_INLINE void write_block(int bits, CodeBuffer& codes, size_t begin, size_t count,
                            uint8_t* HWY_RESTRICT out) {
  std::memset(codes.bytes + count, 0, 8);  // the padding of the last byte
  const size_t per_byte = 8 / static_cast<size_t>(bits);
  const size_t bytes = (count + per_byte - 1) / per_byte;
  uint8_t* to = out + begin / per_byte;
  if (bits == 8) {
    std::memcpy(to, codes.bytes, bytes);
  } else if (bits == 4) {
    pack<uint16_t>(codes, bytes, to);
  } else {
    pack<uint32_t>(codes, bytes, to);
  }
}

/// Levels of the groups that a block touches, ready to broadcast.
struct BlockLevels {
  static constexpr size_t kGroups = kBlock / 8;
  float step[kGroups], base[kGroups], inverse[kGroups], shift[kGroups];

  HWY_INLINE void load(const Levels& levels, size_t first, size_t groups, float unit) {
    for (size_t g = 0; g < groups; ++g) {
      const float s = levels.step[first + g] * unit, b = levels.base[first + g] * unit;
      step[g] = s;
      base[g] = b;
      inverse[g] = 1.0F / s;
      shift[g] = -b / s;
    }
  }
};

template <class DF>
HWY_INLINE void set_levels(DF df, const BlockLevels& levels, size_t group, Rule<DF>& rule) {
  rule.step = hn::Set(df, levels.step[group]);
  rule.base = hn::Set(df, levels.base[group]);
  rule.inverse = hn::Set(df, levels.inverse[group]);
  rule.shift = hn::Set(df, levels.shift[group]);
}

/// The address `count` weights further on, which need not lie in the array: only to be prefetched.
HWY_INLINE const float* after(const float* weights, size_t count) {
  // NOLINTNEXTLINE(performance-no-int-to-ptr): pointer arithmetic may not leave the array
  return reinterpret_cast<const float*>(reinterpret_cast<uintptr_t>(weights) +
                                        count * sizeof(float));
}

/// Encode `groups` groups of `length` weights, a multiple of the lanes, and fetch the weights
/// `ahead` of them: the next call's, which the computation here hides from the memory's latency.
/// Not inlined: with the caller's values beside them the sums would not stay in 16 registers, and
/// each step would wait for its predecessor's to come back from memory.
template <bool kLimit, class DF>
HWY_NOINLINE void encode_whole(DF df, const float* HWY_RESTRICT weights, size_t groups,
                               size_t length, const BlockLevels& levels, Rule<DF> rule,
                               size_t ahead, Accumulator<DF>& acc, uint8_t* HWY_RESTRICT codes) {
  const auto all = hn::FirstN(df, hn::Lanes(df));
  Sums<DF> sums = acc.lanes;
  for (size_t g = 0; g < groups; ++g) {
    set_levels(df, levels, g, rule);
    for (size_t i = 0; i < length; i += hn::Lanes(df)) {
      hwy::Prefetch(after(weights, ahead));
      encode_vector<kLimit, false>(df, hn::LoadU(df, weights), rule, all, sums, codes);
      weights += hn::Lanes(df);
      codes += hn::Lanes(df);
    }
  }
  acc.lanes = sums;
}

/// Encode one group that is not whole vectors; `codes` has room for a vector more.
template <bool kLimit, class DF>
HWY_NOINLINE void encode_ragged(DF df, const float* HWY_RESTRICT weights, size_t count,
                                const Rule<DF>& rule, Sums<DF>& sums, uint8_t* HWY_RESTRICT codes) {
  HWY_ALIGN float tail[hn::MaxLanes(df)] = {};
  for (size_t i = 0; i < count; i += hn::Lanes(df)) {
    const size_t n = std::min(hn::Lanes(df), count - i);
    std::memcpy(tail, weights + i, n * sizeof(float));
    encode_vector<kLimit, true>(df, hn::Load(df, tail), rule, hn::FirstN(df, n), sums, codes + i);
  }
}

/// In which unit the weights are encoded, to save a product per weight: as they are, the levels
/// scaled instead, which is exact for a power of two; or, where squares could overflow or vanish, a
/// scaled copy of the weights.
struct Unit {
  float factor, levels, sums;
  bool copy;

  explicit Unit(float f) : factor(f), copy(!(f > 0x1p-40F && f < 0x1p40F)) {
    levels = copy ? 1.0F : 1.0F / f;
    sums = copy ? 1.0F : f;
  }
};

struct Task {
  int bits;
  const float* weights;
  size_t count;
  const Levels& levels;
  float first, last, limit;  ///< smallest and largest code, largest |v|
  uint8_t* codes;
};

/// Encode in blocks that either hold whole groups or lie within one group.
template <bool kLimit, class DF>
void encode_blocks(DF df, const Task& task, const Unit& unit, ErrorSums& sums) {
  const size_t count = task.count;
  const size_t group = std::min(task.levels.group, count);
  const size_t per_block = std::max<size_t>(1, kBlock / group);
  const Rule<DF> common = make_rule(df, task.first, task.last, task.limit * unit.levels);
  HWY_ALIGN float scaled[kBlock];
  CodeBuffer codes;
  BlockLevels block;
  Accumulator<DF> acc;
  acc.clear();
  for (size_t begin = 0; begin < count;) {
    const size_t first = begin / group;
    const size_t end = std::min({begin + kBlock, (first + per_block) * group, count});
    const size_t length = std::min(group, end - begin);
    const size_t groups = (end - begin + length - 1) / length;
    const size_t whole = length % hn::Lanes(df) == 0 ? (end - begin) / length : 0;
    const float* HWY_RESTRICT weights = task.weights + begin;
    if (unit.copy) {
      for (size_t i = 0; i < end - begin; ++i) scaled[i] = weights[i] * unit.factor;
      weights = scaled;
    }
    block.load(task.levels, first, groups, unit.levels);
    encode_whole<kLimit>(df, weights, whole, length, block, common, count, acc, codes.bytes);
    for (size_t g = whole; g < groups; ++g) {
      Rule<DF> rule = common;
      set_levels(df, block, g, rule);
      const size_t at = g * length;
      encode_ragged<kLimit>(df, weights + at, std::min(length, end - begin - at), rule, acc.lanes,
                            codes.bytes + at);
    }
    acc.flush();
    write_block(task.bits, codes, begin, end - begin, task.codes);
    begin = end;
  }
  acc.add_to(sums, count, unit.sums);
}

template <class DF>
HWY_INLINE void encode_with(DF df, const Task& task, float factor, ErrorSums& sums) {
  if (task.limit < std::numeric_limits<float>::infinity()) {
    encode_blocks<true>(df, task, Unit(factor), sums);
  } else {
    encode_blocks<false>(df, task, Unit(factor), sums);
  }
}

void EncodeGroups(int bits, const float* weights, size_t count, float factor, const Levels& levels,
                  float limit, uint8_t* codes, ErrorSums& sums) {
  const hn::ScalableTag<float> full;
  const hn::CappedTag<float, 8> narrow;  // every group length is a multiple of 8
  const float last = static_cast<float>((1 << bits) - 1);
  const Task task{bits, weights, count, levels, 0.0F, last, limit, codes};
  if (levels.group % hn::Lanes(full) == 0 || levels.group >= count) {
    encode_with(full, task, factor, sums);
  } else {
    encode_with(narrow, task, factor, sums);
  }
}

// ------------------------------ int8 with one scale

void EncodeInt8(const float* weights, size_t count, float factor, float scale, uint8_t* codes,
                ErrorSums& sums) {
  const hn::ScalableTag<float> df;
  const float base = 0.0F;
  const Levels levels{&scale, &base, count};
  const Task task{8, weights, count, levels, -127.0F, 127.0F, 0.0F, codes};
  encode_blocks<false>(df, task, Unit(factor), sums);
}

template <bool kWeighted>
void int8_errors_run(const float* HWY_RESTRICT weights, const float* HWY_RESTRICT importance,
                     size_t count, float factor, const float* scales, double* errors) {
  using DF = hn::ScalableTag<float>;
  const DF df;
  const WideTag<DF> dd;
  const size_t lanes = hn::Lanes(df);
  const auto limit = hn::Set(df, 127.0F), rounder = hn::Set(df, kRounder);
  hn::Vec<DF> inverse[4];
  hn::Vec<WideTag<DF>> total[4];
  for (int k = 0; k < 4; ++k) {
    inverse[k] = hn::Set(df, 1.0F / scales[k]);
    total[k] = hn::Zero(dd);
  }
  HWY_ALIGN float tail[hn::MaxLanes(df)] = {}, tail_h[hn::MaxLanes(df)] = {};
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t end = std::min(begin + kBlock, count);
    hn::Vec<DF> sum[4] = {hn::Zero(df), hn::Zero(df), hn::Zero(df), hn::Zero(df)};
    for (size_t i = begin; i < end; i += lanes) {
      const float* from = weights + i;
      const float* from_h = kWeighted ? importance + i : nullptr;
      if (i + lanes > end) {  // zeros add no error
        std::memcpy(tail, from, (end - i) * sizeof(float));
        if (kWeighted) std::memcpy(tail_h, from_h, (end - i) * sizeof(float));
        from = tail, from_h = tail_h;
      }
      const auto x = hn::Mul(hn::LoadU(df, from), hn::Set(df, factor));
      for (int k = 0; k < 4; ++k) {
        const auto u = hn::Mul(x, inverse[k]);
        const auto code =
            hn::Sub(hn::Add(hn::Min(hn::Max(u, hn::Neg(limit)), limit), rounder), rounder);
        const auto e = hn::Sub(u, code);
        const auto he = kWeighted ? hn::Mul(e, hn::LoadU(df, from_h)) : e;
        sum[k] = hn::MulAdd(he, e, sum[k]);
      }
    }
    for (int k = 0; k < 4; ++k) total[k] = hn::Add(total[k], widen(df, sum[k]));
  }
  for (int k = 0; k < 4; ++k) {
    const double scale = scales[k];
    errors[k] = hn::GetLane(hn::SumOfLanes(dd, total[k])) * scale * scale;
  }
}

void Int8Errors(const float* weights, const float* importance, size_t count, float factor,
                const float* scales, double* errors) {
  if (importance != nullptr) {
    int8_errors_run<true>(weights, importance, count, factor, scales, errors);
  } else {
    int8_errors_run<false>(weights, nullptr, count, factor, scales, errors);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace arrow_quant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace arrow_quant {
HWY_EXPORT(EncodeGroups);
HWY_EXPORT(EncodeInt8);
HWY_EXPORT(Int8Errors);

void encode_groups(int bits, const float* weights, size_t count, float factor, const Levels& levels,
                   float limit, uint8_t* codes, ErrorSums& sums) noexcept {
  ARROW_QUANT_DISPATCH(EncodeGroups)(bits, weights, count, factor, levels, limit, codes, sums);
}
void encode_int8(const float* weights, size_t count, float factor, float scale, uint8_t* codes,
                 ErrorSums& sums) noexcept {
  ARROW_QUANT_DISPATCH(EncodeInt8)(weights, count, factor, scale, codes, sums);
}
void int8_errors(const float* weights, const float* importance, size_t count, float factor,
                 const float scales[4], double errors[4]) noexcept {
  ARROW_QUANT_DISPATCH(Int8Errors)(weights, importance, count, factor, scales, errors);
}
}  // namespace arrow_quant
#endif  // HWY_ONCE
