// Which equalization scales a run fuses into parameters before the layers. All layers that read one
// input share its scales, so one choice is made for all of them: the scales with the smallest sum
// of output errors.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "arrow_quant/model_index.h"
#include "arrow_quant/plan.h"
#include "arrow_quant/progress.h"
#include "choose/calibration_source.h"
#include "choose/layer_choice.h"
#include "core/thread_pool.h"
#include "read/folded_tensor.h"

namespace arrow_quant {

struct FoldPlan {
  std::vector<ChosenFold> folds;
  TensorFolds tensors;                ///< what they do
  std::vector<std::string> warnings;  ///< what is not folded, and why
};

/// Decide about the folds that `calibration` names. From then on, it gives the inputs of the fused
/// layers divided by their scales.
FoldPlan choose_folds(const ModelIndex& component, const ComponentPlan& plan,
                      const ChoiceOptions& options, uint64_t max_memory_bytes,
                      CalibrationSource& calibration, ThreadPool& pool, Progress& progress);

}  // namespace arrow_quant
