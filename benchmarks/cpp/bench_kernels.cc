// Speed and error of the numeric kernels, as JSON on standard output.
//
//   bench_kernels [--threads N] [--rows R] [--cols C] [--repeats K] [--skip-speed] [--skip-error]
//
// Speed: a streaming sum over the same weights as the yardstick, then quantize, dequantize and
// convert, each the best of K runs, all in one process. Error: NMSE of every encoding on unit
// Gaussian and unit Laplace weights, parameters counted in the bits per weight.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "core/half.h"
#include "kernels/convert.h"
#include "kernels/dequantize_rows.h"
#include "kernels/isa.h"
#include "quantize/affine.h"

namespace {

using arrow_quant::AffineSpec;
using arrow_quant::ErrorSums;
using arrow_quant::Method;
using arrow_quant::ParamEncoding;

struct Options {
  unsigned threads = 2;
  size_t rows = 4096;
  size_t cols = 4096;
  int repeats = 5;
  bool speed = true;
  bool error = true;
};

/// Seconds of the best of `repeats` runs of fn(thread), one call per thread at once.
double best_time(const Options& options, const std::function<void(unsigned)>& fn) {
  double best = HUGE_VAL;
  for (int k = 0; k < options.repeats; ++k) {
    const auto begin = std::chrono::steady_clock::now();
    std::vector<std::thread> threads;
    for (unsigned t = 1; t < options.threads; ++t) threads.emplace_back(fn, t);
    fn(0);
    for (std::thread& thread : threads) thread.join();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::min(best, seconds.count());
  }
  return best;
}

/// Call fn(row_begin, rows) for this thread's share in blocks of `step` rows.
void share(const Options& options, unsigned thread, size_t step,
           const std::function<void(size_t, size_t)>& fn) {
  const size_t begin = options.rows * thread / options.threads;
  const size_t end = options.rows * (thread + 1) / options.threads;
  for (size_t row = begin; row < end; row += step) fn(row, std::min(step, end - row));
}

std::vector<float> random_weights(const Options& options, bool laplace) {
  std::vector<float> weights(options.rows * options.cols);
  // NOLINTNEXTLINE(bugprone-random-generator-seed): the same weights in every run
  std::mt19937_64 random(7);
  std::normal_distribution<float> normal;
  std::exponential_distribution<float> exponential(std::sqrt(2.0F));
  for (float& w : weights) {
    w = laplace ? exponential(random) * ((random() & 1U) != 0 ? 1.0F : -1.0F) : normal(random);
  }
  return weights;
}

/// A quantized matrix in flat arrays.
struct Packed {
  AffineSpec spec;
  arrow_quant::ChunkSettings settings;
  size_t cols = 0;
  std::vector<uint8_t> codes, params;
  std::vector<uint16_t> scales;

  Packed(const AffineSpec& s, const Options& o, const std::vector<float>& weights)
      : spec(s),
        cols(o.cols),
        codes(o.rows * arrow_quant::packed_row_bytes(o.cols, s.bit_width)),
        params(o.rows * arrow_quant::param_row_bytes(o.cols, s)),
        scales(o.rows) {
    settings = choose_chunk_settings(spec, {weights.data(), std::min<size_t>(o.rows, 16), cols});
  }

  arrow_quant::PackedRowsOut rows_out(size_t row) {
    return {codes.data() + row * arrow_quant::packed_row_bytes(cols, spec.bit_width),
            params.data() + row * arrow_quant::param_row_bytes(cols, spec), scales.data() + row};
  }

  arrow_quant::PackedRows rows_in(size_t row, size_t rows) {
    const arrow_quant::PackedRowsOut at = rows_out(row);
    return {at.codes, at.params, at.row_scales, settings.tensor_scale, settings.offset_unit,
            rows,     cols};
  }

  double bits_per_weight(const Options& o) const {
    const bool row_scale = spec.param_encoding != ParamEncoding::kFp16;
    const double bytes = static_cast<double>(codes.size() + params.size()) +
                         (row_scale ? 2.0 * static_cast<double>(o.rows) : 0.0);
    return 8.0 * bytes / static_cast<double>(o.rows * o.cols);
  }
};

ErrorSums quantize(const Options& options, Packed& packed, const std::vector<float>& weights) {
  std::vector<ErrorSums> sums(options.threads);
  std::atomic<bool> failed{false};
  const auto work = [&](unsigned thread) {
    share(options, thread, 16, [&](size_t row, size_t rows) {
      if (!quantize_rows(packed.spec, packed.settings,
                         {weights.data() + row * options.cols, rows, options.cols},
                         packed.rows_out(row), sums[thread])) {
        failed = true;
      }
    });
  };
  std::vector<std::thread> threads;
  for (unsigned t = 1; t < options.threads; ++t) threads.emplace_back(work, t);
  work(0);
  for (std::thread& thread : threads) thread.join();
  if (failed) throw std::runtime_error("a parameter left the fp16 range");
  for (unsigned t = 1; t < options.threads; ++t) sums[0].add(sums[t]);
  return sums[0];
}

std::string spec_json(const AffineSpec& spec) {
  char text[160];
  std::snprintf(
      text, sizeof(text), R"("bit_width": %d, "group_size": %d, "params": "%s", "method": "%s")",
      spec.bit_width, spec.group_size, std::string(to_string(spec.param_encoding)).c_str(),
      std::string(to_string(spec.method)).c_str());
  return text;
}

class Json {
 public:
  Json() { std::printf("{"); }
  ~Json() { std::printf("\n}\n"); }
  Json(const Json&) = delete;
  Json& operator=(const Json&) = delete;

