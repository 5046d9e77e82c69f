#include "kernels/search.h"

#include <algorithm>

#include "codec/two_level.h"
#include "kernels/isa.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/search.cc"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace arrow_quant {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, kTileLanes>;
using V = hn::Vec<D>;
using M = hn::Mask<D>;

// Larger than any error of weights that passed the range check.
constexpr float kWorstError = 3e38F;

HWY_INLINE V set(float value) { return hn::Set(D(), value); }
HWY_INLINE V load(const float* from) { return hn::LoadU(D(), from); }
HWY_INLINE void store(V v, float* to) { hn::StoreU(v, D(), to); }
HWY_INLINE V clamp(V v, V low, V high) { return hn::Min(hn::Max(v, low), high); }

// ------------------------------ Tiles

void FillTile(const float* const* sources, size_t depth, float factor, float* HWY_RESTRICT tile) {
  for (size_t lane = 0; lane < kTileLanes; ++lane) {
    const float* HWY_RESTRICT from = sources[lane];
    for (size_t i = 0; i < depth; ++i) tile[i * kTileLanes + lane] = from[i] * factor;
  }
}

void CenterTile(float* HWY_RESTRICT x, size_t depth, float* HWY_RESTRICT low,
                float* HWY_RESTRICT high) {
  const D d;
  for (size_t lane = 0; lane < kTileLanes; lane += hn::Lanes(d)) {
    float* HWY_RESTRICT column = x + lane;
    V lo = load(column), hi = lo;
    for (size_t i = 1; i < depth; ++i) {
      const V v = load(column + i * kTileLanes);
      lo = hn::Min(lo, v);
      hi = hn::Max(hi, v);
    }
    const V half = set(0.5F);
    const V middle = hn::Add(hn::Mul(half, lo), hn::Mul(half, hi));
    for (size_t i = 0; i < depth; ++i) {
      float* at = column + i * kTileLanes;
      store(hn::Sub(load(at), middle), at);
    }
    store(lo, low + lane);
    store(hi, high + lane);
  }
}

// ------------------------------ Real-valued search

/// Sums over the weights that do not depend on the codes.
struct WeightSums {
  V h, hx;
};

/// Sums over the codes of one candidate.
struct CodeSums {
  V hl, hll, hlx;
};

/// The best least-squares fit so far: x ~ step * code + base with base = (hx - step * hl) / h, and
/// by how much it lowers the error (times h).
struct Fit {
  V step, hl, gain;
};

/// code = x * inverse + shift, before rounding.
struct Rounding {
  V inverse, shift;
};

template <bool kWeighted>
HWY_INLINE WeightSums sum_weights(const float* x, const float* h, size_t depth) {
  WeightSums sums{set(0), set(0)};
  for (size_t i = 0; i < depth; ++i) {
    const V v = load(x + i * kTileLanes);
    const V weight = kWeighted ? load(h + i * kTileLanes) : set(1);
    sums.h = hn::Add(sums.h, weight);
    sums.hx = kWeighted ? hn::MulAdd(weight, v, sums.hx) : hn::Add(sums.hx, v);
  }
  return sums;
}

template <bool kWeighted>
HWY_INLINE void add_codes(V x, V h, const Rounding& r, V top, CodeSums& sums) {
  const V code = clamp(hn::Round(hn::MulAdd(x, r.inverse, r.shift)), set(0), top);
  const V hl = kWeighted ? hn::Mul(h, code) : code;
  sums.hl = hn::Add(sums.hl, hl);
  sums.hll = hn::MulAdd(hl, code, sums.hll);
  sums.hlx = hn::MulAdd(hl, x, sums.hlx);
}

/// Solve for the codes in `c` and keep the fit if it is the best. With the variance of the codes
/// h hll - hl^2 and their covariance with x, the step is the quotient and the gain covariance *
/// step.
HWY_INLINE void keep_better(const WeightSums& w, const CodeSums& c, Fit& best) {
  const V spread = hn::Mul(w.h, c.hll);
  const V variance = hn::NegMulAdd(c.hl, c.hl, spread);
  const V covariance = hn::NegMulAdd(w.hx, c.hl, hn::Mul(w.h, c.hlx));
  const V step = hn::Div(covariance, variance);
  const V gain = hn::Mul(covariance, step);
  // Equal codes have no variance but for rounding; a negative step is never the best.
  const M valid = hn::And(hn::Gt(variance, hn::Mul(set(1e-5F), spread)), hn::Gt(step, set(0)));
  const M better = hn::And(valid, hn::Gt(gain, best.gain));
  best.step = hn::IfThenElse(better, step, best.step);
  best.hl = hn::IfThenElse(better, c.hl, best.hl);
  best.gain = hn::IfThenElse(better, gain, best.gain);
}

