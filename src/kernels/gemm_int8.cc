#include "kernels/gemm_int8.h"

#include <algorithm>
#include <cstring>

#include "kernels/isa.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gemm_int8.cc"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/cache_control.h"
#include "hwy/highway.h"

#include "kernels/dot_int8.h"

HWY_BEFORE_NAMESPACE();
namespace arrow_quant {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr size_t kLanes = hn::MaxLanes(DotTag());
// Accumulators of a tile: rows times vectors of outputs, as many as the registers hold beside one
// vector of weights each.
constexpr size_t kVectors = kLanes == 16 || HWY_TARGET == HWY_NEON ? 4 : 2;
constexpr size_t kTileRows =
    kLanes == 16 ? 6 : (HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_NEON ? 4 : 2);
constexpr size_t kTileColumns = kVectors * kLanes;

// ------------------------------ Panels

using QuadTag = hn::CappedTag<uint32_t, 16>;
constexpr size_t kBlockOutputs = hn::MaxLanes(QuadTag());  // transposed at a time
constexpr size_t kBlockQuads = HWY_TARGET == HWY_SCALAR ? 1 : 4;
constexpr size_t kLine = 64;  // bytes of a cache line

#if HWY_TARGET == HWY_SCALAR
HWY_INLINE void transpose_block(const uint8_t* from, size_t, uint32_t flip, uint8_t* to) {
  uint32_t quad;
  std::memcpy(&quad, from, sizeof(quad));
  quad ^= flip;
  std::memcpy(to, &quad, sizeof(quad));
}
#else
/// Four quads of every fourth output, 16 bytes of each.
template <class D>
HWY_INLINE hn::Vec<D> load_every_fourth(D d, const uint8_t* from, size_t stride) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    const hn::Repartition<uint8_t, D> d8;
    return hn::BitCast(d, hn::LoadU(d8, from));
  } else {
    const hn::Half<D> half;
    const auto lower = load_every_fourth(half, from, stride);
    return hn::Combine(d, load_every_fourth(half, from + hn::MaxLanes(half) * stride, stride),
                       lower);
  }
}

/// Four quads of each of kBlockOutputs outputs -> kBlockOutputs outputs of each of four quads.
HWY_INLINE void transpose_block(const uint8_t* HWY_RESTRICT from, size_t stride, uint32_t flip,
                                uint8_t* HWY_RESTRICT to) {
  const QuadTag d;
  const hn::Repartition<uint8_t, QuadTag> d8;
  const hn::Repartition<uint64_t, QuadTag> d64;
  const auto mask = hn::Set(d, flip);
  const auto load = [&](size_t o) {
    return hn::Xor(load_every_fourth(d, from + o * stride, stride), mask);
  };
  const auto store = [&](size_t k, hn::Vec<decltype(d64)> quads) {
    hn::StoreU(hn::BitCast(d8, quads), d8, to + k * kPanelColumns * 4);
  };
  const auto a = load(0), b = load(1), c = load(2), e = load(3);
  const auto ab_low = hn::BitCast(d64, hn::InterleaveLower(d, a, b));
  const auto ce_low = hn::BitCast(d64, hn::InterleaveLower(d, c, e));
  const auto ab_high = hn::BitCast(d64, hn::InterleaveUpper(d, a, b));
  const auto ce_high = hn::BitCast(d64, hn::InterleaveUpper(d, c, e));
  store(0, hn::InterleaveLower(d64, ab_low, ce_low));
  store(1, hn::InterleaveUpper(d64, ab_low, ce_low));
  store(2, hn::InterleaveLower(d64, ab_high, ce_high));
  store(3, hn::InterleaveUpper(d64, ab_high, ce_high));
}
#endif

