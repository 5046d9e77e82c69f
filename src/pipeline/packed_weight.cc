// Packed weights in memory that somebody else owns: back to f32 and to int8.
#include <algorithm>
#include <string>

#include "arrow_quant/error.h"
#include "arrow_quant/pipeline.h"
#include "core/thread_pool.h"
#include "kernels/isa.h"
#include "run/dequantize_rows.h"

namespace arrow_quant {
namespace {

constexpr uint64_t kBlock = 64ULL * 1024;  // elements; their f32 fit the second-level cache

void check_size(uint64_t found, uint64_t expected, const char* what) {
  if (found == expected) return;
  throw Error(ErrorCode::kShapeMismatch, std::string(what) + ": expected " +
                                             std::to_string(expected) + " elements, found " +
                                             std::to_string(found));
}

void check(const PackedWeightView& weight) {
  const AffineSpec& spec = weight.spec;
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

PackedRows rows_of(const PackedWeightView& weight, const PackedWeightView::Chunk& chunk,
                   uint64_t first, uint64_t count) {
  return {
      .codes = weight.codes.data() + first * packed_row_bytes(weight.cols, weight.spec.bit_width),
      .params = weight.params.data() + first * param_row_bytes(weight.cols, weight.spec),
      .row_scales = weight.row_scales.empty() ? nullptr : weight.row_scales.data() + first,
      .tensor_scale = chunk.tensor_scale,
      .offset_unit = chunk.offset_unit,
      .rows = count,
      .cols = weight.cols};
}

/// Call visit(rows, first) for blocks of rows, on `num_threads` threads.
template <typename Visit>
void for_blocks(const PackedWeightView& weight, int num_threads, const Visit& visit) {
  if (weight.cols == 0) return;
  ThreadPool pool(num_threads);
  const uint64_t step = std::max<uint64_t>(1, kBlock / weight.cols);
  for (size_t i = 0; i < weight.chunks.size(); ++i) {
    const uint64_t begin = weight.chunks[i].row_begin;
    const uint64_t end =
        i + 1 < weight.chunks.size() ? weight.chunks[i + 1].row_begin : weight.rows;
    pool.parallel_for((end - begin + step - 1) / step, [&](size_t block, int) {
      const uint64_t first = begin + block * step;
      const uint64_t count = std::min(step, end - first);
      visit(rows_of(weight, weight.chunks[i], first, count), first);
    });
  }
}

}  // namespace

void dequantize(const PackedWeightView& weight, std::span<float> out, int num_threads) {
  check(weight);
  check_size(out.size(), weight.rows * weight.cols, "output");
  apply_isa_override();
  for_blocks(weight, num_threads, [&](const PackedRows& rows, uint64_t first) {
    dequantize_rows(weight.spec, rows, out.data() + first * weight.cols);
  });
}

void expand_int8(const PackedWeightView& weight, std::span<int8_t> out, int num_threads) {
  if (weight.spec.param_encoding == ParamEncoding::kFp16) {
    throw Error(ErrorCode::kConfiguration,
                "fp16 parameters have no int8 form with one scale per row");
  }
  check(weight);
  check_size(out.size(), weight.rows * weight.cols, "output");
  apply_isa_override();
  for_blocks(weight, num_threads, [&](const PackedRows& rows, uint64_t first) {
    expand_int8_rows(weight.spec, rows, out.data() + first * weight.cols);
  });
}

}  // namespace arrow_quant