  void number(const char* name, double value) {
    std::printf("%s\n  \"%s\": %.6g", comma(), name, value);
  }
  void text(const char* name, const std::string& value) {
    std::printf("%s\n  \"%s\": \"%s\"", comma(), name, value.c_str());
  }
  void list(const char* name, const std::vector<std::string>& items) {
    std::printf("%s\n  \"%s\": [", comma(), name);
    for (size_t i = 0; i < items.size(); ++i) {
      std::printf("%s\n    {%s}", i == 0 ? "" : ",", items[i].c_str());
    }
    std::printf("\n  ]");
    std::fflush(stdout);
  }

 private:
  const char* comma() {
    const bool was_first = first_;
    first_ = false;
    return was_first ? "" : ",";
  }
  bool first_ = true;
};

double streaming_sum_gbs(const Options& options, const std::vector<float>& weights) {
  std::atomic<float> sink{0};
  const double seconds = best_time(options, [&](unsigned thread) {
    float sums[64] = {};
    share(options, thread, 16, [&](size_t row, size_t rows) {
      const float* from = weights.data() + row * options.cols;
      const size_t count = rows * options.cols;
      for (size_t i = 0; i + 64 <= count; i += 64) {
        for (size_t j = 0; j < 64; ++j) sums[j] += from[i + j];
      }
    });
    for (float s : sums) sink.store(s);
  });
  return static_cast<double>(weights.size() * sizeof(float)) / seconds * 1e-9;
}

std::vector<AffineSpec> speed_specs() {
  std::vector<AffineSpec> specs;
  for (Method method : {Method::kRtn, Method::kSearch}) {
    for (int bits : {4, 2}) {
      specs.push_back({bits, 64, ParamEncoding::kFp16, method});
      specs.push_back({bits, 64, ParamEncoding::kTwoLevel, method});
      specs.push_back({bits, 128, ParamEncoding::kTwoLevel, method});
    }
    specs.push_back({8, 64, ParamEncoding::kFp16, method});
    specs.push_back({8, 128, ParamEncoding::kRow, method});
  }
  return specs;
}

std::string rate_json(const AffineSpec& spec, double weights, double seconds, double bytes,
                      double yardstick) {
  char text[160];
  std::snprintf(
      text, sizeof(text), R"(, "mweights_per_s": %.1f, "f32_gb_per_s": %.2f, "of_bandwidth": %.3f)",
      weights / seconds * 1e-6, bytes / seconds * 1e-9, bytes / seconds * 1e-9 / yardstick);
  return spec_json(spec) + text;
}

void report_quantize(Json& json, const Options& options, const std::vector<float>& weights,
                     double yardstick) {
  std::vector<std::string> items;
  for (const AffineSpec& spec : speed_specs()) {
    Packed packed(spec, options, weights);
    Options runs = options;
    if (spec.method == Method::kSearch) runs.repeats = std::min(options.repeats, 2);
    const double seconds = best_time(runs, [&](unsigned thread) {
      ErrorSums sums;
      share(options, thread, 16, [&](size_t row, size_t rows) {
        (void)quantize_rows(spec, packed.settings,
                            {weights.data() + row * options.cols, rows, options.cols},
                            packed.rows_out(row), sums);
      });
    });
    const double n = static_cast<double>(weights.size());
    items.push_back(rate_json(spec, n, seconds, 4 * n, yardstick));
  }
  json.list("quantize", items);
}

void report_dequantize(Json& json, const Options& options, const std::vector<float>& weights,
                       double yardstick) {
  std::vector<std::string> items;
  std::vector<float> out(weights.size());
  for (const AffineSpec& spec : speed_specs()) {
    if (spec.method == Method::kSearch) continue;
    Packed packed(spec, options, weights);
    (void)quantize(options, packed, weights);
    const double seconds = best_time(options, [&](unsigned thread) {
      share(options, thread, 64, [&](size_t row, size_t rows) {
        dequantize_rows(spec, packed.rows_in(row, rows), out.data() + row * options.cols);
      });
    });
    const double n = static_cast<double>(weights.size());
    items.push_back(rate_json(spec, n, seconds, 4 * n, yardstick));
  }
  json.list("dequantize", items);
}

void report_convert(Json& json, const Options& options, const std::vector<float>& weights) {
  using arrow_quant::DType;
  std::vector<std::string> items;
  std::vector<double> source(weights.size() / 2 + 64);
  std::vector<uint16_t> halves(weights.size());
  arrow_quant::convert_f32_to_bf16(weights.data(), weights.size(), halves.data());
  std::memcpy(source.data(), halves.data(), weights.size() * sizeof(uint16_t));
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3, DType::kF8E5M2}) {
    const size_t width = arrow_quant::dtype_info(dtype).bits / 8;
    const size_t block = 16384;  // elements; converted into the cache, as the pipeline does
    const size_t count = weights.size() / 2;
    const double seconds = best_time(options, [&](unsigned thread) {
      std::vector<float> out(block);
      const char* bytes = reinterpret_cast<const char*>(source.data());
      for (size_t i = thread * block; i + block <= count; i += options.threads * block) {
        (void)convert_to_f32(dtype, bytes + i * width, block, out.data());
      }
    });
    char text[160];
    std::snprintf(text, sizeof(text),
                  R"("dtype": "%s", "mweights_per_s": %.1f, "source_gb_per_s": %.2f)",
                  std::string(arrow_quant::dtype_info(dtype).name).c_str(),
                  static_cast<double>(count) / seconds * 1e-6,
                  static_cast<double>(count * width) / seconds * 1e-9);
    items.emplace_back(text);
  }
  json.list("convert", items);
}

