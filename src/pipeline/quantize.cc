// quantize_model: read -> plan -> quantize -> write, at one bit width after the other until the
// result is good enough, then commit.
#include <chrono>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "arrow_quant/error.h"
#include "arrow_quant/pipeline.h"
#include "core/thread_pool.h"
#include "io/staging.h"
#include "kernels/isa.h"
#include "pipeline/component_run.h"
#include "pipeline/fingerprint.h"
#include "pipeline/report.h"
#include "plan/plan.h"
#include "read/model_directory.h"
#include "write/component_writer.h"
#include "write/manifest.h"

namespace arrow_quant {
namespace {

constexpr uint64_t kLeastMemoryMb = 64;
constexpr int kBitWidths[] = {2, 4, 8};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}
