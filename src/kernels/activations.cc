#include "kernels/activations.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/isa.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/activations.cc"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace arrow_quant {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;

/// Calls fn(i, n) for whole vectors and then for what remains, n values.
template <class Fn>
HWY_INLINE void for_vectors(size_t count, const Fn& fn) {
  const size_t lanes = hn::Lanes(DF());
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) fn(i, lanes);
  if (i < count) fn(i, count - i);
}

HWY_INLINE hn::Vec<DF> load_product(const float* HWY_RESTRICT x, const float* HWY_RESTRICT factors,
                                    size_t i, size_t n) {
  const DF d;
  const auto load = [&](const float* from) {
    if (n == hn::Lanes(d)) return hn::LoadU(d, from + i);
    HWY_ALIGN float part[hn::MaxLanes(d)] = {};
    std::memcpy(part, from + i, n * sizeof(float));
    return hn::Load(d, part);
  };
  return factors == nullptr ? load(x) : hn::Mul(load(x), load(factors));
}

float TokenAbsmax(const float* x, const float* factors, size_t count) {
  const DF d;
  auto max_abs = hn::Zero(d);
  auto poison = hn::Zero(d);  // NaN as soon as one value is NaN or infinite
  for_vectors(count, [&](size_t i, size_t n) {
    const auto v = load_product(x, factors, i, n);
    max_abs = hn::Max(max_abs, hn::Abs(v));
    poison = hn::MulAdd(v, hn::Zero(d), poison);
  });
  HWY_ALIGN float lanes[hn::MaxLanes(d)];
  hn::Store(hn::Add(max_abs, poison), d, lanes);
  float result = 0;
  for (size_t i = 0; i < hn::Lanes(d); ++i) {
    if (!(lanes[i] <= result)) result = lanes[i];  // keeps a NaN
    if (std::isnan(result)) return result;
  }
  return result;
}

template <int kPlanes>
HWY_INLINE void quantize_planes(const float* x, const float* factors, size_t count, float scale,
                                size_t stride, int8_t* HWY_RESTRICT out, int32_t* sums) {
  const DF d;
  const hn::RebindToSigned<DF> di;
  const hn::Rebind<int8_t, DF> d8;
  const auto inverse = hn::Set(d, 1.0F / scale);
  const auto limit = hn::Set(d, static_cast<float>(largest_integer(kPlanes)));
  hn::Vec<decltype(di)> totals[kPlanes];
  for (auto& total : totals) total = hn::Zero(di);
  for_vectors(count, [&](size_t i, size_t n) {
    const auto scaled = hn::Mul(load_product(x, factors, i, n), inverse);
    auto rest = hn::NearestInt(hn::Max(hn::Min(scaled, limit), hn::Neg(limit)));
    for (int p = kPlanes - 1; p >= 0; --p) {
      // The lowest byte as a signed number; what remains is a multiple of 256.
      const auto digit = p == 0 ? rest : hn::ShiftRight<24>(hn::ShiftLeft<24>(rest));
      rest = hn::ShiftRight<8>(hn::Sub(rest, digit));
      totals[p] = hn::Add(totals[p], digit);
      const auto bytes = hn::DemoteTo(d8, digit);
      int8_t* to = out + static_cast<size_t>(p) * stride + i;
      if (n == hn::Lanes(d)) {
        hn::StoreU(bytes, d8, to);
      } else {
        HWY_ALIGN int8_t part[hn::MaxLanes(d)];
        hn::StoreU(bytes, d8, part);
        std::memcpy(to, part, n);
      }
    }
  });
  for (int p = 0; p < kPlanes; ++p) sums[p] = hn::GetLane(hn::SumOfLanes(di, totals[p]));
}

void QuantizePlanes(const float* x, const float* factors, size_t count, float scale, int planes,
                    size_t stride, int8_t* out, int32_t* sums) {
  if (planes == 1) quantize_planes<1>(x, factors, count, scale, stride, out, sums);
  if (planes == 2) quantize_planes<2>(x, factors, count, scale, stride, out, sums);
  if (planes == 3) quantize_planes<3>(x, factors, count, scale, stride, out, sums);
}

int32_t SumBytes(const int8_t* bytes, size_t count) {
  const DF d;
  const hn::RebindToSigned<DF> di;
  const hn::Rebind<int8_t, DF> d8;
  auto total = hn::Zero(di);
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    total = hn::Add(total, hn::PromoteTo(di, hn::LoadU(d8, bytes + i)));
  }
  int32_t sum = hn::GetLane(hn::SumOfLanes(di, total));
  for (; i < count; ++i) sum += bytes[i];
  return sum;
}

}  // namespace HWY_NAMESPACE
}  // namespace arrow_quant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace arrow_quant {
HWY_EXPORT(TokenAbsmax);
HWY_EXPORT(QuantizePlanes);
HWY_EXPORT(SumBytes);

float token_absmax(const float* x, const float* factors, size_t count) noexcept {
  return ARROW_QUANT_DISPATCH(TokenAbsmax)(x, factors, count);
}

TokenSums quantize_token(const float* x, const float* factors, size_t count, float scale,
                         int planes, size_t stride, int8_t* out) noexcept {
  TokenSums token{.scale = scale};
  // Below the smallest normal number the inverse of a scale is infinite.
  if (!(scale >= std::numeric_limits<float>::min())) {
    for (int p = 0; p < planes; ++p) {
      std::memset(out + static_cast<size_t>(p) * stride, 0, count);
    }
    return token;
  }
  ARROW_QUANT_DISPATCH(QuantizePlanes)(x, factors, count, scale, planes, stride, out, token.sums);
  return token;
}

int32_t sum_bytes(const int8_t* bytes, size_t count) noexcept {
  return ARROW_QUANT_DISPATCH(SumBytes)(bytes, count);
}

}  // namespace arrow_quant
#endif  // HWY_ONCE
