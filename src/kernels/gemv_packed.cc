#include "kernels/gemv_packed.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "codec/packed_codes.h"
#include "codec/two_level.h"
#include "kernels/isa.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gemv_packed.cc"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/highway.h"

#include "kernels/dot_int8.h"

HWY_BEFORE_NAMESPACE();
namespace arrow_quant {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DotFloat = hn::Rebind<float, DotTag>;
using FloatVec = hn::Vec<DotFloat>;
constexpr size_t kLanes = hn::MaxLanes(DotTag());
constexpr size_t kLaneBytes = kGemvLane * kLanes;
// As many as their codes, sums and results fit the registers.
constexpr size_t kRowsAtATime = kLanes == 16 ? 4 : 2;
namespace two_level = codec::two_level;
using two_level::kMaxV;

constexpr size_t kAhead = 8192;  // bytes; more than memory delivers while it is waited for

/// Room for whole vectors behind the parameters of a row.
constexpr size_t kSlack = 64;

/// An address that may lie past the end of what it is reckoned from.
HWY_INLINE const void* place(const uint8_t* from, size_t ahead) {
  // NOLINTNEXTLINE(performance-no-int-to-ptr): nothing is read there
  return reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(from) + ahead);
}

/// Into the second-level cache: rows are too short for the prefetcher of the CPU, and the first
/// level has too few misses in flight for the bandwidth of memory.
HWY_INLINE void fetch_soon(const uint8_t* from, size_t ahead) {
  __builtin_prefetch(place(from, ahead), 0, 2);
}
/// From there into the first level.
HWY_INLINE void fetch_now(const uint8_t* from, size_t ahead) {
  __builtin_prefetch(place(from, ahead), 0, 3);
}

HWY_INLINE float sum_lanes(FloatVec v) { return hn::GetLane(hn::SumOfLanes(DotFloat(), v)); }

#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4
/// q of the sub-group that each lane of a vector lies in, for groups of 1, 2, 4, ... lanes, by one
/// byte shuffle.
class LaneScales {
 public:
  explicit LaneScales(size_t lanes_per_group)
      : shift_(static_cast<unsigned>(std::countr_zero(lanes_per_group))) {
    HWY_ALIGN uint8_t control[hn::MaxLanes(D8())];
    for (size_t i = 0; i < kLanes; ++i) {
      control[4 * i] = static_cast<uint8_t>(i / lanes_per_group);
      for (size_t j = 1; j < 4; ++j) control[4 * i + j] = 0x80;  // makes a zero
    }
    control_ = hn::Load(D8(), control);
#if HWY_TARGET == HWY_AVX3
    HWY_ALIGN float table[kLanes];
    for (size_t i = 0; i < kLanes; ++i) table[i] = static_cast<float>(i + two_level::kMinQ);
    table_ = hn::Load(DotFloat(), table);
#endif
  }
  HWY_INLINE FloatVec operator()(const uint8_t* params, size_t lane) const {
    const auto bytes = hn::LoadDup128(D8(), params + (lane >> shift_));
    const auto spread = hn::BitCast(DotTag(), hn::TableLookupBytesOr0(bytes, control_));
#if HWY_TARGET == HWY_AVX3
    // The lowest four bits choose.
    return FloatVec{_mm512_maskz_permutexvar_ps(__mmask16{0xFFFF}, spread.raw, table_.raw)};
#else
    const DotTag d;
    const auto low = hn::And(spread, hn::Set(d, two_level::kFieldMask));
    return hn::ConvertTo(DotFloat(), hn::Add(low, hn::Set(d, two_level::kMinQ)));
#endif
  }

 private:
  using D8 = hn::Repartition<uint8_t, DotTag>;
  unsigned shift_;  // of a lane's number to its group's
  hn::Vec<D8> control_;
#if HWY_TARGET == HWY_AVX3
  FloatVec table_;
#endif
};
#else
class LaneScales {
 public:
  explicit LaneScales(size_t lanes_per_group) : lanes_per_group_(lanes_per_group) {}
  HWY_INLINE FloatVec operator()(const uint8_t* params, size_t lane) const {
    HWY_ALIGN float q[kLanes];
    for (size_t i = 0; i < kLanes; ++i) {
      const size_t group = (lane + i) / lanes_per_group_;
      q[i] = static_cast<float>(two_level::decode(params[group]).q);
    }
    return hn::Load(DotFloat(), q);
  }

