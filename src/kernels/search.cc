#include "kernels/search.h"

#include <algorithm>

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
  V h, hx, hxx;
};

/// x ~ step * code + base with the least-squares error of the codes it came from.
struct Fit {
  V step, base, error;
};

/// Sums over the codes of one candidate.
struct CodeSums {
  V hl, hll, hlx;
};

template <bool kWeighted>
HWY_INLINE WeightSums sum_weights(const float* x, const float* h, size_t depth) {
  WeightSums sums{set(0), set(0), set(0)};
  for (size_t i = 0; i < depth; ++i) {
    const V v = load(x + i * kTileLanes);
    const V weight = kWeighted ? load(h + i * kTileLanes) : set(1);
    const V hv = kWeighted ? hn::Mul(weight, v) : v;
    sums.h = hn::Add(sums.h, weight);
    sums.hx = hn::Add(sums.hx, hv);
    sums.hxx = hn::MulAdd(hv, v, sums.hxx);
  }
  return sums;
}

template <bool kWeighted>
HWY_INLINE void add_codes(V x, V h, V inverse, V shift, V top, CodeSums& sums) {
  const V code = clamp(hn::Round(hn::MulAdd(x, inverse, shift)), set(0), top);
  const V hl = kWeighted ? hn::Mul(h, code) : code;
  sums.hl = hn::Add(sums.hl, hl);
  sums.hll = hn::MulAdd(hl, code, sums.hll);
  sums.hlx = hn::MulAdd(hl, x, sums.hlx);
}

/// Least-squares step and base for the codes in `c`; a degenerate fit gets the worst error.
HWY_INLINE Fit solve(const WeightSums& w, const CodeSums& c) {
  const V determinant = hn::NegMulAdd(c.hl, c.hl, hn::Mul(w.h, c.hll));
  const V product = hn::NegMulAdd(w.hx, c.hl, hn::Mul(w.h, c.hlx));
  const M valid = hn::And(hn::Gt(determinant, hn::Mul(set(1e-5F), hn::Mul(w.h, c.hll))),
                          hn::Gt(product, set(0)));
  const V step = hn::Div(product, hn::IfThenElse(valid, determinant, set(1)));
  const V base = hn::Div(hn::NegMulAdd(step, c.hl, w.hx), hn::IfThenElse(valid, w.h, set(1)));
  const V error = hn::NegMulAdd(step, c.hlx, hn::NegMulAdd(base, w.hx, w.hxx));
  return {step, base, hn::IfThenElse(valid, error, set(kWorstError))};
}

/// Round to the codes of two candidates and solve for each: two at once hide the add latency.
template <bool kWeighted>
HWY_INLINE void refit(const float* HWY_RESTRICT x, const float* HWY_RESTRICT h, size_t depth, V top,
                      const WeightSums& w, Fit& a, Fit& b) {
  const V one = set(1);
  const V inverse_a = hn::Div(one, a.step), inverse_b = hn::Div(one, b.step);
  const V shift_a = hn::Neg(hn::Mul(a.base, inverse_a));
  const V shift_b = hn::Neg(hn::Mul(b.base, inverse_b));
  CodeSums sums_a{set(0), set(0), set(0)}, sums_b = sums_a;
  for (size_t i = 0; i < depth; ++i) {
    const V v = load(x + i * kTileLanes);
    const V weight = kWeighted ? load(h + i * kTileLanes) : one;
    add_codes<kWeighted>(v, weight, inverse_a, shift_a, top, sums_a);
    add_codes<kWeighted>(v, weight, inverse_b, shift_b, top, sums_b);
  }
  a = solve(w, sums_a);
  b = solve(w, sums_b);
}

HWY_INLINE void keep_better(const Fit& fit, Fit& best) {
  const M better = hn::Lt(fit.error, best.error);
  best.step = hn::IfThenElse(better, fit.step, best.step);
  best.base = hn::IfThenElse(better, fit.base, best.base);
  best.error = hn::IfThenElse(better, fit.error, best.error);
}

/// Candidate steps as fractions of range / (2^bits - 1), and how often the winner is refitted.
struct Grid {
  float first, last;
  int steps, shifts, refits;
};

