// Speed of quantization with error feedback, as JSON on standard output.
//
//   bench_gptq [--threads N] [--channels C] [--rows R] [--tokens T] [--repeats K]
//
// In one process, each the best of K runs: OpenBLAS's sgemm and ssyrk as the yardsticks, Gram
// accumulation, then for one layer the factor, the parameter search, the feedback, the whole, and
// the whole when more scales of each row are tried (`scales_seconds`).
// `nominal` counts what GPTQ is usually said to cost, channels^3 / 3 each for the factorisation and
// the inverse and rows * channels^2 for the updates, two operations each.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "calibrate/accumulate.h"
#include "core/blas.h"
#include "core/thread_pool.h"
#include "kernels/isa.h"
#include "quantize/error_feedback.h"
#include "quantize/output_error.h"

namespace {

using arrow_quant::AffineSpec;
using arrow_quant::ErrorSums;
using arrow_quant::FeedbackEffort;
using arrow_quant::FeedbackFactor;
using arrow_quant::GramMatrix;
using arrow_quant::Method;
using arrow_quant::ParamEncoding;
using arrow_quant::QuantizedChunk;
using arrow_quant::ThreadPool;

struct Options {
  int threads = 2;
  size_t channels = 4096;
  size_t rows = 4096;
  size_t tokens = 4096;
  int repeats = 3;
};

double best_time(int repeats, const std::function<void()>& fn) {
  double best = HUGE_VAL;
  for (int k = 0; k < repeats; ++k) {
    const auto begin = std::chrono::steady_clock::now();
    fn();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::min(best, seconds.count());
  }
  return best;
}

std::vector<float> random_values(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& v : values) v = normal(random);
  return values;
}

/// Tokens whose channels differ in energy and hang together: sums of running neighbours.
std::vector<float> correlated_tokens(size_t tokens, size_t channels) {
  std::vector<float> x = random_values(tokens * channels, 1);
  for (size_t t = 0; t < tokens; ++t) {
    float* row = x.data() + t * channels;
    for (size_t c = 1; c < channels; ++c) row[c] += 0.8F * row[c - 1];
    for (size_t c = 0; c < channels; ++c) row[c] *= 0.5F + static_cast<float>(c * 37 % 64) / 32.0F;
  }
  return x;
}

class Bench {
 public:
  explicit Bench(const Options& options)
      : o_(options),
        n_(static_cast<double>(options.channels)),
        pool_(options.threads),
        tokens_(correlated_tokens(options.tokens, options.channels)),
        weights_(random_values(options.rows * options.channels, 2)),
        gram_(options.channels) {}

  void run() {
    std::printf("{\n  \"isa\": \"%s\", \"openblas\": \"%s\", \"threads\": %d,\n",
                arrow_quant::active_isa().c_str(), arrow_quant::blas::describe().c_str(),
                o_.threads);
    std::printf("  \"channels\": %zu, \"rows\": %zu, \"tokens\": %zu,\n", o_.channels, o_.rows,
                o_.tokens);
    gemm_ = gemm_rate();
    std::printf("  \"sgemm_gflops\": %.1f,\n", gemm_);
    report_gram();
    const double factor_seconds = best_time(
        o_.repeats, [&] { factor_ = make_feedback_factor(gram_, 4 * o_.channels, {}, pool_); });
    std::printf("  \"factor_seconds\": %.3f,\n  \"layers\": [", factor_seconds);
    const AffineSpec specs[] = {{4, 128, ParamEncoding::kTwoLevel, Method::kGptq},
                                {2, 64, ParamEncoding::kTwoLevel, Method::kGptq},
                                {4, 128, ParamEncoding::kFp16, Method::kGptq},
                                {8, 128, ParamEncoding::kRow, Method::kGptq},
                                {2, 64, ParamEncoding::kResidualBinary, Method::kR2q}};
    for (const AffineSpec& spec : specs) {
      report_layer(spec, factor_seconds);
      std::printf("%s", &spec == std::end(specs) - 1 ? "" : ",");
    }
    report_output_error();
    std::printf("\n}\n");
  }

 private:
  /// The better of OpenBLAS with its own threads and one product per thread of the pool.
  double gemm_rate() {
    using arrow_quant::blas::gemm;
    const size_t n = o_.channels, count = static_cast<size_t>(pool_.size());
    std::vector<float> a = random_values(n * n, 3), c(n * n);
    const double own = best_time(
        o_.repeats, [&] { gemm(n, n, n, 1.0F, {a.data(), n}, {a.data(), n}, 0.0F, c.data(), n); });
    const double tiles = best_time(o_.repeats, [&] {
      const arrow_quant::blas::Serial serial;
      pool_.parallel_for(count, [&](size_t i, int) {
        const size_t begin = n * i / count, end = n * (i + 1) / count;
        gemm(end - begin, n, n, 1.0F, {a.data() + begin * n, n}, {a.data(), n}, 0.0F,
             c.data() + begin * n, n);
      });
    });
    return 2 * n_ * n_ * n_ / std::min(own, tiles) * 1e-9;
  }

