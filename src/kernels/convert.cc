#include "kernels/convert.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/half.h"
#include "kernels/isa.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/convert.cc"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace arrow_quant {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using DU = hn::RebindToUnsigned<DF>;
using VF = hn::Vec<DF>;
using VU = hn::Vec<DU>;

// F16C on x86 and the Arm equivalent convert every code exactly and quietly; without them Highway
// emulates, but not the special values.
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_ARCH_ARM_A64
#define ARROW_QUANT_NATIVE_F16 1
#else
#define ARROW_QUANT_NATIVE_F16 0
#endif

/// A short format: bits, significand, exponent bias, and which codes (sign removed) are special.
template <typename Code, int kMantissa, int kBias, uint32_t kInfinity, uint32_t kFirstNan,
          bool kNegativeZeroIsNan>
struct Format {
  /// Integer arithmetic except for one exact product, so flush-to-zero settings do not matter.
  static HWY_INLINE VF decode(DU du, VU code) {
    const DF df;
    constexpr int kSignShift = 32 - 8 * static_cast<int>(sizeof(Code));
    const VU sign = hn::And(hn::ShiftLeft<kSignShift>(code), hn::Set(du, 0x80000000U));
    const VU magnitude = hn::And(code, hn::Set(du, (1U << (8 * sizeof(Code) - 1)) - 1));
    const VU normal = hn::Add(hn::ShiftLeft<23 - kMantissa>(magnitude),
                              hn::Set(du, static_cast<uint32_t>(127 - kBias) << 23));
    const VF subnormal =
        hn::Mul(hn::ConvertTo(df, hn::BitCast(hn::RebindToSigned<DF>(), magnitude)),
                hn::Set(df, half_detail::exp2i(1 - kBias - kMantissa)));
    VU bits = hn::IfThenElse(hn::Lt(magnitude, hn::Set(du, 1U << kMantissa)),
                             hn::BitCast(du, subnormal), normal);
    if (kInfinity != 0) {
      bits =
          hn::IfThenElse(hn::Eq(magnitude, hn::Set(du, kInfinity)), hn::Set(du, 0x7F800000U), bits);
    }
    bits = hn::IfThenElse(hn::Gt(magnitude, hn::Set(du, kFirstNan - 1)), hn::Set(du, 0x7FC00000U),
                          bits);
    if (kNegativeZeroIsNan) {
      bits = hn::IfThenElse(hn::Eq(code, hn::Set(du, 1U << (8 * sizeof(Code) - 1))),
                            hn::Set(du, 0x7FC00000U), bits);
    }
    return hn::BitCast(df, hn::Or(bits, sign));
  }

  static HWY_INLINE VF load(const Code* HWY_RESTRICT source) {
    const hn::Rebind<Code, DF> dn;
    const DU du;
    return decode(du, hn::PromoteTo(du, hn::LoadU(dn, source)));
  }
};

#if ARROW_QUANT_NATIVE_F16
struct F16 {
  static HWY_INLINE VF load(const uint16_t* HWY_RESTRICT source) {
    const hn::Rebind<hwy::float16_t, DF> dh;
    const hn::Rebind<uint16_t, DF> dn;
    return hn::PromoteTo(DF(), hn::BitCast(dh, hn::LoadU(dn, source)));
  }
};
#else
using F16 = Format<uint16_t, 10, 15, 0x7C00, 0x7C01, false>;
#endif
using F8E4M3 = Format<uint8_t, 3, 7, 0, 0x7F, false>;
using F8E5M2 = Format<uint8_t, 2, 15, 0x7C, 0x7D, false>;
using F8E4M3FNUZ = Format<uint8_t, 3, 8, 0, 0x80, true>;
using F8E5M2FNUZ = Format<uint8_t, 2, 16, 0, 0x80, true>;

struct BF16 {
  static HWY_INLINE VF load(const uint16_t* HWY_RESTRICT source) {
    const hn::Rebind<uint16_t, DF> dn;
    const DU du;
    return hn::BitCast(DF(), hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(dn, source))));
  }
};

