// Time-aware quantization of one layer: its mean error corrected by group of time, where that pays.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <span>

#include "choose/layer_trial.h"
#include "choose/time_groups.h"

namespace arrow_quant {

/// Makes the Gram matrix and the factor of inputs less their means.
using Centre = std::function<Centred(const TimeMeans&)>;

/// Look for a correction of the mean error that lowers the output error of `best`, which is
/// `min_error` without it, by more than its bytes would as wider codes: one for each of `times`, or
/// one for all of them. Change `best` and `min_error` if there is one; add what was tried to
/// `tried`.
void correct_over_time(const InputStatistics& facts, std::span<const TimeSpan> times,
                       const Centre& centre, LayerTrial& trial, LayerChoice& best,
                       double& min_error, nlohmann::json& tried);

}  // namespace arrow_quant