 private:
  size_t lanes_per_group_;
};
#endif

/// Codes of one phase of packed bytes.
template <int kBits, int kPhase>
HWY_INLINE DotVec phase_codes(DotVec packed) {
  const DotVec mask = hn::Set(DotTag(), 0x01010101 * int32_t{codec::code_mask(kBits)});
  return hn::And(kPhase == 0 ? packed : hn::ShiftRight<kBits * kPhase>(packed), mask);
}

/// Sums of codes times x of the lanes of some packed bytes of kRows rows; `x` are the token's bytes
/// there. A byte limb counts 256 times the next: the sum so far moves up by 8 bits before each,
/// which fits, as 8 codes of 4 bits times 127 * 2^16 do.
template <class Dot, int kBits, int kPlanes, size_t kRows>
HWY_INLINE void multiply_lanes(const DotVec* packed, const int8_t* x, DotVec* sums) {
  constexpr size_t kPhases = 8 / kBits;
  DotVec codes[kPhases][kRows];
  for (size_t r = 0; r < kRows; ++r) {
    codes[0][r] = phase_codes<kBits, 0>(packed[r]);
    codes[1][r] = phase_codes<kBits, 1>(packed[r]);
    if constexpr (kPhases == 4) {
      codes[2][r] = phase_codes<kBits, 2>(packed[r]);
      codes[3][r] = phase_codes<kBits, 3>(packed[r]);
    }
    sums[r] = hn::Zero(DotTag());
  }
  for (size_t p = 0; p < kPlanes; ++p) {
    for (size_t r = 0; r < kRows && p > 0; ++r) sums[r] = hn::ShiftLeft<8>(sums[r]);
    for (size_t phase = 0; phase < kPhases; ++phase) {
      const DotVec v = load_quads(x + (p * kPhases + phase) * kGemvBlock);
      for (size_t r = 0; r < kRows; ++r) sums[r] = Dot::add(sums[r], codes[phase][r], v);
    }
  }
}

/// Blocks [first, first + count) of kRows packed rows, `stride` bytes apart: sums of q * x * code
/// are added to `rows`. `codes` are those of block `first`, of which whole blocks may be read.
template <class Dot, int kBits, int kPlanes, size_t kRows>
HWY_INLINE void multiply_rows(const uint8_t* codes, size_t stride, const uint8_t* params,
                              size_t param_stride, const LaneScales& scales, size_t first,
                              size_t count, const GemvToken& token, FloatVec* rows) {
  constexpr size_t kTokenBlock = static_cast<size_t>(8 / kBits) * kPlanes * kGemvBlock;
  FloatVec acc[kRows];  // in registers, which `rows` could not be
  for (size_t r = 0; r < kRows; ++r) acc[r] = rows[r];
  for (size_t b = first; b < first + count; ++b, codes += kGemvBlock) {
    for (size_t part = 0; part < kGemvBlock; part += kLaneBytes) {
      DotVec packed[kRows], sums[kRows];
      for (size_t r = 0; r < kRows; ++r) {
        packed[r] = load_quads(codes + r * stride + part);
        if (part == 0) {
          fetch_soon(codes, (r + kRows) * stride);  // of the rows that come next
          fetch_now(codes, r * stride + 4 * kGemvBlock);
        }
      }
      multiply_lanes<Dot, kBits, kPlanes, kRows>(packed, token.planes + b * kTokenBlock + part,
                                                 sums);
      const size_t lane = (b * kGemvBlock + part) / kGemvLane;
      for (size_t r = 0; r < kRows; ++r) {
        const FloatVec q = scales(params + r * param_stride, lane);
        acc[r] = hn::MulAdd(hn::ConvertTo(DotFloat(), sums[r]), q, acc[r]);
      }
    }
  }
  for (size_t r = 0; r < kRows; ++r) rows[r] = acc[r];
}

/// The sums of the byte limbs of sub-groups as one number per lane.
HWY_INLINE FloatVec join_groups(const DotVec* planes) {
  const DotFloat d;
  auto value = hn::ConvertTo(d, planes[0]);
  for (size_t p = 1; p < kGroupPlanes; ++p) {
    value = hn::MulAdd(value, hn::Set(d, 256.0F), hn::ConvertTo(d, planes[p]));
  }
  return value;
}

