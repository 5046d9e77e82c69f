// Vectors of f32 stored as f32 or as bfloat16.
//
// Included once per target, after hwy/highway.h; no include guard for that reason.
#include <cstdint>
#include <cstring>

HWY_BEFORE_NAMESPACE();
namespace arrow_quant {
namespace HWY_NAMESPACE {

template <class D>
HWY_INLINE void store_floats(D d, hwy::HWY_NAMESPACE::Vec<D> v, float* to) {
  hwy::HWY_NAMESPACE::StoreU(v, d, to);
}

/// Rounded to nearest even; NaN stays one.
template <class D>
HWY_INLINE void store_floats(D /*d*/, hwy::HWY_NAMESPACE::Vec<D> v, uint16_t* to) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::RebindToUnsigned<D> du;
  const hn::RebindToSigned<D> di;
  const hn::Rebind<uint16_t, D> d16;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1U));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFFU)));
  const auto chosen =
      hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), hn::Set(du, 0x7FC00000U), rounded);
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, hn::ShiftRight<16>(chosen))), d16, to);
}

}  // namespace HWY_NAMESPACE
}  // namespace arrow_quant
HWY_AFTER_NAMESPACE();
