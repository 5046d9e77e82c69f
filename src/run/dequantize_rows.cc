#include "run/dequantize_rows.h"
#include <algorithm>
#include <cstring>
#include "core/half.h"
namespace arrow_quant {
namespace {
unsigned code_at(const uint8_t* row, size_t i, int b) {
  const size_t bit = i * static_cast<size_t>(b);
  return (static_cast<unsigned>(row[bit / 8]) >> (bit % 8)) & ((1U << b) - 1U);
}
int v_at(const AffineSpec& spec, const PackedRows& p, size_t r, size_t i) {
  const uint8_t* row = p.codes + r * packed_row_bytes(p.cols, spec.bit_width);
  const unsigned c = code_at(row, i, spec.bit_width);
  if (spec.param_encoding == ParamEncoding::kRow) return static_cast<int8_t>(c);
  const uint8_t q = p.params[r * param_row_bytes(p.cols, spec) + i / (static_cast<size_t>(spec.group_size) / 4)];
  return std::clamp(((q & 15) + 1) * (static_cast<int>(c) - (1 << (spec.bit_width - 1))) + p.offset_unit * ((q >> 4) - 8), -127, 127);
}
}  // namespace
void dequantize_rows(const AffineSpec& spec, const PackedRows& p, float* out) noexcept {
  for (size_t r = 0; r < p.rows; ++r)
    for (size_t i = 0; i < p.cols; ++i) {
      float& w = out[r * p.cols + i];
      if (spec.param_encoding == ParamEncoding::kFp16) {
        uint16_t ab[2];
        std::memcpy(ab, p.params + r * param_row_bytes(p.cols, spec) + i / static_cast<size_t>(spec.group_size) * 4, 4);
        const unsigned c = code_at(p.codes + r * packed_row_bytes(p.cols, spec.bit_width), i, spec.bit_width);
        w = p.tensor_scale * (f16_to_f32(ab[0]) * static_cast<float>(c) + f16_to_f32(ab[1]));
      } else {
        w = p.tensor_scale * (f16_to_f32(p.row_scales[r]) * static_cast<float>(v_at(spec, p, r, i)));
      }
    }
}
void unpack_rows(const AffineSpec& spec, const PackedRows& p, uint8_t* out) noexcept {
  for (size_t r = 0; r < p.rows; ++r)
    for (size_t i = 0; i < p.cols; ++i)
      out[r * p.cols + i] = static_cast<uint8_t>(code_at(p.codes + r * packed_row_bytes(p.cols, spec.bit_width), i, spec.bit_width));
}
void expand_int8_rows(const AffineSpec& spec, const PackedRows& p, int8_t* out) noexcept {
  for (size_t r = 0; r < p.rows; ++r)
    for (size_t i = 0; i < p.cols; ++i) out[r * p.cols + i] = static_cast<int8_t>(v_at(spec, p, r, i));
}
}  // namespace arrow_quant
