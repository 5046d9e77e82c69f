#include "kernels/unpack.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "codec/packed_codes.h"
#include "codec/residual_binary.h"
#include "codec/two_level.h"
#include "kernels/isa.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/unpack.cc"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace arrow_quant {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

namespace residual = codec::residual_binary;

using DF = hn::ScalableTag<float>;

// Elements handled at a time. Every buffer has room for whole vectors past its end, so that loops
// need no tails: what is written there is overwritten by the next group or never copied out.
constexpr size_t kBlock = 1024;
constexpr size_t kSlack = 64;

struct CodeBuffer {
  HWY_ALIGN uint8_t bytes[kBlock + kSlack];
};

/// Spread the codes of one byte, `packed` zero-extended, over the bytes of a wider lane.
HWY_INLINE hn::Vec<hn::ScalableTag<uint16_t>> spread(hn::ScalableTag<uint16_t> d,
                                                     hn::Vec<hn::ScalableTag<uint16_t>> packed) {
  return hn::And(hn::Or(packed, hn::ShiftLeft<4>(packed)), hn::Set(d, 0x0F0F));
}
HWY_INLINE hn::Vec<hn::ScalableTag<uint32_t>> spread(hn::ScalableTag<uint32_t> d,
                                                     hn::Vec<hn::ScalableTag<uint32_t>> packed) {
  const auto pairs = hn::Or(packed, hn::ShiftLeft<12>(packed));
  return hn::And(hn::Or(pairs, hn::ShiftLeft<6>(pairs)), hn::Set(d, 0x03030303U));
}

/// Unpack sizeof(Wide) codes from each of `bytes` <= kBlock / sizeof(Wide) bytes.
template <typename Wide>
HWY_INLINE void unpack_block(const uint8_t* HWY_RESTRICT packed, size_t bytes, CodeBuffer& codes) {
  const hn::ScalableTag<Wide> dw;
  const hn::Rebind<uint8_t, hn::ScalableTag<Wide>> d8;
  Wide* HWY_RESTRICT out = reinterpret_cast<Wide*>(codes.bytes);
  const size_t lanes = hn::Lanes(dw);
  size_t i = 0;
  for (; i + lanes <= bytes; i += lanes) {
    const auto wide = hn::PromoteTo(dw, hn::LoadU(d8, packed + i));
    hn::StoreU(spread(dw, wide), dw, out + i);
  }
  if (i == bytes) return;
  HWY_ALIGN uint8_t tail[hn::MaxLanes(d8)] = {};
  std::memcpy(tail, packed + i, bytes - i);
  const auto wide = hn::PromoteTo(dw, hn::LoadU(d8, tail));
  hn::StoreU(spread(dw, wide), dw, out + i);
}

/// Codes [begin, begin + count) of a row; `begin` is a multiple of 8.
HWY_INLINE void load_codes(int bits, const uint8_t* HWY_RESTRICT packed, size_t begin, size_t count,
                           CodeBuffer& codes) {
  const size_t per_byte = codec::codes_per_byte(bits);
  const uint8_t* from = packed + begin / per_byte;
  const size_t bytes = (count + per_byte - 1) / per_byte;
  if (bits == 8) {
    std::memcpy(codes.bytes, from, count);
  } else if (bits == 4) {
    unpack_block<uint16_t>(from, bytes, codes);
  } else {
    unpack_block<uint32_t>(from, bytes, codes);
  }
}

void UnpackCodes(int bits, const uint8_t* packed, size_t count, uint8_t* HWY_RESTRICT out) {
  CodeBuffer codes;
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t n = std::min(kBlock, count - begin);
    load_codes(bits, packed, begin, n, codes);
    std::memcpy(out + begin, codes.bytes, n);
  }
}

/// Walks through the groups of a row block by block without a division per group.
class GroupCursor {
 public:
  explicit GroupCursor(size_t group) : group_(group), end_(group) {}

  /// Group that element `i` is in; `i` must not skip a whole group since the last call.
  size_t at(size_t i) {
    if (i == end_) ++index_, end_ += group_;
    return index_;
  }
  /// One past the last element of that group.
  size_t end() const { return end_; }

 private:
  size_t group_, end_, index_ = 0;
};

struct FloatBuffer {
  HWY_ALIGN float values[kBlock + kSlack];
};

/// Copy out; streamed from the first aligned address on.
HWY_INLINE void write_floats(const FloatBuffer& from, size_t count, bool stream,
                             float* HWY_RESTRICT out) {
  if (!stream) {
    std::memcpy(out, from.values, count * sizeof(float));
    return;
  }
  const DF df;
  const size_t lanes = hn::Lanes(df);
  const size_t misaligned = reinterpret_cast<uintptr_t>(out) / sizeof(float) % lanes;
  size_t i = std::min(count, (lanes - misaligned) % lanes);
  std::memcpy(out, from.values, i * sizeof(float));
  for (; i + lanes <= count; i += lanes) {
    hn::Stream(hn::LoadU(df, from.values + i), df, out + i);
  }
  std::memcpy(out + i, from.values + i, (count - i) * sizeof(float));
}

