// Sums over activations: the Gram matrix and the moments of every channel.
//
// Neither checks its input: NaN must have been refused before. The same bits for any number of
// threads.
#pragma once

#include <cstddef>
#include <functional>

#include "arrow_quant/gram.h"
#include "core/thread_pool.h"

namespace arrow_quant {

/// gram += weight * x^T x for x[tokens][channels], row-major.
void accumulate_gram(const float* x, size_t tokens, float weight, ThreadPool& pool,
                     const std::function<void()>& poll, GramMatrix& gram);

}  // namespace arrow_quant