/// sums = m * sum X (z + 8) - 2^(b-1) * sum X (q - 1), X the sums of x over sub-groups, of kRows
/// rows whose parameters are `stride` bytes apart: z + 8 and q - 1 are the halves of the bytes, of
/// which whole vectors are read.
template <class Dot, int kBits, size_t kRows>
HWY_INLINE void offset_part(const uint8_t* params, size_t stride, int offset_unit,
                            const GemvToken& token, FloatVec* sums) {
  const DotTag d;
  const DotFloat df;
  constexpr int32_t kFields = 0x01010101 * two_level::kFieldMask;
  const DotVec mask = hn::Set(d, kFields);
  DotVec by_z[kRows][kGroupPlanes], by_q[kRows][kGroupPlanes];
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t p = 0; p < kGroupPlanes; ++p) by_z[r][p] = by_q[r][p] = hn::Zero(d);
  }
  for (size_t g = 0; g < stride; g += kLaneBytes) {
    DotVec z[kRows], q[kRows];
    for (size_t r = 0; r < kRows; ++r) {
      const DotVec bytes = load_quads(params + r * stride + g);
      z[r] = hn::And(hn::ShiftRight<two_level::kFieldBits>(bytes), mask);
      q[r] = hn::And(bytes, mask);
    }
    for (size_t p = 0; p < kGroupPlanes; ++p) {
      const DotVec x = load_quads(token.group_planes + p * token.group_stride + g);
      for (size_t r = 0; r < kRows; ++r) {
        by_z[r][p] = Dot::add(by_z[r][p], z[r], x);
        by_q[r][p] = Dot::add(by_q[r][p], q[r], x);
      }
    }
  }
  const auto unit = hn::Set(df, static_cast<float>(offset_unit));
  const auto half = hn::Set(df, static_cast<float>(-two_level::middle_code(kBits)));
  for (size_t r = 0; r < kRows; ++r) {
    sums[r] = hn::MulAdd(join_groups(by_z[r]), unit, hn::Mul(join_groups(by_q[r]), half));
  }
}

/// Finds sub-groups in which v can lie beyond +-127 before it is clamped.
template <int kBits>
class ClampFinder {
 public:
  explicit ClampFinder(int offset_unit) : unit_(offset_unit) {
    for (int z = two_level::kMinZ; z <= two_level::kMaxZ; ++z) {
      shifts_[z - two_level::kMinZ] = static_cast<int8_t>(std::clamp(offset_unit * z, -128, 127));
    }
    for (int q = two_level::kMinQ; q <= two_level::kMaxQ; ++q) {
      above_[q - two_level::kMinQ] = static_cast<int8_t>(kTop * q - 1);
      below_[q - two_level::kMinQ] = static_cast<int8_t>(kHalf * q - 1);
    }
  }

  /// Calls visit(group) for those of `groups` parameter bytes, with kSlack more behind them.
  template <class Visit>
  HWY_INLINE void each(const uint8_t* params, size_t groups, const Visit& visit) const {
    for (size_t g = 0; g < groups; g += kStep) {
      for (uint64_t found = find(params + g); found != 0; found &= found - 1) {
        const size_t i = g + static_cast<size_t>(std::countr_zero(found));
        if (i < groups) visit(i);
      }
    }
  }

 private:
  static constexpr int kHalf = two_level::middle_code(kBits), kTop = kHalf - 1;

#if HWY_TARGET == HWY_SCALAR
  static constexpr size_t kStep = 1;

  uint64_t find(const uint8_t* param) const {
    const two_level::Param numbers = two_level::decode(*param);
    const int shift = unit_ * numbers.z;
    return shift + kTop * numbers.q > kMaxV || shift - kHalf * numbers.q < -kMaxV ? 1 : 0;
  }

 public:
  bool any(const uint8_t* params, size_t count) const {
    return std::any_of(params, params + count, [this](const uint8_t& p) { return find(&p) != 0; });
  }

 private:
#else
  using DI8 = hn::CappedTag<int8_t, 64>;
  using VI8 = hn::Vec<DI8>;
  static constexpr size_t kStep = hn::MaxLanes(DI8());

