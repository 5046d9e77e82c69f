// One component at one bit width: every tensor, chunk by chunk, from the source files to the
// writer.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "arrow_quant/model_index.h"
#include "arrow_quant/pipeline.h"
#include "arrow_quant/plan.h"
#include "choose/calibration_source.h"
#include "choose/layer_choice.h"
#include "core/thread_pool.h"
#include "read/folded_tensor.h"

namespace arrow_quant {

/// Where finished chunks go. Called on the writer thread, in source order.
using ChunkSink = std::function<void(const QuantizedTensorInfo&, QuantizedChunk)>;

/// Told after every chunk, on the calling thread: the tensor and the source bytes done.
using BytesDone = std::function<void(const TensorPlan& tensor, uint64_t bytes)>;

/// Shared by all components of one run.
struct RunContext {
  ThreadPool& pool;
  uint64_t max_memory_bytes;
  Progress& progress;
  CalibrationSource* calibration = nullptr;  ///< of this component; null: data-free
  ChoiceOptions choice = {};
  const TensorFolds* folds = nullptr;          ///< what happens to weights before anything else
  const EarlierResult* precomputed = nullptr;  ///< tensors to write as they are; null: none
};

/// Quantize or copy every tensor of `component` as `plan` says and hand the chunks to `sink`.
/// Returns one report per tensor, in source order.
std::vector<TensorReport> run_component(const ModelIndex& component, const ComponentPlan& plan,
                                        const RunContext& context, const ChunkSink& sink,
                                        const BytesDone& bytes_done);

}  // namespace arrow_quant
