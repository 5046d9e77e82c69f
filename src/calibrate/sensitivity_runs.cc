#include "calibrate/sensitivity_runs.h"

#include <algorithm>
#include <numeric>

namespace arrow_quant {

void merge_runs(const SensitivityRuns& from, SensitivityRuns& to) {
  for (const auto& [layer, values] : from) {
    std::vector<double>& all = to[layer];
    all.insert(all.end(), values.begin(), values.end());
    std::ranges::sort(all);
  }
}

SensitivityRuns one_run(const std::map<std::string, double>& sensitivities) {
  SensitivityRuns runs;
  for (const auto& [layer, value] : sensitivities) runs[layer] = {value};
  return runs;
}

std::map<std::string, double> mean_of(const SensitivityRuns& runs) {
  std::map<std::string, double> means;
  for (const auto& [layer, values] : runs) {
    means[layer] =
        std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  }
  return means;
}

}  // namespace arrow_quant
