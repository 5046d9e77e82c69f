// The one operation that Highway 1.0.3 lacks: sums of products of four bytes, exact.
//
// Included once per target, after hwy/highway.h; no include guard for that reason.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

HWY_BEFORE_NAMESPACE();
namespace arrow_quant {
namespace HWY_NAMESPACE {

/// Lanes of four bytes each.
using DotTag = hwy::HWY_NAMESPACE::CappedTag<int32_t, 16>;
using DotVec = hwy::HWY_NAMESPACE::Vec<DotTag>;

HWY_INLINE DotVec broadcast_quad(const void* from) {
  int32_t quad;
  std::memcpy(&quad, from, sizeof(quad));
  return hwy::HWY_NAMESPACE::Set(DotTag(), quad);
}

HWY_INLINE DotVec load_quads(const void* from) {
#if HWY_TARGET == HWY_SCALAR
  return broadcast_quad(from);
#else
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::Repartition<uint8_t, DotTag> bytes;
  return hn::BitCast(DotTag(), hn::LoadU(bytes, static_cast<const uint8_t*>(from)));
#endif
}

/// Four bytes in every lane: sum + u0 s0 + u1 s1 + u2 s2 + u3 s3, u unsigned, s signed.
struct PlainDot {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4
  // Through 16 bits: the multiply-add of unsigned and signed bytes saturates.
  static HWY_INLINE DotVec add(DotVec sum, DotVec u, DotVec s) {
    namespace hn = hwy::HWY_NAMESPACE;
    const DotTag d;
    const hn::RepartitionToNarrow<DotTag> d16;
    const hn::RebindToUnsigned<decltype(d16)> du16;
    const auto u16 = hn::BitCast(du16, u);
    const auto s16 = hn::BitCast(d16, s);
    const auto u_even = hn::BitCast(d, hn::And(u16, hn::Set(du16, 0x00FF)));
    const auto u_odd = hn::BitCast(d, hn::ShiftRight<8>(u16));
    const auto s_even = hn::BitCast(d, hn::ShiftRight<8>(hn::ShiftLeft<8>(s16)));
    const auto s_odd = hn::BitCast(d, hn::ShiftRight<8>(s16));
    return hn::Add(sum, hn::Add(pairs(u_even, s_even), pairs(u_odd, s_odd)));
  }
  static HWY_INLINE DotVec pairs(DotVec a, DotVec b) {
#if HWY_TARGET == HWY_AVX3
    return DotVec{_mm512_madd_epi16(a.raw, b.raw)};
#elif HWY_TARGET == HWY_AVX2
    return DotVec{_mm256_madd_epi16(a.raw, b.raw)};
#else
    return DotVec{_mm_madd_epi16(a.raw, b.raw)};
#endif
  }
#else
  static HWY_INLINE DotVec add(DotVec sum, DotVec u, DotVec s) {
    namespace hn = hwy::HWY_NAMESPACE;
    const auto low = hn::Set(DotTag(), 0xFF);
    const auto add_byte = [&](DotVec a, DotVec b) {
      sum = hn::Add(sum, hn::Mul(hn::And(a, low), hn::ShiftRight<24>(b)));
    };
    add_byte(u, hn::ShiftLeft<24>(s));
    add_byte(hn::ShiftRight<8>(u), hn::ShiftLeft<16>(s));
    add_byte(hn::ShiftRight<16>(u), hn::ShiftLeft<8>(s));
    add_byte(hn::ShiftRight<24>(u), s);
    return sum;
  }
#endif
};

// As assembly where Highway compiles a target for CPUs without the instruction.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
/// The same by AVX-512 VNNI or AVX-VNNI.
struct MixedDot {
  static HWY_INLINE DotVec add(DotVec sum, DotVec u, DotVec s) {
#if HWY_TARGET == HWY_AVX3
    asm("vpdpbusd %2, %1, %0" : "+v"(sum.raw) : "v"(u.raw), "v"(s.raw));
#else
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum.raw) : "x"(u.raw), "x"(s.raw));
#endif
    return sum;
  }
};
#elif HWY_TARGET == HWY_NEON && HWY_ARCH_ARM_A64
// For the assembler; with all that Highway's own functions may need after it.
#undef ARROW_QUANT_ARM_EXTENSIONS
#define ARROW_QUANT_ARM_EXTENSIONS ".arch armv8.2-a+crypto+dotprod+i8mm\n\t"
/// The same by the 8-bit matrix extension.
struct MixedDot {
  static HWY_INLINE DotVec add(DotVec sum, DotVec u, DotVec s) {
    asm(ARROW_QUANT_ARM_EXTENSIONS "usdot %0.4s, %1.16b, %2.16b"
        : "+w"(sum.raw)
        : "w"(u.raw), "w"(s.raw));
    return sum;
  }
};

/// The same by products of signed bytes: u s = (u - 128) s + 64 s + 64 s.
struct SignedDot {
  static HWY_INLINE DotVec add(DotVec sum, DotVec u, DotVec s) {
    namespace hn = hwy::HWY_NAMESPACE;
    const DotVec half = hn::Set(DotTag(), 0x40404040);
    const DotVec flip = hn::Set(DotTag(), static_cast<int32_t>(0x80808080U));
    return signed_add(signed_add(signed_add(sum, hn::Xor(u, flip), s), half, s), half, s);
  }
  static HWY_INLINE DotVec signed_add(DotVec sum, DotVec a, DotVec b) {
    asm(ARROW_QUANT_ARM_EXTENSIONS "sdot %0.4s, %1.16b, %2.16b"
        : "+w"(sum.raw)
        : "w"(a.raw), "w"(b.raw));
    return sum;
  }
};
#endif

/// Calls fn(PlainDot()) or, by what the CPU has, with one of the others.
template <class Fn>
HWY_INLINE void with_dot([[maybe_unused]] ByteProducts products, const Fn& fn) {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
  if (products == ByteProducts::kMixed) return fn(MixedDot());
#elif HWY_TARGET == HWY_NEON && HWY_ARCH_ARM_A64
  if (products == ByteProducts::kMixed) return fn(MixedDot());
  if (products == ByteProducts::kSigned) return fn(SignedDot());
#endif
  fn(PlainDot());
}

}  // namespace HWY_NAMESPACE
}  // namespace arrow_quant
HWY_AFTER_NAMESPACE();