/// Adding 128 to a byte flips its highest bit.
void FillPanel(const uint8_t* HWY_RESTRICT from, size_t stride, size_t outputs, size_t inputs,
               int bias, uint8_t* HWY_RESTRICT panel) {
  const uint32_t flip = static_cast<uint32_t>(bias) * 0x01010101U;
  const size_t whole = inputs / (4 * kBlockQuads) * kBlockQuads, quads = (inputs + 3) / 4;
  const auto at = [&](size_t k, size_t o) { return panel + (k * kPanelColumns + o) * 4; };
  const size_t blocked = outputs / kBlockOutputs * kBlockOutputs;
  // By whole cache lines: rows a power of two apart push each other out of the first-level cache.
  HWY_ALIGN uint8_t lines[kBlockOutputs * kLine];
  const size_t in_lines = inputs / kLine * kLine / 4;
  for (size_t o = 0; o < blocked; o += kBlockOutputs) {
    const uint8_t* rows = from + o * stride;
    for (size_t line = 0; line < in_lines; line += kLine / 4) {
      for (size_t r = 0; r < kBlockOutputs; ++r) {
        std::memcpy(lines + r * kLine, rows + r * stride + 4 * line, kLine);
        hwy::Prefetch(rows + r * stride + 4 * line + 4 * kLine);
      }
      for (size_t k = 0; k < kLine / 4; k += kBlockQuads) {
        transpose_block(lines + 4 * k, kLine, flip, at(line + k, o));
      }
    }
    for (size_t k = in_lines; k < whole; k += kBlockQuads) {
      transpose_block(rows + 4 * k, stride, flip, at(k, o));
    }
  }
  for (size_t o = 0; o < kPanelColumns; ++o) {
    for (size_t k = o < blocked ? whole : 0; k < quads; ++k) {
      uint32_t quad = 0;
      if (o < outputs) {
        std::memcpy(&quad, from + o * stride + 4 * k, std::min<size_t>(4, inputs - 4 * k));
      }
      quad ^= flip;
      std::memcpy(at(k, o), &quad, sizeof(quad));
    }
  }
}

// ------------------------------ Products

template <class Dot, size_t kRows>
HWY_INLINE void multiply_tile(const PanelRows& a, size_t row, const uint8_t* HWY_RESTRICT panel,
                              size_t column, bool accumulate, int32_t* HWY_RESTRICT sums) {
  const DotTag d;
  DotVec acc[kRows][kVectors];
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t v = 0; v < kVectors; ++v) {
      acc[r][v] = accumulate ? hn::LoadU(d, sums + (row + r) * kPanelColumns + column + v * kLanes)
                             : hn::Zero(d);
    }
  }
  const uint8_t* HWY_RESTRICT from = panel + column * 4;
  for (const ptrdiff_t segment : a.segments) {
    const int8_t* rows[kRows];
    for (size_t r = 0; r < kRows; ++r) rows[r] = a.rows[row + r] + segment;
    for (size_t k = 0; k < a.quads; ++k, from += 4 * kPanelColumns) {
      DotVec w[kVectors];
      for (size_t v = 0; v < kVectors; ++v) {
        w[v] = load_quads(from + v * kLanes * 4);
      }
      for (size_t r = 0; r < kRows; ++r) {
        const DotVec x = broadcast_quad(rows[r] + 4 * k);
        for (size_t v = 0; v < kVectors; ++v) acc[r][v] = Dot::add(acc[r][v], w[v], x);
      }
    }
  }
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t v = 0; v < kVectors; ++v) {
      hn::StoreU(acc[r][v], d, sums + (row + r) * kPanelColumns + column + v * kLanes);
    }
  }
}

template <class Dot>
void multiply_rows(const PanelRows& a, const uint8_t* panel, bool accumulate, int32_t* sums) {
  size_t row = 0;
  for (; row + kTileRows <= a.count; row += kTileRows) {
    for (size_t column = 0; column < kPanelColumns; column += kTileColumns) {
      multiply_tile<Dot, kTileRows>(a, row, panel, column, accumulate, sums);
    }
  }
  for (; row < a.count; ++row) {
    for (size_t column = 0; column < kPanelColumns; column += kTileColumns) {
      multiply_tile<Dot, 1>(a, row, panel, column, accumulate, sums);
    }
  }
}

void MultiplyPanel(const PanelRows& a, const uint8_t* panel, bool accumulate, ByteProducts products,
                   int32_t* sums) {
  with_dot(products, [&](auto dot) { multiply_rows<decltype(dot)>(a, panel, accumulate, sums); });
}

}  // namespace HWY_NAMESPACE
}  // namespace arrow_quant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace arrow_quant {
HWY_EXPORT(FillPanel);
HWY_EXPORT(MultiplyPanel);

void fill_panel(const int8_t* weights, size_t stride, size_t outputs, size_t inputs,
                uint8_t* panel) noexcept {
  ARROW_QUANT_DISPATCH(FillPanel)
  (reinterpret_cast<const uint8_t*>(weights), stride, outputs, inputs, kPanelBias, panel);
}

void fill_panel_codes(const uint8_t* codes, size_t stride, size_t outputs, size_t inputs,
                      uint8_t* panel) noexcept {
  ARROW_QUANT_DISPATCH(FillPanel)(codes, stride, outputs, inputs, 0, panel);
}

void multiply_panel(const PanelRows& a, const uint8_t* panel, bool accumulate,
                    int32_t* sums) noexcept {
  ARROW_QUANT_DISPATCH(MultiplyPanel)(a, panel, accumulate, byte_products(), sums);
}

}  // namespace arrow_quant
#endif  // HWY_ONCE
