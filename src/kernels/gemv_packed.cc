#include "kernels/gemv_packed.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "kernels/isa.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gemv_packed.cc"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/cache_control.h"
#include "hwy/highway.h"

#include "kernels/dot_int8.h"

HWY_BEFORE_NAMESPACE();
namespace arrow_quant {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DotFloat = hn::Rebind<float, DotTag>;
constexpr size_t kLanes = hn::MaxLanes(DotTag());
constexpr size_t kLaneBytes = 4 * kLanes;
constexpr size_t kRowsAtATime = 4;
constexpr int kMaxV = 127;

/// Parameters of a row with room for whole vectors behind them.
constexpr size_t kSlack = 16;

HWY_INLINE float sum_lanes(hn::Vec<DotFloat> v) {
  return hn::GetLane(hn::SumOfLanes(DotFloat(), v));
}

/// The sums of the planes of a token as one number per lane.
template <int kPlanes>
HWY_INLINE hn::Vec<DotFloat> join(const DotVec* sums) {
  const DotFloat d;
  auto value = hn::ConvertTo(d, sums[0]);
  for (int p = 1; p < kPlanes; ++p) {
    value = hn::MulAdd(value, hn::Set(d, 256.0F), hn::ConvertTo(d, sums[p]));
  }
  return value;
}

/// q of the sub-group that each lane of a vector lies in. `lane` is the number of the first lane.
HWY_INLINE hn::Vec<DotFloat> scales_at(const uint8_t* params, size_t lane, size_t lanes_per_group) {
  HWY_ALIGN int32_t q[kLanes];
  for (size_t i = 0; i < kLanes; ++i) q[i] = (params[(lane + i) / lanes_per_group] & 15) + 1;
  return hn::ConvertTo(DotFloat(), hn::Load(DotTag(), q));
}

#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4
/// The same for groups of 1, 2, 4, ... lanes by one byte shuffle.
class ScaleShuffle {
 public:
  explicit ScaleShuffle(size_t lanes_per_group) : lanes_per_group_(lanes_per_group) {
    const hn::Repartition<uint8_t, DotTag> d8;
    HWY_ALIGN uint8_t control[hn::MaxLanes(d8)];
    for (size_t i = 0; i < kLanes; ++i) {
      control[4 * i] = static_cast<uint8_t>(i / lanes_per_group);
      for (size_t j = 1; j < 4; ++j) control[4 * i + j] = 0x80;  // makes a zero
    }
    control_ = hn::Load(d8, control);
  }
  HWY_INLINE hn::Vec<DotFloat> operator()(const uint8_t* params, size_t lane) const {
    const hn::Repartition<uint8_t, DotTag> d8;
    const auto bytes = hn::LoadDup128(d8, params + lane / lanes_per_group_);
    const auto spread = hn::BitCast(DotTag(), hn::TableLookupBytesOr0(bytes, control_));
    const auto low = hn::And(spread, hn::Set(DotTag(), 15));
    return hn::ConvertTo(DotFloat(), hn::Add(low, hn::Set(DotTag(), 1)));
  }

 private:
  size_t lanes_per_group_;
  hn::Vec<hn::Repartition<uint8_t, DotTag>> control_;
};
#else
class ScaleShuffle {
 public:
  explicit ScaleShuffle(size_t lanes_per_group) : lanes_per_group_(lanes_per_group) {}
  HWY_INLINE hn::Vec<DotFloat> operator()(const uint8_t* params, size_t lane) const {
    return scales_at(params, lane, lanes_per_group_);
  }

