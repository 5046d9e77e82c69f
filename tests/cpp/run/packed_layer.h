// A quantized weight as the run time gets it, and the same weight restored, for comparison.
#pragma once

#include <random>
#include <span>
#include <vector>

#include "arrow_quant/pipeline.h"
#include "arrow_quant/quantized_tensor.h"
#include "run/packed_view.h"
#include "support/tiny_model.h"

namespace arrow_quant::testing {

inline std::vector<float> gaussian(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& v : values) v = normal(random);
  return values;
}

struct PackedLayer {
  PackedLayer(const AffineSpec& spec, size_t outputs, size_t inputs) {
    QuietProgress progress;
    const QuantizedTensorInfo info{.name = "w", .shape = {outputs, inputs}, .spec = spec};
    const auto weights = gaussian(outputs * inputs, 7);
    tensor = quantize_array(info, std::as_bytes(std::span(weights)), {}, 1, progress);
    const QuantizedChunk& chunk = tensor.chunks.at(0);
    restored.resize(outputs * inputs);
    dequantize(tensor, restored, 1);
    // In two chunks, as large tensors are stored.
    chunks = {{0, chunk.tensor_scale, chunk.offset_unit}};
    if (outputs > 1) chunks.push_back({outputs / 2, chunk.tensor_scale, chunk.offset_unit});
    weight = {.spec = tensor.info.spec,
              .rows = outputs,
              .cols = inputs,
              .codes = chunk.codes,
              .params = chunk.params,
              .row_scales = chunk.row_scales,
              .chunks = chunks};
    row_scales = row_scales_of(weight);
  }
  PackedLayer(const PackedLayer&) = delete;
  PackedLayer& operator=(const PackedLayer&) = delete;

  QuantizedTensor tensor;
  std::vector<float> restored, row_scales;
  std::vector<PackedWeightView::Chunk> chunks;
  PackedWeightView weight;
};

}  // namespace arrow_quant::testing
