#include "kernels/gate.h"

#include <algorithm>
#include <cstring>
#include <numbers>

#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gate.cc"
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

/// x sigmoid(u), u in units of ln 2.
HWY_INLINE VF times_sigmoid(VF x, VF u) {
  const DF d;
  const auto one = hn::Set(d, 1.0F);
  const auto power = exp2_of_negative(d, hn::Neg(hn::Abs(u)));
  const auto top = hn::IfThenElse(hn::Lt(u, hn::Zero(d)), power, one);
  return hn::Div(hn::Mul(x, top), hn::Add(one, power));
}

struct Silu {
  HWY_INLINE VF operator()(VF x) const {
    return times_sigmoid(x, hn::Mul(x, hn::Set(DF(), std::numbers::log2e_v<float>)));
  }
};

/// (1 + tanh(u)) / 2 = sigmoid(2 u).
struct GeluTanh {
  HWY_INLINE VF operator()(VF x) const {
    const DF d;
    constexpr double kTwice = 2 * 0.79788456080286536 * std::numbers::log2e;  // 2 sqrt(2 / pi)
    const auto linear = hn::Set(d, static_cast<float>(kTwice));
    const auto cubic = hn::Set(d, static_cast<float>(kTwice * 0.044715));
    return times_sigmoid(x, hn::Mul(x, hn::MulAdd(hn::Mul(x, x), cubic, linear)));
  }
};

template <class Function, typename Out>
void apply(const Function& function, const float* x, size_t count, Out* y) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) store_floats(d, function(hn::LoadU(d, x + i)), y + i);
  if (i == count) return;
  HWY_ALIGN float in[hn::MaxLanes(d)] = {};
  HWY_ALIGN Out out[hn::MaxLanes(d)];
  std::memcpy(in, x + i, (count - i) * sizeof(float));
  store_floats(d, function(hn::Load(d, in)), out);
  std::memcpy(y + i, out, (count - i) * sizeof(Out));
}

template <class Function>
void apply_to(const float* x, size_t count, const OutputNumbers& y) {
  if (y.f32 != nullptr) {
    apply(Function(), x, count, y.f32);
  } else {
    apply(Function(), x, count, y.bf16);
  }
}

void GateFloats(Gate gate, const float* x, size_t count, const OutputNumbers& y) {
  gate == Gate::kSilu ? apply_to<Silu>(x, count, y) : apply_to<GeluTanh>(x, count, y);
}

}  // namespace HWY_NAMESPACE
}  // namespace arrow_quant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace arrow_quant {
HWY_EXPORT(GateFloats);

void gate_floats(Gate gate, const float* x, size_t count, const OutputNumbers& y) noexcept {
  HWY_DYNAMIC_DISPATCH(GateFloats)(gate, x, count, y);
}

}  // namespace arrow_quant
#endif  // HWY_ONCE
