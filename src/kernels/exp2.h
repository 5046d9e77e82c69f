// Powers of two of vectors.
//
// Included once per target, after hwy/highway.h; no include guard for that reason.

HWY_BEFORE_NAMESPACE();
namespace arrow_quant {
namespace HWY_NAMESPACE {

/// 2^x for x <= 0, relative error below 2e-7; what would be less than 2^-126 becomes 2^-126.
template <class D>
HWY_INLINE hwy::HWY_NAMESPACE::Vec<D> exp2_of_negative(D d, hwy::HWY_NAMESPACE::Vec<D> x) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::RebindToSigned<D> di;
  x = hn::Max(x, hn::Set(d, -126.0F));
  // Adding 1.5 * 2^23 rounds to an integer, which then is the lowest bits of the sum.
  const auto magic = hn::Set(d, 12582912.0F);
  const auto rounded = hn::Add(x, magic);
  const auto rest = hn::Sub(x, hn::Sub(rounded, magic));
  // Minimax polynomial of 2^r on [-1/2, 1/2].
  auto p = hn::Set(d, 1.32647203e-3F);
  p = hn::MulAdd(p, rest, hn::Set(d, 9.67151392e-3F));
  p = hn::MulAdd(p, rest, hn::Set(d, 5.55073395e-2F));
  p = hn::MulAdd(p, rest, hn::Set(d, 2.40222424e-1F));
  p = hn::MulAdd(p, rest, hn::Set(d, 6.93147004e-1F));
  p = hn::MulAdd(p, rest, hn::Set(d, 1.0F));
  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(di, rounded));
  return hn::BitCast(d, hn::Add(hn::BitCast(di, p), exponent));
}

}  // namespace HWY_NAMESPACE
}  // namespace arrow_quant
HWY_AFTER_NAMESPACE();
