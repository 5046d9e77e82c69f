// Cutting a line into runs of neighbours.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

namespace arrow_quant {

/// The partition of `points` (above 0) into at most `max_groups` (above 0) runs whose costs,
/// finite, have the least sum; of equal sums the one with fewest runs. `cost(begin, end)` is that
/// of the run [begin, end). Exact, by dynamic programming over the last run; points^2 calls of
/// `cost` and points^2 * most additions. Returns where each run begins; the first is 0.
std::vector<size_t> best_partition(size_t points, size_t max_groups,
                                   const std::function<double(size_t, size_t)>& cost);

}  // namespace arrow_quant