/// Round to the codes of two candidates and keep the better fit of each: two at once hide the
/// latency of the sums.
template <bool kWeighted>
HWY_INLINE void try_pair(const float* HWY_RESTRICT x, const float* HWY_RESTRICT h, size_t depth,
                         V top, const WeightSums& w, const Rounding& a, const Rounding& b,
                         Fit& best_a, Fit& best_b) {
  CodeSums sums_a{set(0), set(0), set(0)}, sums_b = sums_a;
  for (size_t i = 0; i < depth; ++i) {
    const V v = load(x + i * kTileLanes);
    const V weight = kWeighted ? load(h + i * kTileLanes) : v;
    add_codes<kWeighted>(v, weight, a, top, sums_a);
    add_codes<kWeighted>(v, weight, b, top, sums_b);
  }
  keep_better(w, sums_a, best_a);
  keep_better(w, sums_b, best_b);
}

/// Candidate steps as fractions of range / (2^bits - 1), how many positions of the levels for each,
/// and how often the two best fits are refined.
struct Grid {
  float first, last;
  int steps, shifts, refits;

  float fraction(int k) const {
    const int intervals = std::max(steps - 1, 1);
    const int step = k / shifts;
    return first + (last - first) * static_cast<float>(step) / static_cast<float>(intervals);
  }
  /// Shift of the levels in steps, within half a step of the centred position.
  float offset(int k) const {
    return (static_cast<float>(k % shifts) + 0.5F) / static_cast<float>(shifts) - 0.5F;
  }
};

/// Rounding that a fit implies; lanes without a fit yet keep the whole range.
HWY_INLINE Rounding rounding_of(const Fit& fit, const WeightSums& w) {
  const V inverse = hn::Div(set(1), fit.step);
  const V base = hn::Div(hn::NegMulAdd(fit.step, fit.hl, w.hx), w.h);
  return {inverse, hn::Neg(hn::Mul(base, inverse))};
}

template <bool kWeighted>
HWY_INLINE Fit search_lanes(const float* x, const float* h, size_t depth, V range, float top,
                            const WeightSums& w, const Grid& grid) {
  const V inverse = hn::Div(set(top), range);
  Fit best{set(0), set(0), set(0)}, second = best;
  const int candidates = grid.steps * grid.shifts;
  for (int k = 0; k < candidates; k += 2) {
    const int j = std::min(k + 1, candidates - 1);
    const Rounding a{hn::Mul(inverse, set(1.0F / grid.fraction(k))),
                     set(0.5F * top - grid.offset(k))};
    const Rounding b{hn::Mul(inverse, set(1.0F / grid.fraction(j))),
                     set(0.5F * top - grid.offset(j))};
    try_pair<kWeighted>(x, h, depth, set(top), w, a, b, best, second);
  }
  for (int k = 0; k < grid.refits; ++k) {
    const Rounding a = rounding_of(best, w), b = rounding_of(second, w);
    try_pair<kWeighted>(x, h, depth, set(top), w, a, b, best, second);
  }
  const M better = hn::Gt(second.gain, best.gain);
  best.step = hn::IfThenElse(better, second.step, best.step);
  best.hl = hn::IfThenElse(better, second.hl, best.hl);
  best.gain = hn::IfThenElse(better, second.gain, best.gain);
  return best;
}

/// Grids are wider when importance differs: then the best step may leave unimportant weights out.
Grid grid_for(int bits, SearchEffort effort, bool weighted) {
  const float first = bits == 2 ? (weighted ? 0.3F : 0.42F) : (weighted ? 0.5F : 0.75F);
  const float last = bits == 2 ? 1.0F : 1.1F;
  if (effort == SearchEffort::kStart) return {first, last, weighted ? 10 : 6, 2, 1};
  return {first, last, weighted ? 12 : 8, 5, 4};
}