struct F32 {
  static HWY_INLINE VF load(const float* HWY_RESTRICT source) { return hn::LoadU(DF(), source); }
};

/// The largest bits of |value| so far: at or above those of infinity means not finite.
HWY_INLINE VU worst(VU seen, VF value) {
  const DU du;
  return hn::Max(seen, hn::BitCast(du, hn::Abs(value)));
}

template <class Source, typename Bits>
bool ToF32(const void* source, size_t count, float* HWY_RESTRICT out) {
  const DF df;
  const DU du;
  const size_t lanes = hn::Lanes(df);
  const uint8_t* bytes = static_cast<const uint8_t*>(source);
  VU seen0 = hn::Zero(du), seen1 = hn::Zero(du);
  size_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    const Bits* from = reinterpret_cast<const Bits*>(bytes + i * sizeof(Bits));
    const VF v0 = Source::load(from);
    const VF v1 = Source::load(from + lanes);
    seen0 = worst(seen0, v0);
    seen1 = worst(seen1, v1);
    hn::StoreU(v0, df, out + i);
    hn::StoreU(v1, df, out + i + lanes);
  }
  HWY_ALIGN Bits tail[hn::MaxLanes(df)] = {};
  HWY_ALIGN float tail_out[hn::MaxLanes(df)];
  for (; i < count; i += lanes) {
    const size_t n = std::min(lanes, count - i);
    std::memcpy(tail, bytes + i * sizeof(Bits), n * sizeof(Bits));
    std::fill(tail + n, tail + lanes, Bits());
    const VF v = Source::load(tail);
    seen0 = worst(seen0, v);
    hn::Store(v, df, tail_out);
    std::memcpy(out + i, tail_out, n * sizeof(float));
  }
  const VU top = hn::MaxOfLanes(du, hn::Max(seen0, seen1));
  return hn::GetLane(top) < 0x7F800000U;
}

bool F64ToF32(const void* source, size_t count, float* HWY_RESTRICT out) {
  const uint8_t* bytes = static_cast<const uint8_t*>(source);
  bool finite = true;
  for (size_t i = 0; i < count; ++i) {
    double value;
    std::memcpy(&value, bytes + i * sizeof(double), sizeof(double));
    // Nearest-even gives infinity from here on: halfway between the largest f32 and 2^128.
    const bool fits = std::abs(value) < 0x1.ffffffp127;
    const double special = std::isnan(value) ? value : std::copysign(HUGE_VAL, value);
    out[i] = static_cast<float>(fits ? value : special);
    finite &= fits;
  }
  return finite;
}

bool ConvertToF32(DType dtype, const void* source, size_t count, float* HWY_RESTRICT out) {
  switch (dtype) {
    case DType::kF64:
      return F64ToF32(source, count, out);
    case DType::kF32:
      return ToF32<F32, float>(source, count, out);
    case DType::kF16:
      return ToF32<F16, uint16_t>(source, count, out);
    case DType::kBF16:
      return ToF32<BF16, uint16_t>(source, count, out);
    case DType::kF8E4M3:
      return ToF32<F8E4M3, uint8_t>(source, count, out);
    case DType::kF8E5M2:
      return ToF32<F8E5M2, uint8_t>(source, count, out);
    case DType::kF8E4M3FNUZ:
      return ToF32<F8E4M3FNUZ, uint8_t>(source, count, out);
    case DType::kF8E5M2FNUZ:
      return ToF32<F8E5M2FNUZ, uint8_t>(source, count, out);
    default:
      return false;
  }
}

void ConvertF32ToF16(const float* HWY_RESTRICT values, size_t count, uint16_t* HWY_RESTRICT out) {
  size_t i = 0;
#if ARROW_QUANT_NATIVE_F16
  const DF df;
  const hn::Rebind<hwy::float16_t, DF> dh;
  const hn::Rebind<uint16_t, DF> dn;
  for (; i + hn::Lanes(df) <= count; i += hn::Lanes(df)) {
    hn::StoreU(hn::BitCast(dn, hn::DemoteTo(dh, hn::LoadU(df, values + i))), dn, out + i);
  }
#endif
  for (; i < count; ++i) out[i] = f32_to_f16(values[i]);
}

