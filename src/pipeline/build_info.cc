#include <arrow/config.h>

#include <string>

#include "arrow_quant/pipeline.h"
#include "core/blas.h"
#include "core/thread_pool.h"
#include "kernels/isa.h"

namespace arrow_quant {

BuildInfo build_info() {
  check_isa_override();
  return {.version = ARROW_QUANT_VERSION,
          .isa = active_isa(),
          .supported_isas = supported_isas(),
          .arrow_version = arrow::GetBuildInfo().version_string,
          .openblas = blas::describe(),
          .compiler = __VERSION__,
          .cores = available_cores()};
}

}  // namespace arrow_quant
