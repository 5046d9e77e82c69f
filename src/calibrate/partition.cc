#include "calibrate/partition.h"

#include <algorithm>
#include <cmath>

namespace arrow_quant {

std::vector<size_t> best_partition(size_t points, size_t max_groups,
                                   const std::function<double(size_t, size_t)>& cost) {
  max_groups = std::min(max_groups, points);
  const size_t width = points + 1;
  std::vector<double> run(width * width, 0.0);  // [begin][end]
  for (size_t begin = 0; begin < points; ++begin) {
    for (size_t end = begin + 1; end <= points; ++end) run[begin * width + end] = cost(begin, end);
  }
  // least[k][end]: of the first `end` points in exactly k runs, the last of which begins at `from`.
  std::vector<double> min_cost((max_groups + 1) * width, HUGE_VAL);
  std::vector<size_t> from((max_groups + 1) * width, 0);
  min_cost[0] = 0;
  for (size_t k = 1; k <= max_groups; ++k) {
    for (size_t end = k; end <= points; ++end) {
      for (size_t begin = k - 1; begin < end; ++begin) {
        const double sum = min_cost[(k - 1) * width + begin] + run[begin * width + end];
        if (sum < min_cost[k * width + end]) {
          min_cost[k * width + end] = sum;
          from[k * width + end] = begin;
        }
      }
    }
  }
  size_t runs = 1;
  for (size_t k = 2; k <= max_groups; ++k) {
    if (min_cost[k * width + points] < min_cost[runs * width + points]) runs = k;
  }
  std::vector<size_t> begins(runs);
  for (size_t k = runs, end = points; k > 0; --k) {
    end = from[k * width + end];
    begins[k - 1] = end;
  }
  return begins;
}

}  // namespace arrow_quant
