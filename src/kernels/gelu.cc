#include "kernels/gelu.h"

#include <cstring>
#include <numbers>

#include "kernels/isa.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gelu.cc"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/highway.h"

#include "kernels/exp2.h"
#include "kernels/store_floats.h"

HWY_BEFORE_NAMESPACE();
namespace arrow_quant {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;

/// (1 + tanh(u)) / 2 = sigmoid(2 u), of powers of 2 below 1 for either sign of u.
HWY_INLINE VF gelu(VF x) {
  const DF d;
  constexpr double kTwice = 2 * 0.79788456080286536 * std::numbers::log2e;  // 2 sqrt(2 / pi)
  const auto linear = hn::Set(d, static_cast<float>(kTwice));
  const auto cubic = hn::Set(d, static_cast<float>(kTwice * 0.044715));
  const auto u = hn::Mul(x, hn::MulAdd(hn::Mul(x, x), cubic, linear));
  const auto one = hn::Set(d, 1.0F);
  const auto power = exp2_of_negative(d, hn::Neg(hn::Abs(u)));
  const auto top = hn::IfThenElse(hn::Lt(u, hn::Zero(d)), power, one);
  return hn::Div(hn::Mul(x, top), hn::Add(one, power));
}

template <typename Out>
void apply(const float* x, size_t count, Out* y) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) store_floats(d, gelu(hn::LoadU(d, x + i)), y + i);
  if (i == count) return;
  HWY_ALIGN float in[hn::MaxLanes(d)] = {};
  HWY_ALIGN Out out[hn::MaxLanes(d)];
  std::memcpy(in, x + i, (count - i) * sizeof(float));
  store_floats(d, gelu(hn::Load(d, in)), out);
  std::memcpy(y + i, out, (count - i) * sizeof(Out));
}

void GeluTanh(const float* x, size_t count, const OutputNumbers& y) {
  y.f32 != nullptr ? apply(x, count, y.f32) : apply(x, count, y.bf16);
}

}  // namespace HWY_NAMESPACE
}  // namespace arrow_quant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace arrow_quant {
HWY_EXPORT(GeluTanh);

void gelu_tanh_floats(const float* x, size_t count, const OutputNumbers& y) noexcept {
  ARROW_QUANT_DISPATCH(GeluTanh)(x, count, y);
}

}  // namespace arrow_quant
#endif  // HWY_ONCE