  /// The ends of the range of v, by sums that saturate: m z + top q - 1 is 127 only if m z + top q
  /// is more, and so below.
  HWY_INLINE void ends(const uint8_t* params, VI8& top, VI8& bottom) const {
    const DI8 d;
    const hn::RebindToUnsigned<DI8> du;
    const hn::Repartition<uint16_t, DI8> d16;
    const auto nibble = hn::Set(du, uint8_t{two_level::kFieldMask});
    const auto bytes = hn::LoadU(du, params);
    const auto low = hn::And(bytes, nibble);
    const auto high = hn::And(
        hn::BitCast(du, hn::ShiftRight<two_level::kFieldBits>(hn::BitCast(d16, bytes))), nibble);
    const auto look = [&](const int8_t* table, hn::Vec<decltype(du)> index) {
      return hn::TableLookupBytes(hn::LoadDup128(d, table), hn::BitCast(d, index));
    };
    const auto shift = look(shifts_, high);
    top = hn::SaturatedAdd(shift, look(above_, low));
    bottom = hn::SaturatedSub(shift, look(below_, low));
  }

  static HWY_INLINE hn::Mask<DI8> beyond(VI8 top, VI8 bottom) {
    const DI8 d;
    return hn::Or(hn::Eq(top, hn::Set(d, int8_t{127})), hn::Lt(bottom, hn::Set(d, int8_t{-126})));
  }

  /// A bit for each of kStep parameters.
  HWY_INLINE uint64_t find(const uint8_t* params) const {
    VI8 top, bottom;
    ends(params, top, bottom);
    uint8_t bits[8] = {};
    hn::StoreMaskBits(DI8(), beyond(top, bottom), bits);
    uint64_t found;
    std::memcpy(&found, bits, sizeof(found));
    return found;
  }

 public:
  /// Whether there is one among `count` parameter bytes and what follows them up to a whole vector.
  HWY_INLINE bool any(const uint8_t* params, size_t count) const {
    const DI8 d;
    auto highest = hn::Zero(d), lowest = hn::Zero(d);
    for (size_t i = 0; i < count; i += kStep) {
      VI8 top, bottom;
      ends(params + i, top, bottom);
      highest = hn::Max(highest, top);
      lowest = hn::Min(lowest, bottom);
    }
    return !hn::AllFalse(d, beyond(highest, lowest));
  }

 private:
#endif

  int unit_;
  HWY_ALIGN int8_t shifts_[16], above_[16], below_[16];
};

/// What clamping changes in `bytes` packed bytes from byte `first` of a row on, which share q and
/// base: sum x (clamp(v) - v), v = q * code + base.
template <int kBits, int kPlanes>
float clamped_part(const GemvToken& token, const uint8_t* codes, size_t first, size_t bytes, int q,
                   int base) {
  constexpr size_t kPhases = 8 / kBits;
  double change = 0;
  for (size_t j = first; j < first + bytes; ++j) {
    const size_t block = j / kGemvBlock, byte = j % kGemvBlock;
    for (size_t phase = 0; phase < kPhases; ++phase) {
      const int v = q * (codes[j] >> (kBits * phase) & codec::code_mask(kBits)) + base;
      const int moved = std::clamp(v, -kMaxV, kMaxV) - v;
      if (moved == 0) continue;
      int x = 0;
      for (size_t p = 0; p < kPlanes; ++p) {
        x = x * 256 + token.planes[((block * kPlanes + p) * kPhases + phase) * kGemvBlock + byte];
      }
      change += static_cast<double>(x) * moved;
    }
  }
  return static_cast<float>(change);
}

/// What two_level_rows knows about all rows.
template <int kBits>
struct RowLayout {
  explicit RowLayout(const GemvRows& m)
      : row_bytes((m.inputs * kBits + 7) / 8),
        groups((m.inputs + m.group - 1) / m.group),
        group_bytes(m.group * kBits / 8) {}

  size_t row_bytes, groups, group_bytes;
};

/// The sum that clamping adds to that of a row.
template <int kBits, int kPlanes>
HWY_NOINLINE float clamped_row(const GemvRows& m, const RowLayout<kBits>& layout,
                               const ClampFinder<kBits>& clamps, const GemvToken& token,
                               const uint8_t* codes, const uint8_t* params) {
  float sum = 0;
  clamps.each(params, layout.groups, [&](size_t g) {
    const two_level::Param param = two_level::decode(params[g]);
    const int base = two_level::base(param, kBits, m.offset_unit);
    const size_t first = g * layout.group_bytes;
    const size_t bytes = std::min(layout.group_bytes, layout.row_bytes - first);
    sum += clamped_part<kBits, kPlanes>(token, codes, first, bytes, param.q, base);
  });
  return sum;
}