template <bool kWeighted>
HWY_INLINE Fit search_lanes(const float* x, const float* h, size_t depth, V range, float top,
                            const Grid& grid) {
  const WeightSums w = sum_weights<kWeighted>(x, h, depth);
  // Also the answer when no candidate can be solved: the whole range, evenly.
  const V whole = hn::Div(range, set(top));
  const Fit start{whole, hn::Mul(range, set(-0.5F)), set(kWorstError)};
  Fit best = start, second = start;
  const int candidates = grid.steps * grid.shifts;
  for (int k = 0; k < candidates; k += 2) {
    Fit pair[2];
    for (int j = 0; j < 2; ++j) {
      const int at = std::min(k + j, candidates - 1);
      const float spacing = grid.steps > 1 ? (grid.last - grid.first) / static_cast<float>(grid.steps - 1) : 0.0F;
      const float fraction = grid.first + spacing * static_cast<float>(at / grid.shifts);
      const float shift = (static_cast<float>(at % grid.shifts) + 0.5F) / static_cast<float>(grid.shifts) - 0.5F;
      const V step = hn::Mul(whole, set(fraction));
      pair[j] = {step, hn::Mul(step, set(shift - 0.5F * top)), set(kWorstError)};
    }
    refit<kWeighted>(x, h, depth, set(top), w, pair[0], pair[1]);
    keep_better(pair[0], best);
    keep_better(pair[1], second);
  }
  for (int k = 0; k < grid.refits; ++k) {
    Fit next = best, other = second;
    refit<kWeighted>(x, h, depth, set(top), w, next, other);
    keep_better(next, best);
    keep_better(other, second);
  }
  keep_better(second, best);
  return best;
}

Grid grid_for(int bits, bool weighted) {
  if (bits == 2) return {weighted ? 0.3F : 0.42F, 1.0F, weighted ? 12 : 8, 5, 4};
  return {weighted ? 0.5F : 0.75F, 1.1F, weighted ? 12 : 8, 5, 4};
}

void SearchAffine(const Tile& tile, int bits, float* HWY_RESTRICT step, float* HWY_RESTRICT base) {
  const D d;
  const float top = static_cast<float>((1 << bits) - 1);
  const bool weighted = tile.h != nullptr;
  const Grid grid = grid_for(bits, weighted);
  for (size_t lane = 0; lane < kTileLanes; lane += hn::Lanes(d)) {
    const V low = load(tile.low + lane), high = load(tile.high + lane);
    const V range = hn::Sub(high, low);
    const float* x = tile.x + lane;
    const Fit fit = weighted ? search_lanes<true>(x, tile.h + lane, tile.depth, range, top, grid)
                             : search_lanes<false>(x, nullptr, tile.depth, range, top, grid);
    const V middle = hn::Add(hn::Mul(set(0.5F), low), hn::Mul(set(0.5F), high));
    const M flat = hn::Not(hn::Gt(range, set(0)));
    store(hn::IfThenZeroElse(flat, fit.step), step + lane);
    store(hn::IfThenElse(flat, low, hn::Add(fit.base, middle)), base + lane);
  }
}

// ------------------------------ Integer search

/// One candidate (q, z) of every lane, in units of codes.
struct Candidate {
  V inverse;    ///< 1 / (s q)
  V shift;      ///< code = x * inverse + shift
  V low, high;  ///< codes at which v reaches -127 or 127, within [0, top]; may be fractions
};

constexpr int kAtOnce = 3;

