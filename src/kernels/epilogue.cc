#include "kernels/epilogue.h"

#include <cstring>

#include "kernels/isa.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/epilogue.cc"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/highway.h"

#include "kernels/store_floats.h"

HWY_BEFORE_NAMESPACE();
namespace arrow_quant {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, kPanelColumns>;

/// The sums of all byte limbs of a token as one number per column; `bias` times the token's own
/// sums is subtracted, exactly.
template <int kPlanes>
HWY_INLINE hn::Vec<DF> join_planes(const PanelSums& s, size_t t, size_t column, int bias) {
  const DF d;
  const hn::RebindToSigned<DF> di;
  auto value = hn::Zero(d);
  for (int p = 0; p < kPlanes; ++p) {
    const size_t row = t * kPlanes + static_cast<size_t>(p);
    const auto sum = hn::LoadU(di, s.sums + row * kPanelColumns + column);
    const auto exact = hn::Sub(sum, hn::Set(di, bias * s.tokens[t].sums[p]));
    const auto own = hn::ConvertTo(d, exact);
    value = p == 0 ? own : hn::MulAdd(value, hn::Set(d, 256.0F), own);
  }
  return value;
}

/// What is known of the columns of a panel, filled up with zeros.
struct ColumnFacts {
  HWY_ALIGN float scales[kPanelColumns]{};
  HWY_ALIGN float biases[kPanelColumns]{};
};

template <int kPlanes, typename Out>
void finish(const PanelSums& s, const ColumnFacts& facts, size_t columns, Out* HWY_RESTRICT out,
            size_t out_stride) {
  const DF d;
  HWY_ALIGN Out part[kPanelColumns];
  for (size_t t = 0; t < s.count; ++t) {
    const auto token = hn::Set(d, s.tokens[t].scale);
    Out* to = columns == kPanelColumns ? out + t * out_stride : part;
    for (size_t c = 0; c < kPanelColumns; c += hn::Lanes(d)) {
      const auto scale = hn::Mul(token, hn::Load(d, facts.scales + c));
      const auto sum = join_planes<kPlanes>(s, t, c, kPanelBias);
      store_floats(d, hn::MulAdd(sum, scale, hn::Load(d, facts.biases + c)), to + c);
    }
    if (to == part) std::memcpy(out + t * out_stride, part, columns * sizeof(Out));
  }
}

template <typename Out>
void finish_planes(const PanelSums& s, const ColumnFacts& facts, size_t columns, Out* out,
                   size_t out_stride) {
  if (s.planes == 1) finish<1>(s, facts, columns, out, out_stride);
  if (s.planes == 2) finish<2>(s, facts, columns, out, out_stride);
  if (s.planes == 3) finish<3>(s, facts, columns, out, out_stride);
}

void FinishSums(const PanelSums& s, const float* column_scales, const float* bias, size_t columns,
                OutputNumbers out, size_t out_stride) {
  ColumnFacts facts;
  std::memcpy(facts.scales, column_scales, columns * sizeof(float));
  if (bias != nullptr) std::memcpy(facts.biases, bias, columns * sizeof(float));
  if (out.f32 != nullptr) {
    finish_planes(s, facts, columns, out.f32, out_stride);
  } else {
    finish_planes(s, facts, columns, out.bf16, out_stride);
  }
}

template <int kPlanes>
void add_group(const PanelSums& s, const float* scales, const float* offsets,
               float* HWY_RESTRICT out) {
  const DF d;
  for (size_t t = 0; t < s.count; ++t) {
    const auto token = hn::Set(d, s.tokens[t].scale);
    float own = 0;
    for (int p = 0; p < kPlanes; ++p) own = own * 256.0F + static_cast<float>(s.tokens[t].sums[p]);
    const auto activations = hn::Set(d, own);
    float* to = out + t * kPanelColumns;
    for (size_t c = 0; c < kPanelColumns; c += hn::Lanes(d)) {
      const auto codes = hn::Mul(hn::LoadU(d, scales + c), join_planes<kPlanes>(s, t, c, 0));
      const auto value = hn::MulAdd(hn::LoadU(d, offsets + c), activations, codes);
      hn::StoreU(hn::MulAdd(value, token, hn::LoadU(d, to + c)), d, to + c);
    }
  }
}

void AddGroupSums(const PanelSums& s, const float* scales, const float* offsets, float* out) {
  if (s.planes == 1) add_group<1>(s, scales, offsets, out);
  if (s.planes == 2) add_group<2>(s, scales, offsets, out);
  if (s.planes == 3) add_group<3>(s, scales, offsets, out);
}

}  // namespace HWY_NAMESPACE
}  // namespace arrow_quant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace arrow_quant {
HWY_EXPORT(FinishSums);
HWY_EXPORT(AddGroupSums);

void finish_sums(const PanelSums& sums, const float* column_scales, const float* bias,
                 size_t columns, OutputNumbers out, size_t out_stride) noexcept {
  ARROW_QUANT_DISPATCH(FinishSums)(sums, column_scales, bias, columns, out, out_stride);
}

void add_group_sums(const PanelSums& sums, const float* scales, const float* offsets,
                    float* out) noexcept {
  ARROW_QUANT_DISPATCH(AddGroupSums)(sums, scales, offsets, out);
}

}  // namespace arrow_quant
#endif  // HWY_ONCE
