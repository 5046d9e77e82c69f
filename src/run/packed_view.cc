#include "run/packed_view.h"

#include <algorithm>
#include <string>

#include "arrow_quant/error.h"
#include "codec/spec.h"
#include "kernels/convert.h"

namespace arrow_quant {
void check_size(uint64_t found, uint64_t expected, const char* what) {
  if (found == expected) return;
  throw Error(ErrorCode::kShapeMismatch, std::string(what) + ": expected " +
                                             std::to_string(expected) + " elements, found " +
                                             std::to_string(found));
}

void check_view(const PackedWeightView& weight) {
  const AffineSpec& spec = weight.spec;
  codec::check_spec(spec);
  check_size(weight.codes.size(), weight.rows * packed_row_bytes(weight.cols, spec.bit_width),
             "codes");
  check_size(weight.params.size(), weight.rows * param_row_bytes(weight.cols, spec), "params");
  const bool scaled = spec.param_encoding != ParamEncoding::kFp16;
  check_size(weight.row_scales.size(), scaled ? weight.rows : 0, "row scales");
  uint64_t row = 0;
  for (size_t i = 0; i < weight.chunks.size(); ++i) {
    if (weight.chunks[i].row_begin < row || (i == 0 && weight.chunks[i].row_begin != 0)) {
      throw Error(ErrorCode::kShapeMismatch, "chunks: expected rows in order from 0");
    }
    row = weight.chunks[i].row_begin;
  }
  if (row > weight.rows || (weight.rows > 0 && weight.chunks.empty())) {
    throw Error(ErrorCode::kShapeMismatch, "chunks: expected to cover the rows of the weight");
  }
}

const PackedWeightView::Chunk& chunk_of(const PackedWeightView& weight, uint64_t row) noexcept {
  const auto after =
      std::ranges::upper_bound(weight.chunks, row, {}, &PackedWeightView::Chunk::row_begin);
  return *std::prev(after);
}

uint64_t end_of_chunk(const PackedWeightView& weight, uint64_t row) noexcept {
  const auto after =
      std::ranges::upper_bound(weight.chunks, row, {}, &PackedWeightView::Chunk::row_begin);
  return after == weight.chunks.end() ? weight.rows : after->row_begin;
}

PackedRows rows_of(const PackedWeightView& weight, uint64_t first, uint64_t count) noexcept {
  const PackedWeightView::Chunk& chunk = chunk_of(weight, first);
  return {
      .codes = weight.codes.data() + first * packed_row_bytes(weight.cols, weight.spec.bit_width),
      .params = weight.params.data() + first * param_row_bytes(weight.cols, weight.spec),
      .row_scales = weight.row_scales.empty() ? nullptr : weight.row_scales.data() + first,
      .tensor_scale = chunk.tensor_scale,
      .offset_unit = chunk.offset_unit,
      .rows = count,
      .cols = weight.cols};
}

std::vector<float> row_scales_of(const PackedWeightView& weight) {
  std::vector<float> scales(weight.row_scales.size());
  (void)convert_to_f32(DType::kF16, weight.row_scales.data(), scales.size(), scales.data());
  for (size_t i = 0; i < weight.chunks.size() && !scales.empty(); ++i) {
    const uint64_t end =
        i + 1 < weight.chunks.size() ? weight.chunks[i + 1].row_begin : weight.rows;
    for (uint64_t r = weight.chunks[i].row_begin; r < end; ++r) {
      scales[r] *= weight.chunks[i].tensor_scale;
    }
  }
  return scales;
}

}  // namespace arrow_quant
