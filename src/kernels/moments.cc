#include "kernels/moments.h"

#include <algorithm>

#include "kernels/isa.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/moments.cc"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace arrow_quant {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr size_t kRun = 256;  // tokens added up in f32

/// `Lanes(d)` channels, all tokens.
template <class D>
HWY_INLINE void add_channels(D d, const float* HWY_RESTRICT x, size_t tokens, size_t stride,
                             const MomentsOut& out, size_t channel) {
  const size_t lanes = hn::Lanes(d);
  auto low = hn::LoadU(d, out.low + channel), high = hn::LoadU(d, out.high + channel);
  HWY_ALIGN float sums[hn::MaxLanes(d)], squares[hn::MaxLanes(d)];
  for (size_t begin = 0; begin < tokens; begin += kRun) {
    const size_t end = std::min(begin + kRun, tokens);
    auto sum = hn::Zero(d), square = hn::Zero(d);
    for (size_t t = begin; t < end; ++t) {
      const auto v = hn::LoadU(d, x + t * stride + channel);
      low = hn::Min(low, v);
      high = hn::Max(high, v);
      sum = hn::Add(sum, v);
      square = hn::MulAdd(v, v, square);
    }
    hn::Store(sum, d, sums);
    hn::Store(square, d, squares);
    for (size_t i = 0; i < lanes; ++i) {
      out.sum[channel + i] += sums[i];
      out.squares[channel + i] += squares[i];
    }
  }
  hn::StoreU(low, d, out.low + channel);
  hn::StoreU(high, d, out.high + channel);
}

void AddMoments(const float* HWY_RESTRICT x, size_t tokens, size_t channels, size_t stride,
                const MomentsOut& out) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  size_t channel = 0;
  for (; channel + hn::Lanes(d) <= channels; channel += hn::Lanes(d)) {
    add_channels(d, x, tokens, stride, out, channel);
  }
  for (; channel < channels; ++channel) add_channels(one, x, tokens, stride, out, channel);
}

}  // namespace HWY_NAMESPACE
}  // namespace arrow_quant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace arrow_quant {
HWY_EXPORT(AddMoments);

void add_moments(const float* x, size_t tokens, size_t channels, size_t stride,
                 const MomentsOut& out) noexcept {
  ARROW_QUANT_DISPATCH(AddMoments)(x, tokens, channels, stride, out);
}
}  // namespace arrow_quant
#endif  // HWY_ONCE
