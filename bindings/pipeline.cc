// The calls that join all stages: quantize a model, validate an artefact, and what this build is.
#include "arrow_quant/pipeline.h"

#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "parse.h"

namespace arrow_quant::python {
namespace {

EarlierResult precomputed_result(const QuantizeReport& report,
                                 const std::vector<std::pair<std::string, Tensor>>& tensors) {
  EarlierResult precomputed{.bit_width = report.bit_width,
                            .meets_min_accuracy = report.meets_min_accuracy,
                            .attempts = report.attempts,
                            .warnings = report.warnings};
  std::map<std::pair<std::string, std::string>, const TensorReport*> reports;
  for (const TensorReport& tensor : report.tensors) {
    reports[{tensor.component, tensor.info.name}] = &tensor;
  }
  for (const auto& [component, tensor] : tensors) {
    const QuantizedTensorInfo& info = tensor.info();
    const auto found = reports.find({component, info.name});
    if (found == reports.end() || info.encoding != found->second->info.encoding) {
      throw Error(ErrorCode::kConfiguration, "the tensor is not one of the earlier run",
                  {.tensor = info.name});
    }
    EarlierTensor& entry = precomputed.tensors[found->first];
    entry = {.report = *found->second, .tensor = tensor.tensor};
    if (info.spec.method == Method::kLearned) {
      entry.report.info.spec.method = Method::kLearned;
      entry.report.info.candidates = info.candidates;
    }
  }
  return precomputed;
}

void bind_options(nb::module_& m) {
  nb::class_<QuantizeOptions>(m, "QuantizeOptions", "Settings of one run over a model.")
      .def(nb::init<>())
      .def_rw("plan", &QuantizeOptions::plan)
      .def_rw("num_threads", &QuantizeOptions::num_threads)
      .def_rw("max_memory_mb", &QuantizeOptions::max_memory_mb)
      .def_rw("part_size", &QuantizeOptions::part_size)
      .def_rw("overwrite", &QuantizeOptions::overwrite)
      .def_rw("min_accuracy", &QuantizeOptions::min_accuracy)
      .def_rw("min_layer_accuracy", &QuantizeOptions::min_layer_accuracy)
      .def_prop_rw(
          "fallback_scope",
          [](const QuantizeOptions& o) {
            return o.fallback_scope == FallbackScope::kLayer ? "layer" : "model";
          },
          [](QuantizeOptions& o, const std::string& name) {
            o.fallback_scope = fallback_scope_from(name);
          })
      .def_rw("fail_fast", &QuantizeOptions::fail_fast)
      .def_prop_rw(
          "statistics_path",
          [](const QuantizeOptions& o) { return path_to_python(o.statistics_path); },
          [](QuantizeOptions& o, const nb::bytes& path) { o.statistics_path = path_of(path); })
      .def_rw("enable_spatial", &QuantizeOptions::enable_spatial)
      .def_rw("fold_equalization", &QuantizeOptions::fold_equalization)
      .def_rw("enable_time_aware", &QuantizeOptions::enable_time_aware)
      .def_rw("num_time_groups", &QuantizeOptions::num_time_groups)
      .def_rw("data_free_reason", &QuantizeOptions::data_free_reason)
      .def_rw("activation_bits", &QuantizeOptions::activation_bits)
      .def_rw("is_diffusion", &QuantizeOptions::is_diffusion)
      .def_rw("torch_version", &QuantizeOptions::torch_version)
      .def_rw("config_json", &QuantizeOptions::config_json)
      .def_rw("mixed_precision_json", &QuantizeOptions::mixed_precision_json)
      .def_rw("refinements_json", &QuantizeOptions::refinements_json)
      .def(
          "reuse",
          [](QuantizeOptions& o, const QuantizeReport& report,
             const std::vector<std::pair<std::string, Tensor>>& tensors) {
            o.earlier = std::make_shared<const EarlierResult>(precomputed_result(report, tensors));
          },
          nb::arg("report"), nb::arg("tensors"),
          "Write these quantized tensors, given by component, in place of new ones.");
}

void bind_quantize_report(nb::module_& m) {
  nb::class_<TensorReport>(m, "TensorReport", "One tensor of a result.")
      .def_ro("component", &TensorReport::component)
      .def_ro("info", &TensorReport::info)
      .def_ro("stored_bytes", &TensorReport::stored_bytes)
      .def_ro("calibrated", &TensorReport::calibrated)
      .def_ro("equalization", &TensorReport::equalization)
      .def_ro("folded", &TensorReport::folded)
      .def_ro("divided", &TensorReport::divided)
      .def_prop_ro("time_groups", [](const TensorReport& t) { return t.time_groups.size(); })
      .def_ro("time_bias", &TensorReport::time_bias)
      .def_ro("reason", &TensorReport::reason);
  nb::class_<Attempt>(m, "Attempt", "One run over the model at one bit width.")
      .def_ro("bit_width", &Attempt::bit_width)
      .def_ro("cosine_similarity", &Attempt::cosine_similarity)
      .def_ro("min_cosine_similarity", &Attempt::min_cosine_similarity)
      .def_ro("worst_layer", &Attempt::worst_layer)
      .def_ro("seconds", &Attempt::seconds);
  nb::class_<QuantizeReport>(m, "QuantizeReport", "What quantize_model did.")
      .def_prop_ro("quantized_path",
                   [](const QuantizeReport& r) { return path_to_python(r.quantized_path); })
      .def_ro("modality", &QuantizeReport::modality)
      .def_ro("modality_reason", &QuantizeReport::modality_reason)
      .def_ro("bit_width", &QuantizeReport::bit_width)
      .def_ro("components", &QuantizeReport::components)
      .def_ro("cosine_similarity", &QuantizeReport::cosine_similarity)
      .def_ro("min_cosine_similarity", &QuantizeReport::min_cosine_similarity)
      .def_ro("worst_layer", &QuantizeReport::worst_layer)
      .def_ro("nmse", &QuantizeReport::nmse)
      .def_ro("calibration", &QuantizeReport::calibration)
      .def_ro("cosine_of_outputs", &QuantizeReport::cosine_of_outputs)
      .def_ro("output_nmse", &QuantizeReport::output_nmse)
      .def_ro("bits_per_weight", &QuantizeReport::bits_per_weight)
      .def_ro("meets_min_accuracy", &QuantizeReport::meets_min_accuracy)
      .def_ro("layers_by_bit_width", &QuantizeReport::layers_by_bit_width)
      .def_ro("source_bytes", &QuantizeReport::source_bytes)
      .def_ro("weights_bytes", &QuantizeReport::weights_bytes)
      .def_ro("total_bytes", &QuantizeReport::total_bytes)
      .def_ro("seconds", &QuantizeReport::seconds)
      .def_ro("attempts", &QuantizeReport::attempts)
      .def_ro("warnings", &QuantizeReport::warnings)
      .def_ro("tensors", &QuantizeReport::tensors);
}

void bind_validation_report(nb::module_& m) {
  nb::class_<TensorComparison>(m, "TensorComparison", "One tensor against its original.")
      .def_ro("component", &TensorComparison::component)
      .def_ro("name", &TensorComparison::name)
      .def_ro("bit_width", &TensorComparison::bit_width)
      .def_ro("cosine", &TensorComparison::cosine)
      .def_ro("nmse", &TensorComparison::nmse);
  nb::class_<ValidationReport>(m, "ValidationReport", "An artefact against its original.")
      .def_ro("cosine_similarity", &ValidationReport::cosine_similarity)
      .def_ro("min_cosine_similarity", &ValidationReport::min_cosine_similarity)
      .def_ro("worst_layer", &ValidationReport::worst_layer)
      .def_ro("nmse", &ValidationReport::nmse)
      .def_ro("bit_width", &ValidationReport::bit_width)
      .def_ro("tensors", &ValidationReport::tensors)
      .def_ro("problems", &ValidationReport::problems)
      .def_ro("original_matches", &ValidationReport::original_matches);
}

void bind_build_info(nb::module_& m) {
  nb::class_<BuildInfo>(m, "BuildInfo", "What this build is and runs on.")
      .def_ro("version", &BuildInfo::version)
      .def_ro("isa", &BuildInfo::isa)
      .def_ro("supported_isas", &BuildInfo::supported_isas)
      .def_ro("arrow_version", &BuildInfo::arrow_version)
      .def_ro("openblas", &BuildInfo::openblas)
      .def_ro("compiler", &BuildInfo::compiler)
      .def_ro("cores", &BuildInfo::cores);
  m.def("build_info", &build_info);
}

QuantizeReport quantize(const nb::bytes& model_path, const nb::bytes& output_path,
                        const QuantizeOptions& options, Callback callback) {
  const std::string model = path_of(model_path);
  const std::string output = path_of(output_path);
  const QuantizeOptions own = options;  // Python may change its object while the engine runs
  PythonProgress progress(std::move(callback));
  const nb::gil_scoped_release unlocked;
  return quantize_model(model, output, own, progress);
}

void check(const nb::bytes& model_path, const nb::bytes& output_path,
           const QuantizeOptions& options) {
  const std::string model = path_of(model_path);
  const std::string output = path_of(output_path);
  const QuantizeOptions own = options;
  const nb::gil_scoped_release unlocked;
  check_output(model, output, own);
}

ValidationReport validate(const nb::bytes& original_path, const nb::bytes& quantized_path,
                          int num_threads, Callback callback, const TensorNames& names) {
  const std::string original = path_of(original_path);
  const std::string quantized = path_of(quantized_path);
  PythonProgress progress(std::move(callback));
  const nb::gil_scoped_release unlocked;
  return validate_artefact(original, quantized, num_threads, progress, names);
}

}  // namespace

void bind_pipeline(nb::module_& m) {
  bind_options(m);
  bind_quantize_report(m);
  bind_validation_report(m);
  bind_build_info(m);
  m.def("quantize_model", &quantize, nb::arg("model_path"), nb::arg("output_path"),
        nb::arg("options"), nb::arg("callback"));
  m.def("check_output", &check, nb::arg("model_path"), nb::arg("output_path"), nb::arg("options"));
  m.def("validate_artefact", &validate, nb::arg("original_path"), nb::arg("quantized_path"),
        nb::arg("num_threads"), nb::arg("callback"), nb::arg("names") = TensorNames());
}

}  // namespace arrow_quant::python
