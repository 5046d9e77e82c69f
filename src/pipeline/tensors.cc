// Single tensors in memory: quantize an array, and the three ways back to numbers.
#include <algorithm>
#include <string>

#include "arrow_quant/error.h"
#include "arrow_quant/pipeline.h"
#include "codec/spec.h"
#include "core/half.h"
#include "core/parallel.h"
#include "core/thread_pool.h"
#include "kernels/dequantize_rows.h"
#include "kernels/isa.h"
#include "quantize/chunk_quantizer.h"

namespace arrow_quant {
namespace {

constexpr uint64_t kDequantizeBlock =
    64ULL * 1024;  // elements; their f32 fit the second-level cache

void check_size(const QuantizedTensorInfo& info, uint64_t found, uint64_t expected,
                const char* what) {
  if (found == expected) return;
  throw Error(ErrorCode::kShapeMismatch,
              std::string(what) + ": expected " + std::to_string(expected) + " elements, found " +
                  std::to_string(found),
              {.tensor = info.name});
}

/// Raise kConfiguration unless the tensor is quantized, to something that exists.
void require_quantized(const QuantizedTensorInfo& info) {
  if (info.encoding != Encoding::kCopy) return codec::check_spec(info.spec, {.tensor = info.name});
  throw Error(
      ErrorCode::kConfiguration,
      "expected a quantized tensor, found encoding '" + std::string(to_string(info.encoding)) + "'",
      {.tensor = info.name, .hint = "Kept tensors hold their source bytes as they are."});
}

}  // namespace

QuantizedTensor quantize_array(const QuantizedTensorInfo& info, std::span<const std::byte> data,
                               std::span<const float> importance, int num_threads,
                               Progress& progress) {
  check_isa_override();
  codec::check_spec(info.spec, {.tensor = info.name});
  QuantizedTensor tensor{.info = info, .chunks = {}};
  tensor.info.encoding = encoding_of(info.spec);
  const DTypeInfo& dtype = dtype_info(info.source_dtype);
  if (!dtype.quantizable) {
    throw Error(ErrorCode::kConfiguration,
                "expected floating-point weights, found dtype " + std::string(dtype.name),
                {.tensor = info.name});
  }
  check_size(info, data.size() * 8 / dtype.bits, info.elements(), "array");
  if (!importance.empty()) check_size(info, importance.size(), info.cols(), "importance");

  ThreadPool pool(num_threads);
  ChunkQuantizer quantizer(pool, [&progress] { progress.poll(); });
  const MemoryRows source(data, info.cols() * dtype.bits / 8);
  const uint64_t step = rows_per_chunk(info.cols(), info.spec.bit_width);
  ErrorSums sums;
  for (uint64_t row = 0; row < info.rows(); row += step) {
    const uint64_t rows = std::min(step, info.rows() - row);
    tensor.chunks.push_back(
        quantizer.quantize(tensor.info, source, row, rows, {.importance = importance}, ""));
    tensor.chunks.back().chunk = static_cast<int32_t>(tensor.chunks.size() - 1);
    sums.add(tensor.chunks.back().error);
    progress.report(info.name, static_cast<double>(row + rows) / static_cast<double>(info.rows()));
  }
  tensor.info.cosine = sums.cosine();
  tensor.info.nmse = sums.nmse();
  return tensor;
}

void dequantize(const QuantizedTensor& tensor, std::span<float> out, int num_threads) {
  const QuantizedTensorInfo& info = tensor.info;
  require_quantized(info);
  check_size(info, out.size(), info.elements(), "output");
  check_isa_override();
  const uint64_t cols = info.cols();
  if (cols == 0) return;
  const int threads = num_threads > 0 ? num_threads : available_cores();
  const uint64_t step = std::max<uint64_t>(1, kDequantizeBlock / cols);
  for (const QuantizedChunk& chunk : tensor.chunks) {
    parallel_blocks(threads, (chunk.rows + step - 1) / step, [&](size_t block) {
      const uint64_t first = block * step;
      const uint64_t count = std::min(step, chunk.rows - first);
      dequantize_rows(info.spec, packed_rows(info, chunk, first, count),
                      out.data() + (chunk.row_begin + first) * cols);
    });
  }
}

void unpack(const QuantizedTensor& tensor, std::span<uint8_t> out) {
  const QuantizedTensorInfo& info = tensor.info;
  require_quantized(info);
  check_size(info, out.size(), info.elements(), "output");
  check_isa_override();
  for (const QuantizedChunk& chunk : tensor.chunks) {
    unpack_rows(info.spec, packed_rows(info, chunk, 0, chunk.rows),
                out.data() + chunk.row_begin * info.cols());
  }
}

void expand_int8(const QuantizedTensor& tensor, std::span<int8_t> out,
                 std::span<float> row_scales) {
  const QuantizedTensorInfo& info = tensor.info;
  require_quantized(info);
  if (info.spec.param_encoding == ParamEncoding::kFp16) {
    throw Error(
        ErrorCode::kConfiguration, "fp16 parameters have no int8 form with one scale per row",
        {.tensor = info.name,
         .hint = "Quantize with param_encoding 'two_level' (2 and 4 bits) or 'row' (8 bits)."});
  }
  check_size(info, out.size(), info.elements(), "output");
  check_size(info, row_scales.size(), info.rows(), "row scales");
  check_isa_override();
  for (const QuantizedChunk& chunk : tensor.chunks) {
    expand_int8_rows(info.spec, packed_rows(info, chunk, 0, chunk.rows),
                     out.data() + chunk.row_begin * info.cols());
    for (uint64_t row = 0; row < chunk.rows; ++row) {
      row_scales[chunk.row_begin + row] = chunk.tensor_scale * f16_to_f32(chunk.row_scales[row]);
    }
  }
}

}  // namespace arrow_quant