 private:
  size_t lanes_per_group_;
};
#endif

/// Codes of one phase of packed bytes.
template <int kBits, int kPhase>
HWY_INLINE DotVec phase_codes(DotVec packed) {
  const DotVec mask = hn::Set(DotTag(), kBits == 4 ? 0x0F0F0F0F : 0x03030303);
  return hn::And(kPhase == 0 ? packed : hn::ShiftRight<kBits * kPhase>(packed), mask);
}

/// sums[r][p] += codes of phase kPhase times the token's bytes at `x` and beyond.
template <class Dot, int kBits, int kPlanes, size_t kRows, int kPhase>
HWY_INLINE void add_phases(const DotVec* packed, const int8_t* x, DotVec (*sums)[kPlanes]) {
  constexpr int kPhases = 8 / kBits;
  if constexpr (kPhase < kPhases) {
    DotVec codes[kRows];
    for (size_t r = 0; r < kRows; ++r) codes[r] = phase_codes<kBits, kPhase>(packed[r]);
    for (int p = 0; p < kPlanes; ++p) {
      const DotVec v = load_quads(x + static_cast<size_t>(p * kPhases + kPhase) * kGemvBlock);
      for (size_t r = 0; r < kRows; ++r) sums[r][p] = Dot::add(sums[r][p], codes[r], v);
    }
    add_phases<Dot, kBits, kPlanes, kRows, kPhase + 1>(packed, x, sums);
  }
}

/// kRows packed rows, `stride` bytes apart, of which whole blocks may be read.
template <class Dot, int kBits, int kPlanes, size_t kRows>
HWY_INLINE void multiply_rows(const uint8_t* codes, size_t stride, const uint8_t* params,
                              size_t param_stride, const ScaleShuffle& scales, size_t first_block,
                              size_t blocks, const int8_t* x, hn::Vec<DotFloat>* acc) {
  constexpr size_t kTokenBlock = static_cast<size_t>(8 / kBits) * kPlanes * kGemvBlock;
  for (size_t b = first_block; b < first_block + blocks; ++b, codes += kGemvBlock) {
    for (size_t part = 0; part < kGemvBlock; part += kLaneBytes) {
      DotVec packed[kRows];
      DotVec sums[kRows][kPlanes];
      for (size_t r = 0; r < kRows; ++r) {
        packed[r] = load_quads(codes + r * stride + part);
        // The rows that come next: rows are too short for the prefetcher of the CPU.
        if (part == 0) hwy::Prefetch(codes + (r + kRows) * stride);
        for (int p = 0; p < kPlanes; ++p) sums[r][p] = hn::Zero(DotTag());
      }
      add_phases<Dot, kBits, kPlanes, kRows, 0>(packed, x + b * kTokenBlock + part, sums);
      const size_t lane = (b * kGemvBlock + part) / 4;
      for (size_t r = 0; r < kRows; ++r) {
        acc[r] =
            hn::MulAdd(join<kPlanes>(sums[r]), scales(params + r * param_stride, lane), acc[r]);
      }
    }
  }
}

/// What clamping changes in `bytes` packed bytes of a sub-group from byte `first` of the row on:
/// sum x (clamp(v) - v).
template <int kBits>
HWY_INLINE hn::Vec<DotFloat> clamped_part(const GemvToken& token, const uint8_t* codes,
                                          size_t row_bytes, size_t first, size_t bytes, int q,
                                          int base) {
  const DotTag d;
  const DotFloat df;
  const hn::Rebind<uint8_t, DotTag> d8;
  const auto mask = hn::Set(d, (1 << kBits) - 1);
  auto change = hn::Zero(df);
  for (size_t j = 0; j < bytes; j += kLanes) {
    const size_t at = first + j, n = std::min(kLanes, bytes - j);
    HWY_ALIGN uint8_t some[hn::MaxLanes(d8)] = {};
    const bool whole = at + kLanes <= row_bytes;
    if (!whole) std::memcpy(some, codes + at, row_bytes - at);
    auto packed = hn::PromoteTo(d, hn::LoadU(d8, whole ? codes + at : some));
    const auto inside = hn::FirstN(df, n);
    for (size_t phase = 0; phase < 8 / kBits; ++phase) {
      const auto v = hn::Add(hn::Mul(hn::And(packed, mask), hn::Set(d, q)), hn::Set(d, base));
      const auto clamped = hn::Max(hn::Min(v, hn::Set(d, kMaxV)), hn::Set(d, -kMaxV));
      const auto x = hn::LoadU(df, token.values + phase * row_bytes + at);
      const auto moved = hn::ConvertTo(df, hn::Sub(clamped, v));
      change = hn::MulAdd(hn::IfThenElseZero(inside, x), moved, change);
      packed = hn::ShiftRight<kBits>(packed);
    }
  }
  return change;
}

/// The part of a row's sum that the offsets make, and what clamping changes.
template <int kBits>
float offset_part(const GemvRows& m, const uint8_t* codes, const uint8_t* params,
                  const GemvToken& token) {
  const DotTag d;
  const DotFloat df;
  const hn::Rebind<uint8_t, DotTag> d8;
  const size_t groups = (m.inputs + m.group - 1) / m.group;
  constexpr int half = 1 << (kBits - 1), top = half - 1;
  auto acc = hn::Zero(df);
  const size_t group_bytes = m.group * kBits / 8, row_bytes = (m.inputs * kBits + 7) / 8;
  for (size_t g = 0; g < groups; g += kLanes) {
    const auto bytes = hn::PromoteTo(d, hn::LoadU(d8, params + g));
    const auto q = hn::Add(hn::And(bytes, hn::Set(d, 15)), hn::Set(d, 1));
    const auto z = hn::Sub(hn::ShiftRight<4>(bytes), hn::Set(d, 8));
    const auto shift = hn::Mul(z, hn::Set(d, m.offset_unit));
    const auto base = hn::Sub(shift, hn::Mul(q, hn::Set(d, half)));
    acc = hn::MulAdd(hn::ConvertTo(df, base), hn::LoadU(df, token.group_sums + g), acc);
    const auto highest = hn::Add(shift, hn::Mul(q, hn::Set(d, top)));
    const auto beyond =
        hn::Or(hn::Gt(highest, hn::Set(d, kMaxV)), hn::Lt(base, hn::Set(d, -kMaxV)));
    if (HWY_LIKELY(hn::AllFalse(d, beyond))) continue;
    uint8_t bytes_of_mask[8] = {};
    hn::StoreMaskBits(d, beyond, bytes_of_mask);
    uint32_t lanes;
    std::memcpy(&lanes, bytes_of_mask, sizeof(lanes));
    for (; lanes != 0; lanes &= lanes - 1) {
      const size_t i = g + static_cast<size_t>(std::countr_zero(lanes));
      if (i >= groups) break;
      const int scale = (params[i] & 15) + 1;
      const int low = m.offset_unit * ((params[i] >> 4) - 8) - half * scale;
      const size_t first = i * group_bytes, count = std::min(group_bytes, row_bytes - first);
      acc = hn::Add(acc, clamped_part<kBits>(token, codes, row_bytes, first, count, scale, low));
    }
  }
  return sum_lanes(acc);
}

template <class Dot, int kBits, int kPlanes>
void two_level_rows(const GemvRows& m, const GemvToken& token, float* out) {
  const size_t row_bytes = (m.inputs * kBits + 7) / 8, whole = row_bytes / kGemvBlock;
  const size_t groups = (m.inputs + m.group - 1) / m.group, padded = groups + kSlack;
  const ScaleShuffle scales(m.group / (4 * size_t{8 / kBits}));
  static thread_local std::vector<uint8_t> scratch;
  scratch.assign(kRowsAtATime * padded + kGemvBlock, 0x80);  // z = 0
  uint8_t* params = scratch.data();
  uint8_t* tail = scratch.data() + kRowsAtATime * padded;
  for (size_t row = 0; row < m.rows; row += kRowsAtATime) {
    const size_t n = std::min(kRowsAtATime, m.rows - row);
    const uint8_t* codes = m.codes + row * row_bytes;
    for (size_t r = 0; r < n; ++r) {
      std::memcpy(params + r * padded, m.params + (row + r) * groups, groups);
    }
    hn::Vec<DotFloat> acc[kRowsAtATime];
    for (auto& a : acc) a = hn::Zero(DotFloat());
    if (n == kRowsAtATime) {
      multiply_rows<Dot, kBits, kPlanes, kRowsAtATime>(codes, row_bytes, params, padded, scales, 0,
                                                       whole, token.planes, acc);
    } else {
      for (size_t r = 0; r < n; ++r) {
        multiply_rows<Dot, kBits, kPlanes, 1>(codes + r * row_bytes, 0, params + r * padded, 0,
                                              scales, 0, whole, token.planes, acc + r);
      }
    }
    for (size_t r = 0; r < n; ++r) {
      const uint8_t* own = codes + r * row_bytes;
      if (whole * kGemvBlock < row_bytes) {
        std::memset(tail, 0, kGemvBlock);
        std::memcpy(tail, own + whole * kGemvBlock, row_bytes - whole * kGemvBlock);
        multiply_rows<Dot, kBits, kPlanes, 1>(tail, 0, params + r * padded, 0, scales, whole, 1,
                                              token.planes, acc + r);
      }
      out[row + r] = sum_lanes(acc[r]) + offset_part<kBits>(m, own, params + r * padded, token);
    }
  }
}

template <class Dot, int kPlanes>
void int8_rows(const GemvRows& m, const GemvToken& token, float* out) {
  constexpr size_t kTokenBlock = kPlanes * kGemvBlock;
  const size_t whole = m.inputs / kGemvBlock, rest = m.inputs % kGemvBlock;
  const DotVec flip = hn::Set(DotTag(), static_cast<int32_t>(0x80808080U));
  for (size_t row = 0; row < m.rows; ++row) {
    const uint8_t* codes = m.codes + row * m.inputs;
    DotVec sums[kPlanes];
    for (auto& sum : sums) sum = hn::Zero(DotTag());
    const auto add = [&](const uint8_t* from, size_t block) {
      for (size_t part = 0; part < kGemvBlock; part += kLaneBytes) {
        const DotVec v = hn::Xor(load_quads(from + part), flip);  // v + 128, unsigned
        for (size_t p = 0; p < kPlanes; ++p) {
          const int8_t* x = token.planes + block * kTokenBlock + p * kGemvBlock + part;
          sums[p] = Dot::add(sums[p], v, load_quads(x));
        }
      }
    };
    for (size_t b = 0; b < whole; ++b) {
      hwy::Prefetch(codes + 4 * m.inputs + b * kGemvBlock);  // rows that come soon
      add(codes + b * kGemvBlock, b);
    }
    if (rest != 0) {
      uint8_t tail[kGemvBlock] = {};
      std::memcpy(tail, codes + whole * kGemvBlock, rest);
      add(tail, whole);
    }
    double total = 0;
    for (size_t p = 0; p < kPlanes; ++p) {
      total = total * 256 + hn::GetLane(hn::SumOfLanes(DotTag(), sums[p]));
    }
    out[row] = static_cast<float>(total - 128 * token.sum);
  }
}

template <class Dot, int kPlanes>
void run_planes(const GemvRows& m, const GemvToken& token, float* out) {
  if (m.params == nullptr) {
    int8_rows<Dot, kPlanes>(m, token, out);
  } else if (m.bits == 4) {
    two_level_rows<Dot, 4, kPlanes>(m, token, out);
  } else {
    two_level_rows<Dot, 2, kPlanes>(m, token, out);
  }
}

template <class Dot>
void run(const GemvRows& m, const GemvToken& token, int planes, float* out) {
  if (planes == 1) run_planes<Dot, 1>(m, token, out);
  if (planes == 2) run_planes<Dot, 2>(m, token, out);
  if (planes == 3) run_planes<Dot, 3>(m, token, out);
}

void Gemv(const GemvRows& m, const GemvToken& token, int planes, bool vnni, float* out) {
  vnni ? run<VnniDot>(m, token, planes, out) : run<PlainDot>(m, token, planes, out);
}

}  // namespace HWY_NAMESPACE
}  // namespace arrow_quant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace arrow_quant {
HWY_EXPORT(Gemv);

bool gemv_takes_group(int bits, size_t group) noexcept {
  const size_t lane = 4 * (8 / static_cast<size_t>(bits));  // codes of one 32-bit lane
  const size_t lanes = group / lane;
  // A shuffle reaches the 16 parameters behind the first lane's.
  return group % lane == 0 && (lanes & (lanes - 1)) == 0 && lanes <= 16;
}

void gemv_packed(const GemvRows& rows, const GemvToken& token, int planes, float* out) noexcept {
  HWY_DYNAMIC_DISPATCH(Gemv)(rows, token, planes, has_dot_products(), out);
}

}  // namespace arrow_quant
#endif  // HWY_ONCE