template <bool kWeighted>
HWY_INLINE void add_errors(const float* HWY_RESTRICT x, const float* HWY_RESTRICT h, size_t depth,
                           const Candidate* c, V* error) {
  V e0 = set(0), e1 = e0, e2 = e0;
  for (size_t i = 0; i < depth; ++i) {
    const V v = load(x + i * kTileLanes);
    const V u0 = hn::MulAdd(v, c[0].inverse, c[0].shift);
    const V u1 = hn::MulAdd(v, c[1].inverse, c[1].shift);
    const V u2 = hn::MulAdd(v, c[2].inverse, c[2].shift);
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
  V scale, middle, center;  ///< row scale; middle of the range; middle of the real-valued levels
  V q, unit;                ///< real-valued q; m
  float half, top;          ///< 2^(bits - 1) and 2^bits - 1
};

HWY_INLINE Candidate candidate(const LaneStart& s, V q, V z) {
  const V origin = hn::NegMulAdd(q, set(s.half), hn::Mul(s.unit, z));  // v of code 0
  const V inverse_q = hn::Div(set(1), q);
  Candidate c;
  c.inverse = hn::Div(inverse_q, s.scale);
  c.shift = hn::NegMulAdd(origin, inverse_q, hn::Mul(s.middle, c.inverse));
  c.low = hn::Max(set(0), hn::Mul(hn::Sub(set(-127), origin), inverse_q));
  c.high = hn::Min(set(s.top), hn::Mul(hn::Sub(set(127), origin), inverse_q));
  return c;
}

/// The best candidate so far.
struct Choice {
  V q, z, error;
};

template <bool kWeighted>
HWY_INLINE void try_offsets(const float* x, const float* h, size_t depth, const LaneStart& s, V q,
                            int z_count, Choice& best) {
  // The levels of (q, z) are centred at m z + q (top / 2 - half), that is m z - q / 2.
  const V exact = hn::Div(hn::MulAdd(q, set(0.5F), s.center), s.unit);
  const V nearest = hn::Round(exact);
  const V width = hn::Mul(q, s.scale);
  for (int k = 0; k < z_count; k += kAtOnce) {
    V z[kAtOnce], error[kAtOnce];
    Candidate c[kAtOnce];
    for (int j = 0; j < kAtOnce; ++j) {
      // 0, -1, 1, -2, 2, ...
      const int n = std::min(k + j, z_count - 1);
      const float away = static_cast<float>(n % 2 == 0 ? n / 2 : -(n + 1) / 2);
      z[j] = clamp(hn::Add(nearest, set(away)), set(-8), set(7));
      c[j] = candidate(s, q, z[j]);
    }
    add_errors<kWeighted>(x, h, depth, c, error);
    for (int j = 0; j < kAtOnce; ++j) {
      const V real = hn::Mul(error[j], hn::Mul(width, width));
      const M better = hn::Lt(real, best.error);
      best.q = hn::IfThenElse(better, q, best.q);
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
    const V q = clamp(hn::Add(nearest, set(static_cast<float>(k))), set(1), set(16));
    try_offsets<kWeighted>(tile.x + lane, kWeighted ? tile.h + lane : nullptr, tile.depth, s, q,
                           window.z_count, best);
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
    s.middle = hn::Mul(set(0.5F), hn::Add(load(tile.low + lane), load(tile.high + lane)));
    s.unit = set(start.offset_unit);
    s.half = static_cast<float>(1 << (start.bits - 1));
    s.top = top;
    const V step = load(start.step + lane);
    s.q = hn::Div(step, s.scale);
    s.center = hn::Div(hn::MulAdd(step, set(0.5F * top), load(start.base + lane)), s.scale);
    Choice best = tile.h != nullptr ? search_integers<true>(tile, lane, s, window)
                                    : search_integers<false>(tile, lane, s, window);
    store(best.error, error + lane);
    const auto low = hn::ConvertTo(di, hn::Sub(best.q, set(1)));
    const auto high = hn::ConvertTo(di, hn::Add(best.z, set(8)));
    hn::StoreU(hn::DemoteTo(d8, hn::Or(low, hn::ShiftLeft<4>(high))), d8, params + lane);
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
  HWY_DYNAMIC_DISPATCH(FillTile)(sources, depth, factor, tile);
}
void center_tile(float* x, size_t depth, float* low, float* high) noexcept {
  HWY_DYNAMIC_DISPATCH(CenterTile)(x, depth, low, high);
}
void search_affine(const Tile& tile, int bits, float* step, float* base) noexcept {
  HWY_DYNAMIC_DISPATCH(SearchAffine)(tile, bits, step, base);
}
void search_two_level(const Tile& tile, const TwoLevelStart& start, const TwoLevelWindow& window,
                      uint8_t* params, float* error) noexcept {
  HWY_DYNAMIC_DISPATCH(SearchTwoLevel)(tile, start, window, params, error);
}
}  // namespace arrow_quant
#endif  // HWY_ONCE
