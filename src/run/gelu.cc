#include "arrow_quant/gelu.h"

#include <algorithm>

#include "core/parallel.h"
#include "kernels/gelu.h"
#include "kernels/isa.h"
#include "run/float_rows.h"

namespace arrow_quant {
namespace {

constexpr size_t kBlock = 4096;  // numbers; their f32 fit the first-level cache

}  // namespace

void gelu_tanh(const GeluCall& call) {
  check_isa_override();
  parallel_blocks(call.threads, (call.count + kBlock - 1) / kBlock, [&](size_t i) {
    const size_t first = i * kBlock, count = std::min(kBlock, call.count - first);
    FloatRows x(call.x, count);
    gelu_tanh_floats(x.row(first, count), count, call.y.from(first));
  });
}

}  // namespace arrow_quant
