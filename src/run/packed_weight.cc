// Packed weights in memory that somebody else owns: back to f32 and to int8.
#include <algorithm>

#include "arrow_quant/error.h"
#include "arrow_quant/pipeline.h"
#include "core/parallel.h"
#include "kernels/dequantize_rows.h"
#include "kernels/isa.h"
#include "run/packed_view.h"

namespace arrow_quant {
namespace {

constexpr uint64_t kBlock = 64ULL * 1024;  // elements; their f32 fit the second-level cache

/// Call visit(rows, first) for blocks of rows, on `num_threads` threads.
template <typename Visit>
void for_blocks(const PackedWeightView& weight, int num_threads, const Visit& visit) {
  if (weight.cols == 0) return;
  const uint64_t step = std::max<uint64_t>(1, kBlock / weight.cols);
  for (size_t i = 0; i < weight.chunks.size(); ++i) {
    const uint64_t begin = weight.chunks[i].row_begin;
    const uint64_t end =
        i + 1 < weight.chunks.size() ? weight.chunks[i + 1].row_begin : weight.rows;
    parallel_blocks(num_threads, (end - begin + step - 1) / step, [&](size_t block) {
      const uint64_t first = begin + block * step;
      const uint64_t count = std::min(step, end - first);
      visit(rows_of(weight, first, count), first);
    });
  }
}

}  // namespace

void dequantize(const PackedWeightView& weight, std::span<float> out, int num_threads) {
  check_view(weight);
  check_size(out.size(), weight.rows * weight.cols, "output");
  check_isa_override();
  for_blocks(weight, num_threads, [&](const PackedRows& rows, uint64_t first) {
    dequantize_rows(weight.spec, rows, out.data() + first * weight.cols);
  });
}

void expand_int8(const PackedWeightView& weight, std::span<int8_t> out, int num_threads) {
  if (weight.spec.param_encoding == ParamEncoding::kFp16) {
    throw Error(ErrorCode::kConfiguration,
                "fp16 parameters have no int8 form with one scale per row");
  }
  check_view(weight);
  check_size(out.size(), weight.rows * weight.cols, "output");
  check_isa_override();
  for_blocks(weight, num_threads, [&](const PackedRows& rows, uint64_t first) {
    expand_int8_rows(weight.spec, rows, out.data() + first * weight.cols);
  });
}

}  // namespace arrow_quant
