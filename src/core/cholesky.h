// Cholesky factorisation with the engine's own threads.
#pragma once

#include <cstddef>
#include <functional>

#include "core/thread_pool.h"

namespace arrow_quant {

/// Replace the lower triangle of a[n][n] (row-major, contiguous) by L with a = L L^T; what lies
/// above the diagonal is lost. Return false, with `a` half done, when a leading minor is not
/// positive (or not a number). The same bits for any number of threads.
bool cholesky(size_t n, float* a, ThreadPool& pool, const std::function<void()>& poll);

}  // namespace arrow_quant
