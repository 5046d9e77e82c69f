#include "kernels/expand_panel.h"

#include <algorithm>
#include <cstring>

#include "codec/residual_binary.h"
#include "codec/two_level.h"
#include "kernels/isa.h"
#include "kernels/targets.h"
#include "kernels/unpack.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/expand_panel.cc"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace arrow_quant {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR
// No vectors of 16-bit lanes within 32-bit ones here: row by row, then into the panel.
void ExpandPanel(const PackedPanel& from, const uint8_t*, const uint8_t*, const int16_t*,
                 uint8_t* panel) {
  constexpr size_t kPart = 256;
  int8_t row[kPart];
  for (size_t o = 0; o < from.outputs; ++o) {
    const uint8_t* codes = from.codes + o * from.code_stride;
    const uint8_t* params = from.params + o * from.param_stride;
    // In parts of whole sub-groups; a long sub-group is taken in parts of its own.
    const size_t part = from.group > kPart ? kPart : kPart / from.group * from.group;
    for (size_t begin = 0, n; begin < from.inputs; begin += n) {
      const size_t left = from.group > kPart ? from.group - begin % from.group : part;
      n = std::min({part, left, from.inputs - begin});
      const uint8_t* own = codes + begin * static_cast<size_t>(from.bits) / 8;
      if (from.offset_units == nullptr) {
        expand_residual_binary(own, n, params + begin / from.group, from.group, row);
      } else {
        expand_two_level(from.bits, own, n, params + begin / from.group, from.offset_units[o],
                         from.group, row);
      }
      for (size_t i = 0; i < n; ++i) {
        const size_t at = begin + i;
        panel[(at / 4 * kPanelColumns + o) * 4 + at % 4] =
            static_cast<uint8_t>(row[i] + kPanelBias);
      }
    }
  }
}
#else

using D32 = hn::CappedTag<uint32_t, 16>;
using D16 = hn::Repartition<int16_t, D32>;
using V32 = hn::Vec<D32>;
using V16 = hn::Vec<D16>;
constexpr size_t kLanes = hn::MaxLanes(D32());

/// A number below 2^16 in every lane, in both halves of it.
HWY_INLINE V16 both_halves(V32 v) { return hn::BitCast(D16(), hn::Or(v, hn::ShiftLeft<16>(v))); }

namespace two_level = codec::two_level;
namespace residual = codec::residual_binary;
static_assert(two_level::kFieldBits == residual::kFieldBits);

/// The two fields of a parameter byte in every lane.
HWY_INLINE V32 low_field(V32 params) {
  return hn::And(params, hn::Set(D32(), uint32_t{two_level::kFieldMask}));
}
HWY_INLINE V32 high_field(V32 params) {
  return low_field(hn::ShiftRight<two_level::kFieldBits>(params));
}

/// v + 128 = q * code + (m z - 2^(b-1) q + 128), within [1, 255]; each lane its own q, z and m.
template <int kBits>
class AffineLanes {
 public:
  AffineLanes(V32 params, V16 units) {
    const D16 d;
    q_ = hn::Add(both_halves(low_field(params)), hn::Set(d, int16_t{two_level::kMinQ}));
    const V16 z = hn::Add(both_halves(high_field(params)), hn::Set(d, int16_t{two_level::kMinZ}));
    base_ = hn::Sub(hn::Add(hn::Mul(z, units), hn::Set(d, int16_t{kPanelBias})),
                    hn::ShiftLeft<kBits - 1>(q_));
  }
  HWY_INLINE V16 operator()(V16 codes) const {
    const D16 d;
    const V16 v = hn::Add(hn::Mul(codes, q_), base_);
    return hn::Min(hn::Max(v, hn::Set(d, int16_t{kPanelBias - two_level::kMaxV})),
                   hn::Set(d, int16_t{kPanelBias + two_level::kMaxV}));
  }

 private:
  V16 q_, base_;
};

/// v + 128 = 2 q1 bit0 + 2 q2 bit1 - q1 - q2 + 128.
class ResidualLanes {
 public:
  ResidualLanes(V32 params, V16) {
    const D16 d;
    const V16 q1 = hn::Add(both_halves(low_field(params)), hn::Set(d, int16_t{residual::kMinQ1}));
    q2_ = both_halves(high_field(params));
    static_assert(residual::kMinQ2 == 0);
    twice_q1_ = hn::Add(q1, q1);
    base_ = hn::Sub(hn::Set(d, int16_t{kPanelBias}), hn::Add(q1, q2_));
  }
  HWY_INLINE V16 operator()(V16 codes) const {
    const D16 d;
    const V16 outer = hn::Mul(hn::And(codes, hn::Set(d, int16_t{residual::kFirstBit})), twice_q1_);
    const V16 inner =
        hn::Mul(hn::And(codes, hn::Set(d, int16_t{residual::kSecondBit})), q2_);  // bit 1 counts 2
    return hn::Add(hn::Add(outer, inner), base_);
  }

 private:
  V16 twice_q1_, q2_, base_;
};

