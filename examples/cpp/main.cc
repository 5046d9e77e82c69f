// Quantizes a model from C++ and prints what became of it.
//
// Usage: quantize_file MODEL OUTPUT [BITS]
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string_view>

#include "arrow_quant/error.h"
#include "arrow_quant/pipeline.h"

namespace {

class PrintProgress final : public arrow_quant::Progress {
 public:
  void report(std::string_view message, double fraction) override {
    std::fprintf(stderr, "[%3.0f%%] %.*s\n", fraction * 100, static_cast<int>(message.size()),
                 message.data());
  }
  void poll() override {}
};

void print_report(const arrow_quant::QuantizeReport& report) {
  std::printf("%s: INT%d, modality %s (%s)\n", report.quantized_path.c_str(), report.bit_width,
              report.modality.c_str(), report.modality_reason.c_str());
  std::printf("%.2f MB -> %.2f MB, %.3f bits per weight\n",
              static_cast<double>(report.source_bytes) / 1e6,
              static_cast<double>(report.weights_bytes) / 1e6, report.bits_per_weight);
  std::printf("cosine similarity %.6f, worst %.6f (%s), NMSE %.3g\n", report.cosine_similarity,
              report.min_cosine_similarity, report.worst_layer.c_str(), report.nmse);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s MODEL OUTPUT [BITS]\n", argv[0]);
    return 2;
  }
  arrow_quant::QuantizeOptions options;
  options.overwrite = true;
  if (argc > 3) options.plan.bit_width = std::atoi(argv[3]);
  PrintProgress progress;
  try {
    print_report(arrow_quant::quantize_model(argv[1], argv[2], options, progress));
  } catch (const arrow_quant::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return arrow_quant::exit_code(error.code());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
  return 0;
}
