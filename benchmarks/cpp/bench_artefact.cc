// Reading an artefact back, as JSON on standard output.
//
//   bench_artefact ARTEFACT [--threads N] [--repeats K]
//
// Opens the artefact, then dequantizes every quantized tensor to f32 with checksums verified, each
// thread into its own buffer that is larger than the caches. The yardstick is a streaming sum over
// memory in the same process.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include "arrow_quant/artefact.h"
#include "arrow_quant/page_reuse.h"
#include "core/thread_pool.h"
#include "kernels/dequantize_rows.h"

namespace {

using arrow_quant::Artefact;
using arrow_quant::Encoding;
using arrow_quant::ThreadPool;

double seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double best_of(int repeats, const std::function<void()>& work) {
  double best = HUGE_VAL;
  for (int i = 0; i < repeats; ++i) best = std::min(best, seconds_of(work));
  return best;
}

double streaming_sum_gbs(ThreadPool& pool, int repeats) {
  constexpr size_t kCount = 64U << 20;
  constexpr size_t kBlock = 1U << 20;
  const std::vector<float> data(kCount, 1.0F);
  std::atomic<float> sink{0};
  const double seconds = best_of(repeats, [&] {
    pool.parallel_for(kCount / kBlock, [&](size_t block, int) {
      float sums[64] = {};
      const float* from = data.data() + block * kBlock;
      for (size_t i = 0; i < kBlock; i += 64) {
        for (size_t j = 0; j < 64; ++j) sums[j] += from[i + j];
      }
      sink.store(std::accumulate(std::begin(sums), std::end(sums), 0.0F));
    });
  });
  return kCount * sizeof(float) / seconds * 1e-9;
}

struct Work {
  size_t component, tensor, chunk;
  uint64_t elements;
};

std::vector<Work> quantized_chunks(const Artefact& artefact) {
  std::vector<Work> work;
  for (size_t c = 0; c < artefact.manifest().components.size(); ++c) {
    const auto& tensors = artefact.tensors(c);
    for (size_t t = 0; t < tensors.size(); ++t) {
      if (tensors[t].encoding == Encoding::kCopy) continue;
      for (size_t k = 0; k < artefact.chunks(c, t); ++k) {
        work.push_back({c, t, k, tensors[t].elements()});
      }
    }
  }
  return work;
}

void dequantize_all(const Artefact& artefact, const std::vector<Work>& work, ThreadPool& pool,
                    std::vector<std::vector<float>>& buffers) {
  pool.parallel_for(work.size(), [&](size_t i, int worker) {
    const Work& item = work[i];
    const auto& info = artefact.tensors(item.component)[item.tensor];
    float* out = buffers[static_cast<size_t>(worker)].data();
    artefact.visit_chunk(item.component, item.tensor, item.chunk,
                         [&](const Artefact::ChunkView& view) {
                           arrow_quant::dequantize_rows(info.spec,
                                                        {.codes = view.codes.data(),
                                                         .params = view.params.data(),
                                                         .row_scales = view.row_scales.data(),
                                                         .tensor_scale = view.tensor_scale,
                                                         .offset_unit = view.offset_unit,
                                                         .rows = view.rows,
                                                         .cols = info.cols()},
                                                        out);
                         });
  });
}

int run(int argc, char** argv) {
  int threads = 2;
  int repeats = 5;
  for (int i = 2; i + 1 < argc; i += 2) {
    (std::strcmp(argv[i], "--threads") == 0 ? threads : repeats) = std::atoi(argv[i + 1]);
  }
  ThreadPool pool(threads);
  const double open_seconds =
      best_of(repeats, [&] { const Artefact opened = Artefact::open(argv[1]); });
  const Artefact artefact = Artefact::open(argv[1]);
  const double list_seconds = seconds_of([&] { artefact.tensors(0); });
  const std::vector<Work> work = quantized_chunks(artefact);
  uint64_t total = 0;
  uint64_t largest = 0;
  for (const Work& item : work) {
    total += item.chunk == 0 ? item.elements : 0;
    largest = std::max(largest, item.elements);
  }
  const arrow_quant::PageReuse reuse;
  std::vector<std::vector<float>> buffers(static_cast<size_t>(pool.size()),
                                          std::vector<float>(largest));
  const double yardstick = streaming_sum_gbs(pool, repeats);
  const double seconds = best_of(repeats, [&] { dequantize_all(artefact, work, pool, buffers); });
  const double rate = static_cast<double>(total) * sizeof(float) / seconds * 1e-9;
  std::printf(
      "{\"open_ms\": %.2f, \"list_ms\": %.2f, \"weights\": %llu, \"streaming_sum_gbs\": %.2f, "
      "\"dequantize_gbs\": %.2f, \"of_bandwidth\": %.3f}\n",
      open_seconds * 1e3, list_seconds * 1e3, static_cast<unsigned long long>(total), yardstick,
      rate, rate / yardstick);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: bench_artefact ARTEFACT [--threads N] [--repeats K]\n");
    return 2;
  }
  try {
    return run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