/// v = step * code + base within [-limit, limit].
template <bool kLimit>
struct AffineRule {
  float limit;

  HWY_INLINE hn::Vec<DF> operator()(hn::Vec<hn::RebindToSigned<DF>> code, hn::Vec<DF> step,
                                    hn::Vec<DF> base) const {
    const auto v = hn::MulAdd(hn::ConvertTo(DF(), code), step, base);
    if (!kLimit) return v;
    const auto top = hn::Set(DF(), limit);
    return hn::Min(hn::Max(v, hn::Neg(top)), top);
  }
};

/// v = first * b1 + second * b2.
struct ResidualRule {
  HWY_INLINE hn::Vec<DF> operator()(hn::Vec<hn::RebindToSigned<DF>> code, hn::Vec<DF> first,
                                    hn::Vec<DF> second) const {
    const hn::RebindToSigned<DF> di;
    // A clear bit becomes the sign bit.
    const auto flip1 = hn::ShiftLeft<31>(hn::Not(code));
    const auto flip2 = hn::ShiftLeft<31>(hn::ShiftRight<1>(hn::Not(code)));
    return hn::Add(hn::BitCast(DF(), hn::Xor(hn::BitCast(di, first), flip1)),
                   hn::BitCast(DF(), hn::Xor(hn::BitCast(di, second), flip2)));
  }
};

template <class Rule>
void dequantize_blocks(int bits, const uint8_t* packed, size_t count, const Levels& levels,
                       const Rule& rule, const DequantizeTarget& target, float* HWY_RESTRICT out) {
  const DF df;
  const hn::RebindToSigned<DF> di;
  const hn::Rebind<uint8_t, DF> d8;
  const size_t lanes = hn::Lanes(df);
  const auto factor = hn::Set(df, target.factor);
  GroupCursor cursor(levels.group);
  CodeBuffer codes;
  FloatBuffer values;
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t end = std::min(begin + kBlock, count);
    load_codes(bits, packed, begin, end - begin, codes);
    for (size_t i = begin; i < end;) {
      const size_t group = cursor.at(i);
      const size_t stop = std::min(end, cursor.end()) - begin;
      const auto step = hn::Set(df, levels.step[group]), base = hn::Set(df, levels.base[group]);
      for (size_t j = i - begin; j < stop; j += lanes) {
        const auto wide = hn::PromoteTo(di, hn::LoadU(d8, codes.bytes + j));
        hn::StoreU(hn::Mul(rule(wide, step, base), factor), df, values.values + j);
      }
      i = begin + stop;
    }
    write_floats(values, end - begin, target.stream, out + begin);
  }
}

void DequantizeGroups(int bits, const uint8_t* packed, size_t count, const Levels& levels,
                      float limit, const DequantizeTarget& target, float* HWY_RESTRICT out) {
  if (limit < std::numeric_limits<float>::infinity()) {
    dequantize_blocks(bits, packed, count, levels, AffineRule<true>{limit}, target, out);
  } else {
    dequantize_blocks(bits, packed, count, levels, AffineRule<false>{limit}, target, out);
  }
}

void DequantizeResidualBinary(const uint8_t* packed, size_t count, const float* first,
                              const float* second, size_t group, const DequantizeTarget& target,
                              float* HWY_RESTRICT out) {
  dequantize_blocks(2, packed, count, {first, second, group}, ResidualRule(), target, out);
}

void DequantizeInt8(const uint8_t* packed, size_t count, float scale,
                    const DequantizeTarget& target, float* HWY_RESTRICT out) {
  const DF df;
  const hn::RebindToSigned<DF> di;
  const hn::Rebind<int8_t, DF> d8;
  const auto step = hn::Set(df, scale), factor = hn::Set(df, target.factor);
  HWY_ALIGN int8_t codes[kBlock + kSlack];
  FloatBuffer values;
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t n = std::min(kBlock, count - begin);
    std::memcpy(codes, packed + begin, n);
    for (size_t i = 0; i < n; i += hn::Lanes(df)) {
      const auto code = hn::ConvertTo(df, hn::PromoteTo(di, hn::LoadU(d8, codes + i)));
      hn::StoreU(hn::Mul(hn::Mul(code, step), factor), df, values.values + i);
    }
    write_floats(values, n, target.stream, out + begin);
  }
}

using D16 = hn::CappedTag<int16_t, 16>;

/// v = max(q * code + base, -127); above 127 the caller's conversion saturates.
class ExpandAffine {
 public:
  ExpandAffine(int bits, int offset_unit) : bits_(bits), unit_(offset_unit) {}

  HWY_INLINE void set(uint8_t param) {
    const codec::two_level::Param numbers = codec::two_level::decode(param);
    step_ = static_cast<int16_t>(numbers.q);
    base_ = static_cast<int16_t>(codec::two_level::base(numbers, bits_, unit_));
  }
  HWY_INLINE hn::Vec<D16> operator()(hn::Vec<D16> code) const {
    const D16 d;
    return hn::Max(hn::Add(hn::Mul(code, hn::Set(d, step_)), hn::Set(d, base_)),
                   hn::Set(d, int16_t{-codec::two_level::kMaxV}));
  }