void ConvertF32ToBF16(const float* HWY_RESTRICT values, size_t count, uint16_t* HWY_RESTRICT out) {
  const DF df;
  const DU du;
  const hn::Rebind<uint16_t, DF> dn;
  size_t i = 0;
  for (; i + hn::Lanes(df) <= count; i += hn::Lanes(df)) {
    const VF v = hn::LoadU(df, values + i);
    const VU bits = hn::BitCast(du, v);
    const VU odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1U));
    const VU rounded = hn::Add(hn::Add(bits, hn::Set(du, 0x7FFFU)), odd);
    const VU quiet = hn::Or(bits, hn::Set(du, 0x400000U));
    const VU is_nan =
        hn::VecFromMask(du, hn::Gt(hn::BitCast(du, hn::Abs(v)), hn::Set(du, 0x7F800000U)));
    const VU top = hn::ShiftRight<16>(hn::IfVecThenElse(is_nan, quiet, rounded));
    hn::StoreU(hn::TruncateTo(dn, top), dn, out + i);
  }
  for (; i < count; ++i) out[i] = f32_to_bf16(values[i]);
}

size_t FindNonFinite(const float* HWY_RESTRICT values, size_t count) {
  const DF df;
  const DU du;
  const size_t lanes = hn::Lanes(df);
  constexpr size_t kBlock = 512;
  size_t i = 0;
  for (; i + kBlock <= count; i += kBlock) {
    VU seen = hn::Zero(du);
    for (size_t j = 0; j < kBlock; j += lanes) seen = worst(seen, hn::LoadU(df, values + i + j));
    if (hn::GetLane(hn::MaxOfLanes(du, seen)) >= 0x7F800000U) break;
  }
  while (i < count && std::isfinite(values[i])) ++i;
  return i;
}

float AbsMax(const float* HWY_RESTRICT values, size_t count) {
  const DF df;
  const size_t lanes = hn::Lanes(df);
  VF top0 = hn::Zero(df), top1 = hn::Zero(df);
  size_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    top0 = hn::Max(top0, hn::Abs(hn::LoadU(df, values + i)));
    top1 = hn::Max(top1, hn::Abs(hn::LoadU(df, values + i + lanes)));
  }
  float top = hn::GetLane(hn::MaxOfLanes(df, hn::Max(top0, top1)));
  for (; i < count; ++i) top = std::max(top, std::abs(values[i]));
  return top;
}

#undef ARROW_QUANT_NATIVE_F16
}  // namespace HWY_NAMESPACE
}  // namespace arrow_quant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace arrow_quant {
HWY_EXPORT(ConvertToF32);
HWY_EXPORT(ConvertF32ToF16);
HWY_EXPORT(ConvertF32ToBF16);
HWY_EXPORT(FindNonFinite);
HWY_EXPORT(AbsMax);

bool convert_to_f32(DType dtype, const void* source, size_t count, float* out) noexcept {
  return ARROW_QUANT_DISPATCH(ConvertToF32)(dtype, source, count, out);
}
void convert_f32_to_f16(const float* values, size_t count, uint16_t* out) noexcept {
  ARROW_QUANT_DISPATCH(ConvertF32ToF16)(values, count, out);
}
void convert_f32_to_bf16(const float* values, size_t count, uint16_t* out) noexcept {
  ARROW_QUANT_DISPATCH(ConvertF32ToBF16)(values, count, out);
}
size_t find_non_finite(const float* values, size_t count) noexcept {
  return ARROW_QUANT_DISPATCH(FindNonFinite)(values, count);
}
float absmax(const float* values, size_t count) noexcept {
  return ARROW_QUANT_DISPATCH(AbsMax)(values, count);
}
}  // namespace arrow_quant
#endif  // HWY_ONCE
