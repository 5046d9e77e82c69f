// Tensors as the quantizer would hand them to the writer, with any bytes, and an artefact of them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "arrow_quant/artefact.h"
#include "arrow_quant/manifest.h"
#include "arrow_quant/quantized_tensor.h"
#include "io/staging.h"
#include "write/component_writer.h"
#include "write/manifest.h"

namespace arrow_quant::testing {

inline ByteBuffer pattern(uint64_t size, uint64_t seed) {
  ByteBuffer bytes(size);
  uint64_t state = seed * 2 + 1;
  for (uint8_t& byte : bytes) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    byte = static_cast<uint8_t>(state >> 56);
  }
  return bytes;
}

/// A fp16 number from 1 to 2.
inline uint16_t some_half(uint64_t seed) { return static_cast<uint16_t>(0x3C00 + seed % 1024); }

inline QuantizedTensor copied(std::string name, DType dtype, std::vector<uint64_t> shape) {
  QuantizedTensor tensor;
  tensor.info = {.name = std::move(name), .shape = std::move(shape), .source_dtype = dtype};
  QuantizedChunk chunk{.rows = tensor.info.rows()};
  chunk.codes = pattern(tensor.info.elements() * dtype_info(dtype).bits / 8, 7);
  tensor.chunks.push_back(std::move(chunk));
  return tensor;
}

/// `rows_per_chunk` cuts it into chunks.
inline QuantizedTensor affine(std::string name, std::vector<uint64_t> shape, int bit_width,
                              ParamEncoding encoding, uint64_t rows_per_chunk = 1U << 20) {
  QuantizedTensor tensor;
  tensor.info = {.name = std::move(name),
                 .shape = std::move(shape),
                 .source_dtype = DType::kBF16,
                 .encoding = encoding == ParamEncoding::kResidualBinary ? Encoding::kResidualBinary
                                                                        : Encoding::kAffine,
                 .spec = {.bit_width = bit_width, .group_size = 32, .param_encoding = encoding}};
  const QuantizedTensorInfo& info = tensor.info;
  for (uint64_t row = 0; row < info.rows(); row += rows_per_chunk) {
    QuantizedChunk chunk{.chunk = static_cast<int32_t>(tensor.chunks.size()),
                         .row_begin = row,
                         .rows = std::min(rows_per_chunk, info.rows() - row)};
    chunk.codes = pattern(chunk.rows * packed_row_bytes(info.cols(), bit_width), row + 1);
    chunk.params = pattern(chunk.rows * param_row_bytes(info.cols(), info.spec), row + 2);
    chunk.tensor_scale = 0.0078125F;
    if (encoding == ParamEncoding::kFp16) {
      for (size_t i = 1; i < chunk.params.size(); i += 2) chunk.params[i] = 0x3C;  // finite
    } else {
      for (uint64_t i = 0; i < chunk.rows; ++i) chunk.row_scales.push_back(some_half(row + i));
    }
    if (encoding == ParamEncoding::kTwoLevel) chunk.offset_unit = 3;
    chunk.error = {.ww = 2, .vv = 2, .wv = 1.9, .err = 0.2, .count = 1};
    tensor.chunks.push_back(std::move(chunk));
  }
  return tensor;
}

struct StoreOptions {
  uint64_t part_size = 1ULL << 30;
  uint64_t planned_bytes = 0;
  std::string component;
  std::map<std::string, std::string> metadata = {};
};

/// Write `tensors` as they are and commit.
inline void store(const std::string& output, const std::vector<QuantizedTensor>& tensors,
                  const StoreOptions& options = {}) {
  Staging staging(output, true, 0);
  ComponentWriter writer(staging, {.directory = options.component,
                                   .metadata = options.metadata,
                                   .planned_bytes = options.planned_bytes,
                                   .part_size = options.part_size});
  for (const QuantizedTensor& tensor : tensors) {
    for (const QuantizedChunk& chunk : tensor.chunks) writer.append(tensor.info, chunk);
  }
  Manifest manifest{.tool_version = "test", .modality = "image"};
  manifest.files = writer.finish();
  ManifestComponent component{.name = options.component, .tensors = tensors.size()};
  for (const FileRecord& file : manifest.files) component.parts.push_back(file.path);
  manifest.components.push_back(component);
  staging.commit(write_manifest(manifest));
}

}  // namespace arrow_quant::testing