void report_error(Json& json, const Options& options) {
  std::vector<std::string> items;
  for (bool laplace : {false, true}) {
    const std::vector<float> weights = random_weights(options, laplace);
    for (Method method : {Method::kRtn, Method::kSearch}) {
      for (int bits : {4, 2}) {
        for (int group : {32, 64, 128}) {
          for (ParamEncoding params : {ParamEncoding::kTwoLevel, ParamEncoding::kFp16}) {
            const AffineSpec spec{bits, group, params, method};
            Packed packed(spec, options, weights);
            const ErrorSums sums = quantize(options, packed, weights);
            char text[160];
            std::snprintf(
                text, sizeof(text), R"(, "weights": "%s", "bits_per_weight": %.4f, "nmse": %.6g)",
                laplace ? "laplace" : "gauss", packed.bits_per_weight(options), sums.nmse());
            items.push_back(spec_json(spec) + text);
          }
        }
      }
      for (const AffineSpec& spec : {AffineSpec{8, 64, ParamEncoding::kFp16, method},
                                     AffineSpec{8, 128, ParamEncoding::kRow, method}}) {
        Packed packed(spec, options, weights);
        const ErrorSums sums = quantize(options, packed, weights);
        char text[160];
        std::snprintf(text, sizeof(text),
                      R"(, "weights": "%s", "bits_per_weight": %.4f, "nmse": %.6g)",
                      laplace ? "laplace" : "gauss", packed.bits_per_weight(options), sums.nmse());
        items.push_back(spec_json(spec) + text);
      }
    }
  }
  json.list("error", items);
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const auto value = [&] { return i + 1 < argc ? std::strtoul(argv[++i], nullptr, 10) : 0UL; };
    if (name == "--threads") {
      options.threads = static_cast<unsigned>(std::max(1UL, value()));
    } else if (name == "--rows") {
      options.rows = std::max(16UL, value());
    } else if (name == "--cols") {
      options.cols = std::max(16UL, value());
    } else if (name == "--repeats") {
      options.repeats = static_cast<int>(std::max(1UL, value()));
    } else if (name == "--skip-speed") {
      options.speed = false;
    } else if (name == "--skip-error") {
      options.error = false;
    } else {
      throw std::invalid_argument("unknown option " + name);
    }
  }
  return options;
}

void report(const Options& options) {
  arrow_quant::check_isa_override();
  Json json;
  json.text("isa", arrow_quant::active_isa());
  json.number("threads", options.threads);
  json.number("rows", static_cast<double>(options.rows));
  json.number("cols", static_cast<double>(options.cols));
  if (options.speed) {
    const std::vector<float> weights = random_weights(options, false);
    const double yardstick = streaming_sum_gbs(options, weights);
    json.number("streaming_sum_gb_per_s", yardstick);
    report_quantize(json, options, weights, yardstick);
    report_dequantize(json, options, weights, yardstick);
    report_convert(json, options, weights);
  }
  if (options.error) report_error(json, options);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    report(parse(argc, argv));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
