#include "kernels/residual.h"

#include <algorithm>
#include <cstring>

#include "codec/residual_binary.h"
#include "kernels/isa.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/residual.cc"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace arrow_quant {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace layout = codec::residual_binary;

using D = hn::CappedTag<float, kTileLanes>;
using V = hn::Vec<D>;

constexpr float kWorstError = 3e38F;

HWY_INLINE V set(float value) { return hn::Set(D(), value); }
HWY_INLINE V load(const float* from) { return hn::LoadU(D(), from); }
HWY_INLINE void store(V v, float* to) { hn::StoreU(v, D(), to); }
HWY_INLINE V clamp(V v, V low, V high) { return hn::Min(hn::Max(v, low), high); }

/// One vector of groups of a tile.
struct Lanes {
  const float* x;
  const float* h;  ///< or null
  size_t depth;
  V middle;

  HWY_INLINE V magnitude(size_t i) const {
    return hn::Abs(hn::Add(load(x + i * kTileLanes), middle));
  }
  HWY_INLINE V weight(size_t i) const { return h == nullptr ? set(1) : load(h + i * kTileLanes); }
};

HWY_INLINE Lanes lanes_of(const Tile& tile, size_t lane) {
  const V half = set(0.5F);
  return {tile.x + lane, tile.h == nullptr ? nullptr : tile.h + lane, tile.depth,
          hn::Add(hn::Mul(half, load(tile.low + lane)), hn::Mul(half, load(tile.high + lane)))};
}

/// Weights and weighted sums of the sizes above and below a threshold.
struct Split {
  V outer_h, outer_hm, inner_h, inner_hm;
};

HWY_INLINE Split split_at(const Lanes& lanes, V threshold, V h, V hm) {
  Split s{set(0), set(0), set(0), set(0)};
  for (size_t i = 0; i < lanes.depth; ++i) {
    const V m = lanes.magnitude(i), weight = lanes.weight(i);
    const auto outside = hn::Gt(m, threshold);
    s.outer_h = hn::Add(s.outer_h, hn::IfThenElseZero(outside, weight));
    s.outer_hm = hn::Add(s.outer_hm, hn::IfThenElseZero(outside, hn::Mul(weight, m)));
  }
  s.inner_h = hn::Max(set(0), hn::Sub(h, s.outer_h));
  s.inner_hm = hn::Max(set(0), hn::Sub(hm, s.outer_hm));
  return s;
}

/// a / b, and `otherwise` where b is nothing.
HWY_INLINE V quotient(V a, V b, V otherwise) {
  return hn::IfThenElse(hn::Gt(b, set(0)), hn::Div(a, hn::Max(b, set(1e-30F))), otherwise);
}

struct Pair {
  V outer, inner, outer_h, inner_h, gain;
};

/// The means of both sides, and by how much they lower the error.
HWY_INLINE Pair means_of(const Split& s) {
  const V inner = quotient(s.inner_hm, s.inner_h, set(0));
  const V outer = quotient(s.outer_hm, s.outer_h, inner);
  return {outer, quotient(s.inner_hm, s.inner_h, outer), s.outer_h, s.inner_h,
          hn::MulAdd(outer, s.outer_hm, hn::Mul(inner, s.inner_hm))};
}

HWY_INLINE void keep_better(const Pair& next, Pair& best) {
  const auto better = hn::Gt(next.gain, best.gain);
  best.outer = hn::IfThenElse(better, next.outer, best.outer);
  best.inner = hn::IfThenElse(better, next.inner, best.inner);
  best.outer_h = hn::IfThenElse(better, next.outer_h, best.outer_h);
  best.inner_h = hn::IfThenElse(better, next.inner_h, best.inner_h);
  best.gain = hn::IfThenElse(better, next.gain, best.gain);
}

HWY_INLINE void store_pair(const Pair& pair, const MagnitudePairs& out, size_t lane) {
  store(pair.outer, out.outer + lane);
  store(pair.inner, out.inner + lane);
  store(pair.outer_h, out.outer_weight + lane);
  store(pair.inner_h, out.inner_weight + lane);
}

