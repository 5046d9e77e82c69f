#include "kernels/epilogue.h"

#include <cstring>

#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/epilogue.cc"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace arrow_quant {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, kPanelColumns>;

/// The sums of all planes of a token as one number per column; `bias` times the token's own sums is
/// subtracted, exactly.
HWY_INLINE hn::Vec<DF> join_planes(const PanelSums& s, size_t t, size_t column, int bias) {
  const DF d;
  const hn::RebindToSigned<DF> di;
  auto value = hn::Zero(d);
  for (int p = 0; p < s.planes; ++p) {
    const size_t row = t * static_cast<size_t>(s.planes) + static_cast<size_t>(p);
    const auto sum = hn::LoadU(di, s.sums + row * kPanelColumns + column);
    const auto exact = hn::Sub(sum, hn::Set(di, bias * s.tokens[t].sums[p]));
    value = hn::MulAdd(value, hn::Set(d, 256.0F), hn::ConvertTo(d, exact));
  }
  return value;
}

void FinishSums(const PanelSums& s, const float* column_scales, const float* bias, size_t columns,
                float* HWY_RESTRICT out, size_t out_stride) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  for (size_t t = 0; t < s.count; ++t) {
    const auto token = hn::Set(d, s.tokens[t].scale);
    float* to = out + t * out_stride;
    for (size_t c = 0; c < columns; c += lanes) {
      const size_t n = columns - c < lanes ? columns - c : lanes;
      HWY_ALIGN float part[2][hn::MaxLanes(d)] = {};
      std::memcpy(part[0], column_scales + c, n * sizeof(float));
      if (bias != nullptr) std::memcpy(part[1], bias + c, n * sizeof(float));
      const auto scale = hn::Mul(token, hn::Load(d, part[0]));
      const auto value = hn::MulAdd(join_planes(s, t, c, kPanelBias), scale, hn::Load(d, part[1]));
      if (n == lanes) {
        hn::StoreU(value, d, to + c);
      } else {
        hn::Store(value, d, part[0]);
        std::memcpy(to + c, part[0], n * sizeof(float));
      }
    }
  }
}

void AddGroupSums(const PanelSums& s, const float* scales, const float* offsets,
                  float* HWY_RESTRICT out) {
  const DF d;
  for (size_t t = 0; t < s.count; ++t) {
    const auto token = hn::Set(d, s.tokens[t].scale);
    float own = 0;
    for (int p = 0; p < s.planes; ++p) own = own * 256.0F + static_cast<float>(s.tokens[t].sums[p]);
    const auto activations = hn::Set(d, own);
    float* to = out + t * kPanelColumns;
    for (size_t c = 0; c < kPanelColumns; c += hn::Lanes(d)) {
      const auto codes = hn::Mul(hn::LoadU(d, scales + c), join_planes(s, t, c, 0));
      const auto value = hn::MulAdd(hn::LoadU(d, offsets + c), activations, codes);
      hn::StoreU(hn::MulAdd(value, token, hn::LoadU(d, to + c)), d, to + c);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace arrow_quant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace arrow_quant {
HWY_EXPORT(FinishSums);
HWY_EXPORT(AddGroupSums);

void finish_sums(const PanelSums& sums, const float* column_scales, const float* bias,
                 size_t columns, float* out, size_t out_stride) noexcept {
  HWY_DYNAMIC_DISPATCH(FinishSums)(sums, column_scales, bias, columns, out, out_stride);
}

void add_group_sums(const PanelSums& sums, const float* scales, const float* offsets,
                    float* out) noexcept {
  HWY_DYNAMIC_DISPATCH(AddGroupSums)(sums, scales, offsets, out);
}

}  // namespace arrow_quant
#endif  // HWY_ONCE