/// The next two codes of both halves of every lane, side by side as bytes.
template <int kBits, class Lanes>
HWY_INLINE V32 two_codes(V32& packed, const Lanes& lanes) {
  constexpr uint32_t kMask = ((1U << kBits) - 1) * 0x10001U;
  const V32 mask = hn::Set(D32(), kMask);
  const V16 first = lanes(hn::BitCast(D16(), hn::And(packed, mask)));
  packed = hn::ShiftRight<kBits>(packed);
  const V16 second = lanes(hn::BitCast(D16(), hn::And(packed, mask)));
  packed = hn::ShiftRight<kBits>(packed);
  return hn::Or(hn::BitCast(D32(), first), hn::BitCast(D32(), hn::ShiftLeft<8>(second)));
}

/// Four packed bytes of every lane, into quads of one output `kPanelColumns` quads apart.
template <int kBits, class Lanes>
HWY_INLINE void expand_quad(V32 packed, const Lanes& lanes, uint8_t* HWY_RESTRICT to) {
  constexpr size_t kHalf = 4 / kBits;  // quads that each half of a lane makes
  const D32 d;
  const hn::Repartition<uint8_t, D32> d8;
  const V32 low = hn::Set(d, 0xFFFFU);
  for (size_t k = 0; k < kHalf; ++k) {
    const V32 a = two_codes<kBits>(packed, lanes), b = two_codes<kBits>(packed, lanes);
    const V32 lower = hn::Or(hn::And(a, low), hn::ShiftLeft<16>(b));
    const V32 upper = hn::Or(hn::ShiftRight<16>(a), hn::AndNot(low, b));
    hn::StoreU(hn::BitCast(d8, lower), d8, to + k * kPanelColumns * 4);
    hn::StoreU(hn::BitCast(d8, upper), d8, to + (k + kHalf) * kPanelColumns * 4);
  }
}

template <int kBits, class Lanes>
void expand_all(const PackedPanel& from, const uint8_t* HWY_RESTRICT codes,
                const uint8_t* HWY_RESTRICT params, const int16_t* HWY_RESTRICT units,
                uint8_t* HWY_RESTRICT panel) {
  constexpr size_t kCodes = 32 / kBits;  // of a lane
  constexpr size_t kRow = 4 * kPanelColumns;
  const D32 d;
  const hn::Repartition<uint8_t, D32> d8;
  const auto load = [&](const uint8_t* at) { return hn::BitCast(d, hn::LoadU(d8, at)); };
  const size_t lanes_of_codes = (from.inputs + kCodes - 1) / kCodes;
  const size_t per_group = from.group / kCodes;
  for (size_t begin = 0, group = 0; begin < lanes_of_codes; begin += per_group, ++group) {
    const size_t end = std::min(begin + per_group, lanes_of_codes);
    for (size_t o = 0; o < kPanelColumns; o += kLanes) {
      const V32 four = load(params + group / 4 * kRow + 4 * o);
      const V32 own = hn::ShiftRightSame(four, static_cast<int>(group % 4 * 8));
      const Lanes lanes(own,
                        hn::BitCast(D16(), load(reinterpret_cast<const uint8_t*>(units + 2 * o))));
      for (size_t k = begin; k < end; ++k) {
        expand_quad<kBits>(load(codes + k * kRow + 4 * o), lanes,
                           panel + k * (kCodes / 4) * kRow + 4 * o);
      }
    }
  }
}

/// `codes`, `params`: as fill_panel_codes leaves them; `units`: twice for every output.
void ExpandPanel(const PackedPanel& from, const uint8_t* codes, const uint8_t* params,
                 const int16_t* units, uint8_t* panel) {
  if (from.offset_units == nullptr) {
    expand_all<2, ResidualLanes>(from, codes, params, units, panel);
  } else if (from.bits == 4) {
    expand_all<4, AffineLanes<4> >(from, codes, params, units, panel);
  } else {
    expand_all<2, AffineLanes<2> >(from, codes, params, units, panel);
  }
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace arrow_quant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace arrow_quant {
HWY_EXPORT(ExpandPanel);

void expand_panel(const PackedPanel& from, uint8_t* scratch, uint8_t* panel) noexcept {
  const size_t bytes = (from.inputs * static_cast<size_t>(from.bits) + 7) / 8;
  const size_t groups = (from.inputs + from.group - 1) / from.group;
  uint8_t* params = scratch + panel_bytes(bytes);
  fill_panel_codes(from.codes, from.code_stride, from.outputs, bytes, scratch);
  fill_panel_codes(from.params, from.param_stride, from.outputs, groups, params);
  int16_t units[2 * kPanelColumns] = {};
  if (from.offset_units != nullptr) {
    for (size_t o = 0; o < from.outputs; ++o) {
      std::fill_n(units + 2 * o, 2, int16_t{from.offset_units[o]});
    }
  }
  ARROW_QUANT_DISPATCH(ExpandPanel)(from, scratch, params, units, panel);
}

}  // namespace arrow_quant
#endif  // HWY_ONCE
