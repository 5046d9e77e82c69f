#include "calibrate/partition.h"

#include <algorithm>
#include <cmath>

namespace arrow_quant {

std::vector<size_t> best_partition(size_t points, size_t most,
                                   const std::function<double(size_t, size_t)>& cost) {
  most = std::min(most, points);
  const size_t width = points + 1;
  std::vector<double> run(width * width, 0.0);  // [begin][end]
  for (size_t begin = 0; begin < points; ++begin) {
    for (size_t end = begin + 1; end <= points; ++end) run[begin * width + end] = cost(begin, end);
  }
  // least[k][end]: of the first `end` points in exactly k runs, the last of which begins at `from`.
  std::vector<double> least((most + 1) * width, HUGE_VAL);
  std::vector<size_t> from((most + 1) * width, 0);
  least[0] = 0;
  for (size_t k = 1; k <= most; ++k) {
    for (size_t end = k; end <= points; ++end) {
      for (size_t begin = k - 1; begin < end; ++begin) {
        const double sum = least[(k - 1) * width + begin] + run[begin * width + end];
        if (sum < least[k * width + end]) {
          least[k * width + end] = sum;
          from[k * width + end] = begin;
        }
      }
    }
  }
  size_t runs = 1;
  for (size_t k = 2; k <= most; ++k) {
    if (least[k * width + points] < least[runs * width + points]) runs = k;
  }
  std::vector<size_t> begins(runs);
  for (size_t k = runs, end = points; k > 0; --k) {
    end = from[k * width + end];
    begins[k - 1] = end;
  }
  return begins;
}

}  // namespace arrow_quant