void SearchAffine(const Tile& tile, int bits, SearchEffort effort, float* HWY_RESTRICT step,
                  float* HWY_RESTRICT base) {
  const D d;
  const float top = static_cast<float>((1 << bits) - 1);
  const bool weighted = tile.h != nullptr;
  const Grid grid = grid_for(bits, effort, weighted);
  for (size_t lane = 0; lane < kTileLanes; lane += hn::Lanes(d)) {
    const V low = load(tile.low + lane), high = load(tile.high + lane);
    const V range = hn::Sub(high, low);
    const float* x = tile.x + lane;
    const float* h = weighted ? tile.h + lane : nullptr;
    WeightSums w;
    Fit fit;
    if (weighted) {
      w = sum_weights<true>(x, h, tile.depth);
      fit = search_lanes<true>(x, h, tile.depth, range, top, w, grid);
    } else {
      w = sum_weights<false>(x, h, tile.depth);
      fit = search_lanes<false>(x, h, tile.depth, range, top, w, grid);
    }
    const V middle = hn::Add(hn::Mul(set(0.5F), low), hn::Mul(set(0.5F), high));
    const V solved = hn::Add(hn::Div(hn::NegMulAdd(fit.step, fit.hl, w.hx), w.h), middle);
    // Without a fit, as for equal weights or no importance, the levels span the range.
    const M found = hn::Gt(fit.gain, set(0));
    store(hn::IfThenElse(found, fit.step, hn::Div(range, set(top))), step + lane);
    store(hn::IfThenElse(found, solved, low), base + lane);
  }
}

// ------------------------------ Integer search

/// One candidate (q, z) of every lane, in units of codes.
struct Candidate {
  Rounding rounding;
  V low, high;  ///< codes at which v reaches -127 or 127, within [0, top]; may be fractions
};

constexpr int kAtOnce = 3;
namespace layout = codec::two_level;

template <bool kWeighted>
HWY_INLINE void add_errors(const float* HWY_RESTRICT x, const float* HWY_RESTRICT h, size_t depth,
                           const Candidate* c, V* error) {
  V e0 = set(0), e1 = e0, e2 = e0;
  for (size_t i = 0; i < depth; ++i) {
    const V v = load(x + i * kTileLanes);
    const V u0 = hn::MulAdd(v, c[0].rounding.inverse, c[0].rounding.shift);
    const V u1 = hn::MulAdd(v, c[1].rounding.inverse, c[1].rounding.shift);
    const V u2 = hn::MulAdd(v, c[2].rounding.inverse, c[2].rounding.shift);
    const V d0 = hn::Sub(u0, clamp(hn::Round(u0), c[0].low, c[0].high));
    const V d1 = hn::Sub(u1, clamp(hn::Round(u1), c[1].low, c[1].high));
    const V d2 = hn::Sub(u2, clamp(hn::Round(u2), c[2].low, c[2].high));
    if (kWeighted) {
      const V weight = load(h + i * kTileLanes);
      e0 = hn::MulAdd(hn::Mul(weight, d0), d0, e0);
      e1 = hn::MulAdd(hn::Mul(weight, d1), d1, e1);
      e2 = hn::MulAdd(hn::Mul(weight, d2), d2, e2);
    } else {
      e0 = hn::MulAdd(d0, d0, e0);
      e1 = hn::MulAdd(d1, d1, e1);
      e2 = hn::MulAdd(d2, d2, e2);
    }
  }
  error[0] = e0, error[1] = e1, error[2] = e2;
}

/// Per-lane facts that all candidates share.
struct LaneStart {
  V scale, inverse_scale;
  V middle;                  ///< of the range, over the row scale
  V center;                  ///< of the real-valued levels, over the row scale
  V q;                       ///< real-valued q
  float unit, inverse_unit;  ///< m and 1 / m
  float half, top;           ///< 2^(bits - 1) and 2^bits - 1
};

/// A candidate q with what its offsets share.
struct Step {
  V q, inverse_q, inverse;  ///< inverse = 1 / (s q)
};

HWY_INLINE Candidate candidate(const LaneStart& s, const Step& step, V z) {
  // v of code 0.
  const V origin = hn::NegMulAdd(step.q, set(s.half), hn::Mul(set(s.unit), z));
  Candidate c;
  c.rounding = {step.inverse, hn::Mul(hn::Sub(s.middle, origin), step.inverse_q)};
  c.low = hn::Max(set(0), hn::Mul(hn::Sub(set(-layout::kMaxV), origin), step.inverse_q));
  c.high = hn::Min(set(s.top), hn::Mul(hn::Sub(set(layout::kMaxV), origin), step.inverse_q));
  return c;
}

/// The best candidate so far.
struct Choice {
  V q, z, error;
};