 private:
  int bits_, unit_;
  int16_t step_ = 0, base_ = 0;
};

/// v = 2 q1 bit0 + 2 q2 bit1 - q1 - q2.
class ExpandResidual {
 public:
  HWY_INLINE void set(uint8_t param) {
    const residual::Param numbers = residual::decode(param);
    first_ = static_cast<int16_t>(2 * numbers.q1);
    second_ = static_cast<int16_t>(numbers.q2);  // bit 1 counts 2 already
    base_ = static_cast<int16_t>(residual::value(numbers, 0));
  }
  HWY_INLINE hn::Vec<D16> operator()(hn::Vec<D16> code) const {
    const D16 d;
    const auto outer =
        hn::Mul(hn::And(code, hn::Set(d, int16_t{residual::kFirstBit})), hn::Set(d, first_));
    const auto inner =
        hn::Mul(hn::And(code, hn::Set(d, int16_t{residual::kSecondBit})), hn::Set(d, second_));
    return hn::Add(hn::Add(outer, inner), hn::Set(d, base_));
  }

 private:
  int16_t first_ = 0, second_ = 0, base_ = 0;
};

template <class Rule>
void expand_blocks(int bits, const uint8_t* packed, size_t count, const uint8_t* params, Rule rule,
                   size_t group, int8_t* HWY_RESTRICT out) {
  const D16 d16;
  const hn::Rebind<uint8_t, D16> du8;
  const hn::Rebind<int8_t, D16> d8;
  GroupCursor cursor(group);
  CodeBuffer codes;
  HWY_ALIGN int8_t values[kBlock + kSlack];
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t end = std::min(begin + kBlock, count);
    load_codes(bits, packed, begin, end - begin, codes);
    for (size_t i = begin; i < end;) {
      rule.set(params[cursor.at(i)]);
      const size_t stop = std::min(end, cursor.end()) - begin;
      for (size_t j = i - begin; j < stop; j += hn::Lanes(d16)) {
        const auto code = hn::PromoteTo(d16, hn::LoadU(du8, codes.bytes + j));
        hn::StoreU(hn::DemoteTo(d8, rule(code)), d8, values + j);  // saturates at 127
      }
      i = begin + stop;
    }
    std::memcpy(out + begin, values, end - begin);
  }
}

void ExpandTwoLevel(int bits, const uint8_t* packed, size_t count, const uint8_t* params,
                    int offset_unit, size_t group, int8_t* HWY_RESTRICT out) {
  expand_blocks(bits, packed, count, params, ExpandAffine(bits, offset_unit), group, out);
}

void ExpandResidualBinary(const uint8_t* packed, size_t count, const uint8_t* params, size_t group,
                          int8_t* HWY_RESTRICT out) {
  expand_blocks(2, packed, count, params, ExpandResidual(), group, out);
}

}  // namespace HWY_NAMESPACE
}  // namespace arrow_quant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace arrow_quant {
HWY_EXPORT(UnpackCodes);
HWY_EXPORT(DequantizeGroups);
HWY_EXPORT(DequantizeInt8);
HWY_EXPORT(ExpandTwoLevel);
HWY_EXPORT(DequantizeResidualBinary);
HWY_EXPORT(ExpandResidualBinary);

void unpack_codes(int bits, const uint8_t* packed, size_t count, uint8_t* out) noexcept {
  ARROW_QUANT_DISPATCH(UnpackCodes)(bits, packed, count, out);
}
void dequantize_groups(int bits, const uint8_t* packed, size_t count, const Levels& levels,
                       float limit, const DequantizeTarget& target, float* out) noexcept {
  ARROW_QUANT_DISPATCH(DequantizeGroups)(bits, packed, count, levels, limit, target, out);
}
void dequantize_residual_binary(const uint8_t* packed, size_t count, const float* first,
                                const float* second, size_t group, const DequantizeTarget& target,
                                float* out) noexcept {
  ARROW_QUANT_DISPATCH(DequantizeResidualBinary)(packed, count, first, second, group, target, out);
}
void expand_residual_binary(const uint8_t* packed, size_t count, const uint8_t* params,
                            size_t group, int8_t* out) noexcept {
  ARROW_QUANT_DISPATCH(ExpandResidualBinary)(packed, count, params, group, out);
}
void dequantize_int8(const uint8_t* codes, size_t count, float scale,
                     const DequantizeTarget& target, float* out) noexcept {
  ARROW_QUANT_DISPATCH(DequantizeInt8)(codes, count, scale, target, out);
}
void finish_stream() noexcept { hwy::FlushStream(); }
void expand_two_level(int bits, const uint8_t* packed, size_t count, const uint8_t* params,
                      int offset_unit, size_t group, int8_t* out) noexcept {
  ARROW_QUANT_DISPATCH(ExpandTwoLevel)(bits, packed, count, params, offset_unit, group, out);
}
}  // namespace arrow_quant
#endif  // HWY_ONCE
