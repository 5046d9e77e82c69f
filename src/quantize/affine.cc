#include "quantize/affine.h"
#include <algorithm>
#include <cmath>
#include <cstring>
#include "core/half.h"
namespace arrow_quant {
namespace {
void put(uint8_t* row, size_t i, int b, unsigned c) {
  const size_t bit = i * static_cast<size_t>(b);
  row[bit / 8] = static_cast<uint8_t>(row[bit / 8] | (c << (bit % 8)));
}
float h16(float x, uint16_t& bits) { bits = f32_to_f16(x); return f16_to_f32(bits); }
}  // namespace
float tensor_scale_for(const AffineSpec&, float absmax) noexcept {
  if (!(absmax > 0)) return 1.0F;
  int e = 0;
  std::frexp(absmax, &e);
  return std::ldexp(1.0F, std::clamp(e - 13, -126, 126));
}
ChunkSettings choose_chunk_settings(const AffineSpec& spec, const RowBlock& sample) {
  float top = 0;
  for (size_t i = 0; i < sample.rows * sample.cols; ++i) top = std::max(top, std::abs(sample.weights[i]));
  ChunkSettings s;
  s.tensor_scale = tensor_scale_for(spec, top);
  s.offset_unit = spec.param_encoding == ParamEncoding::kTwoLevel ? 2 : 0;
  return s;
}
bool quantize_rows(const AffineSpec& spec, const ChunkSettings& cs, const RowBlock& block,
                   const PackedRowsOut& out, ErrorSums& sums) noexcept {
  const int b = spec.bit_width;
  const int top = (1 << b) - 1;
  const size_t cols = block.cols;
  const size_t crow = packed_row_bytes(cols, b), prow = param_row_bytes(cols, spec);
  std::memset(out.codes, 0, crow * block.rows);
  const bool two = spec.param_encoding == ParamEncoding::kTwoLevel;
  const size_t g = spec.param_encoding == ParamEncoding::kRow ? cols
                 : static_cast<size_t>(spec.group_size) / (two ? 4 : 1);
  const float inv = 1.0F / cs.tensor_scale;
  for (size_t r = 0; r < block.rows; ++r) {
    const float* x = block.weights + r * cols;
    uint8_t* codes = out.codes + r * crow;
    float s = 1;
    if (spec.param_encoding != ParamEncoding::kFp16) {
      float need = 0;
      for (size_t j = 0; j < cols; j += g) {
        const auto [lo, hi] = std::minmax_element(x + j, x + std::min(cols, j + g));
        if (two) need = std::max({need, (*hi - *lo) / static_cast<float>(top * 16)});
        need = std::max({need, std::abs(*lo) / 126, std::abs(*hi) / 126});
      }
      s = h16(need * inv, out.row_scales[r]);
      if (s == 0) s = h16(1.0F, out.row_scales[r]);
      if (!std::isfinite(s)) return false;
    }
    for (size_t j = 0, k = 0; j < cols; j += g, ++k) {
      const size_t n = std::min(g, cols - j);
      const auto [plo, phi] = std::minmax_element(x + j, x + j + n);
      const float lo = *plo * inv, hi = *phi * inv;
      float step = s, base = 0;
      if (spec.param_encoding == ParamEncoding::kFp16) {
        uint16_t p[2];
        step = h16((hi - lo) / static_cast<float>(top), p[0]);
        if (step == 0) step = h16(1.0F, p[0]);
        base = h16(lo, p[1]);
        if (!std::isfinite(step) || !std::isfinite(base)) return false;
        std::memcpy(out.params + r * prow + 4 * k, p, 4);
      } else if (two) {
        const float m = cs.offset_unit;
        float q = std::clamp(std::ceil((hi - lo) / (s * static_cast<float>(top))), 1.0F, 16.0F);
        float z = 0;
        for (; q <= 16; ++q) {
          const float half = q * static_cast<float>(1 << (b - 1));
          z = std::clamp(std::round(((lo + hi) / s * .5F + half - .5F * q * static_cast<float>(top)) / m), -8.0F, 7.0F);
          if (q == 16 || (m * z - half <= lo / s + .3F && m * z - half + q * static_cast<float>(top) >= hi / s - .3F)) break;
        }
        if (lo == 0 && hi == 0) q = 1, z = 0;
        out.params[r * prow + k] = static_cast<uint8_t>((static_cast<int>(q) - 1) | ((static_cast<int>(z) + 8) << 4));
        step = q * s;
        base = (m * z - q * static_cast<float>(1 << (b - 1))) * s;
      }
      for (size_t i = j; i < j + n; ++i) {
        const float t = x[i] * inv;
        float v;
        if (spec.param_encoding == ParamEncoding::kRow) {
          const float c = std::clamp(std::nearbyint(t / s), -127.0F, 127.0F);
          codes[i] = static_cast<uint8_t>(static_cast<int>(c));
          v = c * s;
        } else {
          const float c = std::clamp(std::nearbyint((t - base) / step), 0.0F, static_cast<float>(top));
          put(codes, i, b, static_cast<unsigned>(c));
          v = base + c * step;
          if (two) v = std::clamp(v, -127 * s, 127 * s);
        }
        const double w = x[i], d = static_cast<double>(v) * cs.tensor_scale;
        sums.ww += w * w, sums.vv += d * d, sums.wv += w * d, sums.err += (w - d) * (w - d);
      }
    }
    sums.count += cols;
  }
  return true;
}
}  // namespace arrow_quant
