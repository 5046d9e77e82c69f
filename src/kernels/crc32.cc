#include "kernels/crc32.h"

#include <array>
#include <cstring>

#include "kernels/isa.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/crc32.cc"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/highway.h"

#ifndef ARROW_QUANT_CRC32_TABLES
#define ARROW_QUANT_CRC32_TABLES
namespace arrow_quant::crc32_detail {

using Tables = std::array<std::array<uint32_t, 256>, 8>;

/// tables[k][b]: what byte b, followed by k zero bytes, contributes.
constexpr Tables make_tables() {
  Tables tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xEDB88320U : 0);
    tables[0][byte] = crc;
  }
  for (size_t k = 1; k < tables.size(); ++k) {
    for (size_t byte = 0; byte < 256; ++byte) {
      const uint32_t crc = tables[k - 1][byte];
      tables[k][byte] = (crc >> 8) ^ tables[0][crc & 0xFF];
    }
  }
  return tables;
}

inline constexpr Tables kTables = make_tables();

/// Eight bytes per step ("slicing by 8", Kounavis and Berry 2005). `crc` is the plain remainder,
/// not inverted.
inline uint32_t update(uint32_t crc, const uint8_t* data, size_t size) noexcept {
  for (; size >= 8; data += 8, size -= 8) {
    uint32_t mixed = 0;
    for (int k = 0; k < 4; ++k) mixed |= uint32_t{data[k]} << (8 * k);
    mixed ^= crc;
    crc = 0;
    for (int k = 0; k < 4; ++k) crc ^= kTables[7 - k][(mixed >> (8 * k)) & 0xFF];
    for (int k = 4; k < 8; ++k) crc ^= kTables[7 - k][data[k]];
  }
  for (; size > 0; ++data, --size) crc = (crc >> 8) ^ kTables[0][(crc ^ *data) & 0xFF];
  return crc;
}

}  // namespace arrow_quant::crc32_detail
#endif  // ARROW_QUANT_CRC32_TABLES

HWY_BEFORE_NAMESPACE();
namespace arrow_quant {
namespace HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
namespace hn = hwy::HWY_NAMESPACE;
using D128 = hn::FixedTag<uint64_t, 2>;
using V128 = hn::Vec<D128>;

// `state` moved ahead by the distance that `keys` stands for.
HWY_INLINE V128 Ahead(V128 state, V128 keys) {
  return hn::Xor(hn::CLMulLower(state, keys), hn::CLMulUpper(state, keys));
}

HWY_INLINE V128 Load128(const uint8_t* data) {
  const hn::FixedTag<uint8_t, 16> bytes;
  return hn::BitCast(D128(), hn::LoadU(bytes, data));
}

/// Folding by carry-less products (Gopal et al., "Fast CRC Computation for Generic Polynomials
/// Using PCLMULQDQ", Intel 2009), four lanes of 16 bytes. The last 16 bytes of the fold have the
/// same remainder as all that came before, so the table does the rest.
uint32_t Crc32Update(uint32_t crc, const uint8_t* data, size_t size) {
  if (size < 128) return crc32_detail::update(crc, data, size);
  const D128 d;
  alignas(16) static constexpr uint64_t kBy64[2] = {0x154442BD4, 0x1C6E41596};
  alignas(16) static constexpr uint64_t kBy16[2] = {0x1751997D0, 0x0CCAA009E};
  alignas(16) const uint64_t start[2] = {crc, 0};
  V128 x0 = hn::Xor(Load128(data), hn::Load(d, start));
  V128 x1 = Load128(data + 16);
  V128 x2 = Load128(data + 32);
  V128 x3 = Load128(data + 48);
  const V128 by64 = hn::Load(d, kBy64);
  for (data += 64, size -= 64; size >= 64; data += 64, size -= 64) {
    x0 = hn::Xor(Ahead(x0, by64), Load128(data));
    x1 = hn::Xor(Ahead(x1, by64), Load128(data + 16));
    x2 = hn::Xor(Ahead(x2, by64), Load128(data + 32));
    x3 = hn::Xor(Ahead(x3, by64), Load128(data + 48));
  }
  const V128 by16 = hn::Load(d, kBy16);
  x1 = hn::Xor(Ahead(x0, by16), x1);
  x2 = hn::Xor(Ahead(x1, by16), x2);
  x3 = hn::Xor(Ahead(x2, by16), x3);
  uint8_t folded[16];
  hn::StoreU(hn::BitCast(hn::FixedTag<uint8_t, 16>(), x3), hn::FixedTag<uint8_t, 16>(), folded);
  return crc32_detail::update(crc32_detail::update(0, folded, sizeof(folded)), data, size);
}
#else
uint32_t Crc32Update(uint32_t crc, const uint8_t* data, size_t size) {
  return crc32_detail::update(crc, data, size);
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace arrow_quant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace arrow_quant {
HWY_EXPORT(Crc32Update);

uint32_t crc32(const void* data, size_t size, uint32_t before) noexcept {
  return ~ARROW_QUANT_DISPATCH(Crc32Update)(~before, static_cast<const uint8_t*>(data), size);
}
}  // namespace arrow_quant
#endif  // HWY_ONCE
