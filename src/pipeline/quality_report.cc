#include "pipeline/quality_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/blas.h"
#include "kernels/isa.h"
#include "pipeline/summary.h"

namespace arrow_quant {

void summarize(QuantizeReport& report) {
  QualitySummary quality;
  uint64_t stored = 0;
  double nmse = 0, output_nmse = 0, output_elements = 0;
  for (const TensorReport& tensor : report.tensors) {
    const QuantizedTensorInfo& info = tensor.info;
    if (info.encoding == Encoding::kCopy) continue;
    const auto elements = static_cast<double>(info.elements());
    quality.add(info.name, info.elements(), accuracy_of(info));
    nmse += info.nmse * elements;
    if (info.output_nmse) {
      output_nmse += *info.output_nmse * elements;
      output_elements += elements;
    }
    stored += tensor.stored_bytes;
    ++report.layers_by_bit_width[info.spec.bit_width];
  }
  const auto elements = static_cast<double>(std::max<uint64_t>(1, quality.elements()));
  report.cosine_similarity = quality.mean();
  report.cosine_of_outputs = output_elements > 0;
  report.min_cosine_similarity = quality.worst();
  report.worst_layer = quality.worst_layer();
  report.nmse = nmse / elements;
  if (output_elements > 0) report.output_nmse = output_nmse / output_elements;
  report.bits_per_weight = static_cast<double>(stored) * 8 / elements;
}

std::string machine_json(const QuantizeOptions& options) {
  nlohmann::json machine = {{"instruction_set", active_isa()}, {"openblas", blas::describe()}};
  if (!options.torch_version.empty()) machine["torch"] = options.torch_version;
  return machine.dump();
}

std::string report_json(const QuantizeReport& report, const std::string& mixed_precision_json) {
  using Json = nlohmann::json;
  Json attempts = Json::array();
  for (const Attempt& attempt : report.attempts) {
    attempts.push_back({{"bit_width", attempt.bit_width},
                        {"cosine_similarity", attempt.cosine_similarity},
                        {"min_cosine_similarity", attempt.min_cosine_similarity},
                        {"worst_layer", attempt.worst_layer}});
  }
  Json layers = Json::object();
  for (const auto& [bits, count] : report.layers_by_bit_width) {
    layers[std::to_string(bits)] = count;
  }
  Json json = {{"bit_width", report.bit_width},
               {"cosine_similarity", report.cosine_similarity},
               {"cosine_kind", report.cosine_of_outputs ? "outputs" : "weights"},
               {"calibration", report.calibration},
               {"min_cosine_similarity", report.min_cosine_similarity},
               {"worst_layer", report.worst_layer},
               {"nmse", report.nmse},
               {"bits_per_weight", report.bits_per_weight},
               {"layers_by_bit_width", std::move(layers)},
               {"source_bytes", report.source_bytes},
               {"modality_reason", report.modality_reason},
               {"meets_min_accuracy", report.meets_min_accuracy},
               {"attempts", std::move(attempts)}};
  if (report.output_nmse) json["output_nmse"] = *report.output_nmse;
  if (!mixed_precision_json.empty()) json["mixed_precision"] = Json::parse(mixed_precision_json);
  return json.dump();
}

}  // namespace arrow_quant
