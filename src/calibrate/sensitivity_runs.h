// What several runs measured of the same layers. Pure functions.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace arrow_quant {

/// By the weight of a layer, what each run found, ascending. Kept apart, since sums of floating-
/// point numbers would depend on the order in which files are merged.
using SensitivityRuns = std::map<std::string, std::vector<double>>;

/// Add the runs of `from`.
void merge_runs(const SensitivityRuns& from, SensitivityRuns& to);

/// Each layer as one run found it.
SensitivityRuns one_run(const std::map<std::string, double>& sensitivities);

/// The mean over all runs that know a layer.
std::map<std::string, double> mean_of(const SensitivityRuns& runs);

}  // namespace arrow_quant
