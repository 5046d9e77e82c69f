// Decides for every tensor of a model what happens to it. Reads headers only.
#pragma once

#include <cstdint>
#include <vector>

#include "arrow_quant/model_index.h"
#include "arrow_quant/plan.h"

namespace arrow_quant {

/// Make the plan. Raises kConfiguration for an option that is invalid or fits nothing in the model.
Plan make_plan(const ModelDirectory& model, const PlanOptions& options);

/// Bytes of codes and parameters of a planned weight, or of a copy.
uint64_t planned_bytes(const TensorInfo& tensor, const TensorPlan& plan);

/// Give the tensors that are marked in `failing` (one flag per tensor of `plan`, in order) the next
/// wider codes, except where a rule decided. `options` made the plan. Returns how many it changed.
uint64_t raise_bits(const ModelDirectory& model, const PlanOptions& options,
                    const std::vector<bool>& failing, Plan& plan);

/// Whether raise_bits could change anything of `plan`.
bool can_raise_bits(const Plan& plan) noexcept;

/// Raise kConfiguration unless bit width, group size and encoding fit together.
void check_plan_options(const PlanOptions& options);

}  // namespace arrow_quant