/// kRows rows from `codes` on, whose parameters begin `layout.groups` apart, kSlack more behind
/// them.
template <class Dot, int kBits, int kPlanes, size_t kRows>
HWY_INLINE void two_level_block(const GemvRows& m, const RowLayout<kBits>& layout,
                                const LaneScales& scales, const ClampFinder<kBits>& clamps,
                                const GemvToken& token, const uint8_t* codes, const uint8_t* params,
                                float* out) {
  const size_t row_bytes = layout.row_bytes, whole = row_bytes / kGemvBlock;
  for (size_t i = 0; i < kRows * layout.groups; i += kGemvBlock) {
    fetch_soon(params, kRows * layout.groups + i);
  }
  FloatVec sums[kRows];
  constexpr size_t kTogether = kRows % 2 == 0 && kLanes == 16 ? 2 : 1;  // so many fit the registers
  for (size_t r = 0; r < kRows; r += kTogether) {
    offset_part<Dot, kBits, kTogether>(params + r * layout.groups, layout.groups, m.offset_unit,
                                       token, sums + r);
  }
  multiply_rows<Dot, kBits, kPlanes, kRows>(codes, row_bytes, params, layout.groups, scales, 0,
                                            whole, token, sums);
  if (whole * kGemvBlock < row_bytes) {
    for (size_t r = 0; r < kRows; ++r) {
      uint8_t tail[kGemvBlock] = {};
      std::memcpy(tail, codes + r * row_bytes + whole * kGemvBlock, row_bytes - whole * kGemvBlock);
      multiply_rows<Dot, kBits, kPlanes, 1>(tail, 0, params + r * layout.groups, 0, scales, whole,
                                            1, token, sums + r);
    }
  }
  // What the halves of the parameters have more than z and less than q.
  const double rest = token.sum * (-two_level::kMinZ * m.offset_unit +
                                   two_level::kMinQ * two_level::middle_code(kBits));
  for (size_t r = 0; r < kRows; ++r) {
    out[r] = static_cast<float>(static_cast<double>(sum_lanes(sums[r])) - rest);
  }
  if (HWY_LIKELY(!clamps.any(params, kRows * layout.groups))) return;
  for (size_t r = 0; r < kRows; ++r) {
    out[r] += clamped_row<kBits, kPlanes>(m, layout, clamps, token, codes + r * row_bytes,
                                          params + r * layout.groups);
  }
}

template <class Dot, int kBits, int kPlanes>
void two_level_rows(const GemvRows& m, const GemvToken& token, float* out) {
  const RowLayout<kBits> layout(m);
  const LaneScales scales(layout.group_bytes / kGemvLane);
  const ClampFinder<kBits> clamps(m.offset_unit);
  // Vectors reach beyond the parameters of a row, in the last rows beyond all of them.
  static thread_local std::vector<uint8_t> last;
  const size_t reach = (kSlack + layout.groups - 1) / layout.groups + kRowsAtATime;
  const size_t direct = m.rows > reach ? m.rows - reach : 0;
  last.assign((m.rows - direct) * layout.groups + kSlack, two_level::encode({}));  // z = 0
  std::memcpy(last.data(), m.params + direct * layout.groups, (m.rows - direct) * layout.groups);
  for (size_t row = 0; row < m.rows;) {
    const uint8_t* params = row < direct ? m.params + row * layout.groups
                                         : last.data() + (row - direct) * layout.groups;
    const uint8_t* codes = m.codes + row * layout.row_bytes;
    if (row + kRowsAtATime <= m.rows) {
      two_level_block<Dot, kBits, kPlanes, kRowsAtATime>(m, layout, scales, clamps, token, codes,
                                                         params, out + row);
      row += kRowsAtATime;
    } else {
      two_level_block<Dot, kBits, kPlanes, 1>(m, layout, scales, clamps, token, codes, params,
                                              out + row);
      ++row;
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
      fetch_soon(codes, b * kGemvBlock + kAhead);
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

void Gemv(const GemvRows& m, const GemvToken& token, int planes, ByteProducts products,
          float* out) {
  with_dot(products, [&](auto dot) { run<decltype(dot)>(m, token, planes, out); });
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
  ARROW_QUANT_DISPATCH(Gemv)(rows, token, planes, byte_products(), out);
}

}  // namespace arrow_quant
#endif  // HWY_ONCE