void FitMagnitudes(const Tile& tile, const MagnitudePairs& out) {
  constexpr float kStarts[] = {0.3F, 0.45F, 0.6F};  // of the largest size
  constexpr int kRounds = 4;
  for (size_t lane = 0; lane < kTileLanes; lane += hn::Lanes(D())) {
    const Lanes lanes = lanes_of(tile, lane);
    V h = set(0), hm = set(0), largest = set(0);
    for (size_t i = 0; i < lanes.depth; ++i) {
      const V m = lanes.magnitude(i), weight = lanes.weight(i);
      h = hn::Add(h, weight);
      hm = hn::MulAdd(weight, m, hm);
      largest = hn::Max(largest, m);
    }
    // Without any importance both sizes are in the middle of what there is.
    const V half = hn::Mul(set(0.5F), largest);
    Pair best{half, half, set(0), set(0), set(0)};
    for (float start : kStarts) {
      V threshold = hn::Mul(set(start), largest);
      for (int round = 0; round < kRounds; ++round) {
        const Pair next = means_of(split_at(lanes, threshold, h, hm));
        keep_better(next, best);
        threshold = hn::Mul(set(0.5F), hn::Add(next.outer, next.inner));
      }
    }
    store_pair(best, out, lane);
  }
}

/// sum h (|x| - nearest of outer and inner)^2 for three pairs at once.
HWY_INLINE void add_errors(const Lanes& lanes, const V* outer, const V* inner, V* error) {
  V e0 = set(0), e1 = e0, e2 = e0;
  for (size_t i = 0; i < lanes.depth; ++i) {
    const V m = lanes.magnitude(i), weight = lanes.weight(i);
    const V d0 = hn::Min(hn::Abs(hn::Sub(m, outer[0])), hn::Abs(hn::Sub(m, inner[0])));
    const V d1 = hn::Min(hn::Abs(hn::Sub(m, outer[1])), hn::Abs(hn::Sub(m, inner[1])));
    const V d2 = hn::Min(hn::Abs(hn::Sub(m, outer[2])), hn::Abs(hn::Sub(m, inner[2])));
    e0 = hn::MulAdd(hn::Mul(weight, d0), d0, e0);
    e1 = hn::MulAdd(hn::Mul(weight, d1), d1, e1);
    e2 = hn::MulAdd(hn::Mul(weight, d2), d2, e2);
  }
  error[0] = e0, error[1] = e1, error[2] = e2;
}

void SearchResidualBinary(const Tile& tile, const float* row_scale, const float* outer,
                          const float* inner, uint8_t* HWY_RESTRICT params,
                          float* HWY_RESTRICT error) {
  const hn::RebindToSigned<D> di;
  const hn::Rebind<uint8_t, D> d8;
  for (size_t lane = 0; lane < kTileLanes; lane += hn::Lanes(D())) {
    const Lanes lanes = lanes_of(tile, lane);
    const V scale = load(row_scale + lane);
    const V half = hn::Div(set(0.5F), scale);
    const V high = load(outer + lane), low = load(inner + lane);
    const V near1 = hn::Round(hn::Mul(hn::Add(high, low), half));
    const V near2 = hn::Round(hn::Mul(hn::Sub(high, low), half));
    V best_q1 = set(1), best_q2 = set(0), min_error = set(kWorstError);
    for (float d1 : {0.0F, -1.0F, 1.0F}) {
      const V q1 = clamp(hn::Add(near1, set(d1)), set(layout::kMinQ1), set(layout::kMaxQ1));
      V q2[3], outers[3], inners[3], errors[3];
      for (int j = 0; j < 3; ++j) {
        q2[j] = clamp(hn::Add(near2, set(static_cast<float>(j - 1))), set(layout::kMinQ2),
                      set(layout::kMaxQ2));
        outers[j] = hn::Mul(scale, hn::Add(q1, q2[j]));
        inners[j] = hn::Mul(scale, hn::Abs(hn::Sub(q1, q2[j])));
      }
      add_errors(lanes, outers, inners, errors);
      for (int j = 0; j < 3; ++j) {
        const auto better = hn::Lt(errors[j], min_error);
        best_q1 = hn::IfThenElse(better, q1, best_q1);
        best_q2 = hn::IfThenElse(better, q2[j], best_q2);
        min_error = hn::IfThenElse(better, errors[j], min_error);
      }
    }
    store(min_error, error + lane);
    const auto q1 = hn::ConvertTo(di, hn::Sub(best_q1, set(layout::kMinQ1)));
    const auto q2 = hn::ShiftLeft<layout::kFieldBits>(hn::ConvertTo(di, best_q2));
    hn::StoreU(hn::DemoteTo(d8, hn::Or(q1, q2)), d8, params + lane);
  }
}

/// Sums of one group, at most a few hundred weights.
struct GroupSums {
  V ww, we, ee;
};