template <bool kWeighted>
HWY_INLINE void try_offsets(const float* x, const float* h, size_t depth, const LaneStart& s,
                            const Step& step, int z_count, Choice& best) {
  // The levels of (q, z) are centred at m z + q (top / 2 - half), that is m z - q / 2.
  const V nearest =
      hn::Round(hn::Mul(hn::MulAdd(step.q, set(0.5F), s.center), set(s.inverse_unit)));
  const V width = hn::Mul(step.q, s.scale);
  const V area = hn::Mul(width, width);
  for (int k = 0; k < z_count; k += kAtOnce) {
    V z[kAtOnce], error[kAtOnce];
    Candidate c[kAtOnce];
    for (int j = 0; j < kAtOnce; ++j) {
      // 0, -1, 1, -2, 2, ...
      const int n = std::min(k + j, z_count - 1);
      const float away = static_cast<float>(n % 2 == 0 ? n / 2 : -(n + 1) / 2);
      z[j] = clamp(hn::Add(nearest, set(away)), set(layout::kMinZ), set(layout::kMaxZ));
      c[j] = candidate(s, step, z[j]);
    }
    add_errors<kWeighted>(x, h, depth, c, error);
    for (int j = 0; j < kAtOnce; ++j) {
      const V real = hn::Mul(error[j], area);
      const M better = hn::Lt(real, best.error);
      best.q = hn::IfThenElse(better, step.q, best.q);
      best.z = hn::IfThenElse(better, z[j], best.z);
      best.error = hn::IfThenElse(better, real, best.error);
    }
  }
}

template <bool kWeighted>
HWY_INLINE Choice search_integers(const Tile& tile, size_t lane, const LaneStart& s,
                                  const TwoLevelWindow& window) {
  Choice best{set(1), set(0), set(kWorstError)};
  const V nearest = hn::Round(s.q);
  for (int k = window.q_first; k <= window.q_last; ++k) {
    const V q =
        clamp(hn::Add(nearest, set(static_cast<float>(k))), set(layout::kMinQ), set(layout::kMaxQ));
    const V inverse_q = hn::Div(set(1), q);
    try_offsets<kWeighted>(tile.x + lane, kWeighted ? tile.h + lane : nullptr, tile.depth, s,
                           {q, inverse_q, hn::Mul(inverse_q, s.inverse_scale)}, window.z_count,
                           best);
  }
  return best;
}

void SearchTwoLevel(const Tile& tile, const TwoLevelStart& start, const TwoLevelWindow& window,
                    uint8_t* HWY_RESTRICT params, float* HWY_RESTRICT error) {
  const D d;
  const hn::RebindToSigned<D> di;
  const hn::Rebind<uint8_t, D> d8;
  const float top = static_cast<float>((1 << start.bits) - 1);
  for (size_t lane = 0; lane < kTileLanes; lane += hn::Lanes(d)) {
    LaneStart s;
    s.scale = load(start.row_scale + lane);
    s.inverse_scale = hn::Div(set(1), s.scale);
    s.middle = hn::Mul(hn::Mul(set(0.5F), hn::Add(load(tile.low + lane), load(tile.high + lane))),
                       s.inverse_scale);
    s.unit = start.offset_unit;
    s.inverse_unit = 1.0F / start.offset_unit;
    s.half = static_cast<float>(1 << (start.bits - 1));
    s.top = top;
    const V step = load(start.step + lane);
    s.q = hn::Mul(step, s.inverse_scale);
    s.center = hn::Mul(hn::MulAdd(step, set(0.5F * top), load(start.base + lane)), s.inverse_scale);
    const Choice best = tile.h != nullptr ? search_integers<true>(tile, lane, s, window)
                                          : search_integers<false>(tile, lane, s, window);
    store(best.error, error + lane);
    const auto low = hn::ConvertTo(di, hn::Sub(best.q, set(layout::kMinQ)));
    const auto high = hn::ConvertTo(di, hn::Sub(best.z, set(layout::kMinZ)));
    hn::StoreU(hn::DemoteTo(d8, hn::Or(low, hn::ShiftLeft<layout::kFieldBits>(high))), d8,
               params + lane);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace arrow_quant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace arrow_quant {
HWY_EXPORT(FillTile);
HWY_EXPORT(CenterTile);
HWY_EXPORT(SearchAffine);
HWY_EXPORT(SearchTwoLevel);

void fill_tile(const float* const* sources, size_t depth, float factor, float* tile) noexcept {
  ARROW_QUANT_DISPATCH(FillTile)(sources, depth, factor, tile);
}
void center_tile(float* x, size_t depth, float* low, float* high) noexcept {
  ARROW_QUANT_DISPATCH(CenterTile)(x, depth, low, high);
}
void search_affine(const Tile& tile, int bits, SearchEffort effort, float* step,
                   float* base) noexcept {
  ARROW_QUANT_DISPATCH(SearchAffine)(tile, bits, effort, step, base);
}
void search_two_level(const Tile& tile, const TwoLevelStart& start, const TwoLevelWindow& window,
                      uint8_t* params, float* error) noexcept {
  ARROW_QUANT_DISPATCH(SearchTwoLevel)(tile, start, window, params, error);
}
}  // namespace arrow_quant
#endif  // HWY_ONCE