  void report_gram() {
    const double flops = n_ * n_ * static_cast<double>(o_.tokens);
    std::vector<float> c(o_.channels * o_.channels);
    const double syrk = best_time(o_.repeats, [&] {
      arrow_quant::blas::add_gram(o_.channels, o_.tokens, 1.0F, tokens_.data(), o_.channels,
                                  c.data(), o_.channels);
    });
    // Sums of several times the same tokens are as good as of one time.
    const double ours = best_time(
        o_.repeats, [&] { accumulate_gram(tokens_.data(), o_.tokens, 1.0F, pool_, {}, gram_); });
    std::printf("  \"ssyrk_gflops\": %.1f, \"gram_gflops\": %.1f, \"gram_of_ssyrk\": %.3f,\n",
                flops / syrk * 1e-9, flops / ours * 1e-9, syrk / ours);
  }

  void report_layer(const AffineSpec& spec, double factor_seconds) {
    QuantizedChunk chunk;
    const auto run = [&](FeedbackEffort effort) {
      return best_time(o_.repeats, [&] {
        const FeedbackFactor factor = make_feedback_factor(gram_, 4 * o_.channels, {}, pool_);
        chunk = quantize_chunk_with_feedback(spec, weights_, o_.rows, factor, pool_, {}, effort);
      });
    };
    const double scales = run(FeedbackEffort::kScales), whole = run(FeedbackEffort::kOnce);
    const double feedback = best_time(o_.repeats, [&] { encode_again(spec, chunk); });
    const double nominal =
        2 * (2 * n_ * n_ * n_ / 3 + static_cast<double>(o_.rows) * n_ * n_) / whole * 1e-9;
    std::printf(
        "\n    {\"bit_width\": %d, \"group_size\": %d, \"params\": \"%s\", \"whole_seconds\": "
        "%.3f, "
        "\"feedback_seconds\": %.3f, \"search_seconds\": %.3f, \"scales_seconds\": %.3f, "
        "\"nominal_gflops\": %.1f, \"of_sgemm\": %.3f}",
        spec.bit_width, spec.group_size, std::string(to_string(spec.param_encoding)).c_str(), whole,
        feedback, std::max(0.0, whole - feedback - factor_seconds), scales, nominal,
        nominal / gemm_);
    std::fflush(stdout);
  }

  void encode_again(const AffineSpec& spec, QuantizedChunk& chunk) {
    const arrow_quant::ChunkSettings settings{chunk.tensor_scale, chunk.offset_unit};
    const size_t step = arrow_quant::kFeedbackRows, cols = o_.channels;
    std::vector<ErrorSums> sums((o_.rows + step - 1) / step);
    pool_.parallel_for(sums.size(), [&](size_t tile, int) {
      const size_t row = tile * step;
      encode_rows_with_feedback(
          spec, settings, {weights_.data() + row * cols, std::min(step, o_.rows - row), cols},
          factor_,
          {chunk.codes.data() + row * arrow_quant::packed_row_bytes(cols, spec.bit_width),
           chunk.params.data() + row * arrow_quant::param_row_bytes(cols, spec),
           chunk.row_scales.empty() ? nullptr : chunk.row_scales.data() + row},
          sums[tile]);
    });
  }

  void report_output_error() {
    std::vector<float> restored = weights_;
    for (float& w : restored) w = std::round(8 * w) / 8;
    const double seconds =
        best_time(o_.repeats, [&] { (void)output_sums(gram_, weights_, restored, pool_); });
    std::printf("\n  ],\n  \"output_sums_seconds\": %.3f", seconds);
  }

  Options o_;
  double n_;
  double gemm_ = 0;
  ThreadPool pool_;
  std::vector<float> tokens_, weights_;
  GramMatrix gram_;
  FeedbackFactor factor_;
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const auto value = [&] {
      return std::max(1UL, i + 1 < argc ? std::strtoul(argv[++i], nullptr, 10) : 0UL);
    };
    if (name == "--threads") {
      options.threads = static_cast<int>(value());
    } else if (name == "--channels") {
      options.channels = value();
    } else if (name == "--rows") {
      options.rows = value();
    } else if (name == "--tokens") {
      options.tokens = value();
    } else if (name == "--repeats") {
      options.repeats = static_cast<int>(value());
    } else {
      throw std::invalid_argument("unknown option " + name);
    }
  }
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    arrow_quant::check_isa_override();
    Bench(parse(argc, argv)).run();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