/// Encode one vector of weights; lanes outside `mask` hold zeros and count nothing.
HWY_INLINE void encode_vector(V w, V first, V second, hn::Mask<D> mask, GroupSums& sums,
                              uint8_t* HWY_RESTRICT codes) {
  const hn::RebindToUnsigned<D> du;
  const hn::Rebind<uint8_t, D> d8;
  // The larger step takes the sign; the smaller one the side of |w| - larger on top of that.
  const V large = hn::Max(first, second);
  const auto positive = hn::Ge(w, set(0));
  const auto follows = hn::Not(hn::Xor(positive, hn::Gt(hn::Abs(w), large)));
  const auto swapped = hn::Lt(first, second);
  const auto bit1 = hn::Or(hn::And(swapped, follows), hn::AndNot(swapped, positive));
  const auto bit2 = hn::Or(hn::And(swapped, positive), hn::AndNot(swapped, follows));
  const V v = hn::Add(hn::IfThenElse(bit1, first, hn::Neg(first)),
                      hn::IfThenElse(bit2, second, hn::Neg(second)));
  const V e = hn::IfThenElseZero(mask, hn::Sub(w, v));
  sums.ww = hn::MulAdd(w, w, sums.ww);
  sums.we = hn::MulAdd(w, e, sums.we);
  sums.ee = hn::MulAdd(e, e, sums.ee);
  const auto code = hn::Or(
      hn::IfThenElseZero(hn::RebindMask(du, bit1), hn::Set(du, uint32_t{layout::kFirstBit})),
      hn::IfThenElseZero(hn::RebindMask(du, bit2), hn::Set(du, uint32_t{layout::kSecondBit})));
  hn::StoreU(hn::TruncateTo(d8, code), d8, codes);
}

void EncodeResidualBinary(const float* weights, size_t count, float factor,
                          const float* HWY_RESTRICT first, const float* HWY_RESTRICT second,
                          size_t group, uint8_t* HWY_RESTRICT codes, ErrorSums& total) {
  constexpr size_t kRun = 1024;  // weights whose sums are added up in f32
  const size_t lanes = hn::Lanes(D());
  double ww = 0, we = 0, ee = 0;
  for (size_t begin = 0, g = 0; begin < count; begin += group, ++g) {
    const size_t end = std::min(begin + group, count);
    const V a = set(first[g]), b = set(second[g]);
    for (size_t run = begin; run < end; run += kRun) {
      const size_t stop = std::min(run + kRun, end);
      GroupSums sums{set(0), set(0), set(0)};
      for (size_t i = run; i < stop; i += lanes) {
        const size_t n = std::min(lanes, stop - i);
        HWY_ALIGN float from[kTileLanes] = {};
        HWY_ALIGN uint8_t to[kTileLanes];
        std::memcpy(from, weights + i, n * sizeof(float));
        const V w = hn::Mul(hn::Load(D(), from), set(factor));
        encode_vector(w, a, b, hn::FirstN(D(), n), sums, to);
        std::memcpy(codes + i, to, n);
      }
      ww += static_cast<double>(hn::GetLane(hn::SumOfLanes(D(), sums.ww)));
      we += static_cast<double>(hn::GetLane(hn::SumOfLanes(D(), sums.we)));
      ee += static_cast<double>(hn::GetLane(hn::SumOfLanes(D(), sums.ee)));
    }
  }
  total.add({ww, ww - 2 * we + ee, ww - we, ee, count});
}

}  // namespace HWY_NAMESPACE
}  // namespace arrow_quant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace arrow_quant {
HWY_EXPORT(FitMagnitudes);
HWY_EXPORT(SearchResidualBinary);
HWY_EXPORT(EncodeResidualBinary);

void fit_magnitudes(const Tile& tile, const MagnitudePairs& out) noexcept {
  ARROW_QUANT_DISPATCH(FitMagnitudes)(tile, out);
}
void search_residual_binary(const Tile& tile, const float* row_scale, const float* outer,
                            const float* inner, uint8_t* params, float* error) noexcept {
  ARROW_QUANT_DISPATCH(SearchResidualBinary)(tile, row_scale, outer, inner, params, error);
}
void encode_residual_binary(const float* weights, size_t count, float factor, const float* first,
                            const float* second, size_t group, uint8_t* codes,
                            ErrorSums& sums) noexcept {
  ARROW_QUANT_DISPATCH(EncodeResidualBinary)
  (weights, count, factor, first, second, group, codes, sums);
}
}  // namespace arrow_quant
#endif  // HWY_ONCE
