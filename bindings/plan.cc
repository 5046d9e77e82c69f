// The plan stage: options in, one row per tensor out.
#include "arrow_quant/plan.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>

#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.h"
#include "parse.h"
#include "plan/plan.h"
#include "read/model_directory.h"

namespace arrow_quant::python {
namespace {

using Rules = std::vector<std::pair<std::string, int>>;
using Allotments = std::vector<std::tuple<std::string, std::string, int, int, std::string>>;
using Roles =
    std::vector<std::tuple<std::string, std::string, std::string, bool, std::string, int>>;

/// A TensorPlan joined with the tensor it is about.
struct PlannedTensor {
  std::string component;
  TensorInfo source;
  TensorPlan plan;
  uint64_t planned_bytes = 0;

  bool quantized() const noexcept { return plan.encoding != Encoding::kCopy; }
};

/// A Plan joined with the names and shapes it is about.
struct ModelPlan {
  std::string modality;
  std::string modality_reason;
  std::vector<std::string> components;
  std::vector<std::string> warnings;
  uint64_t source_bytes = 0;
  uint64_t planned_bytes = 0;
  std::vector<PlannedTensor> tensors;
};

ParamEncodingChoice choice_from(const std::string& name) {
  if (name == "auto") return ParamEncodingChoice::kAuto;
  switch (param_encoding_from(name)) {
    case ParamEncoding::kTwoLevel:
      return ParamEncodingChoice::kTwoLevel;
    case ParamEncoding::kFp16:
      return ParamEncodingChoice::kFp16;
    case ParamEncoding::kResidualBinary:
      return ParamEncodingChoice::kResidualBinary;
    case ParamEncoding::kRow:
      break;
  }
  return ParamEncodingChoice::kRow;
}

PlanOptions make_options(int bit_width, int group_size, const std::string& method,
                         const std::string& param_encoding, const Rules& layer_rules,
                         std::vector<std::string> components, std::string modality,
                         const Allotments& allocation, const Roles& roles, TensorNames names) {
  PlanOptions options;
  options.bit_width = bit_width;
  options.group_size = group_size;
  options.choose_method = method == "auto";
  options.method = options.choose_method ? Method::kSearch : method_from(method);
  options.param_encoding = choice_from(param_encoding);
  for (const auto& [glob, bits] : layer_rules) options.layer_rules.push_back({glob, bits});
  options.components = std::move(components);
  options.modality = std::move(modality);
  options.names = std::move(names);
  for (const auto& [component, name, bits, group, reason] : allocation) {
    options.allocation.push_back({component, name, bits, group, reason});
  }
  for (const auto& [component, name, role, quantize, known_from, row_dimensions] : roles) {
    options.roles.push_back({component, name, role, quantize, known_from, row_dimensions});
  }
  return options;
}

ModelPlan joined(ModelDirectory model, Plan made) {
  ModelPlan result{.modality = std::move(made.modality),
                   .modality_reason = std::move(made.modality_reason),
                   .warnings = std::move(model.warnings)};
  for (ComponentPlan& part : made.components) {
    ModelIndex& component = model.components[part.component];
    result.components.push_back(component.component);
    result.source_bytes += part.source_bytes;
    result.planned_bytes += part.planned_bytes;
    for (TensorPlan& tensor : part.tensors) {
      TensorInfo& source = component.tensors[tensor.tensor];
      const uint64_t bytes = planned_bytes(source, tensor);
      result.tensors.push_back({component.component, std::move(source), std::move(tensor), bytes});
    }
  }
  return result;
}

ModelPlan plan(const nb::bytes& model_path, const PlanOptions& options) {
  const std::string path = path_of(model_path);
  const PlanOptions own = options;
  const nb::gil_scoped_release unlocked;
  ModelDirectory model = open_model(path, own.names);
  Plan made = make_plan(model, own);
  return joined(std::move(model), std::move(made));
}

// The plan of a model in memory: a component with float32 tensors of these shapes.
ModelPlan plan_tensors(const std::string& config_json,
                       const std::vector<std::pair<std::string, std::vector<uint64_t>>>& tensors,
                       const PlanOptions& options) {
  ModelDirectory model;
  ModelIndex& component = model.components.emplace_back();
  component.config_json = config_json;
  for (const auto& [name, shape] : tensors) {
    TensorInfo& info = component.tensors.emplace_back();
    info.name = name;
    info.shape = shape;
    info.nbytes = info.elements() * sizeof(float);
  }
  Plan made = make_plan(model, options);
  return joined(std::move(model), std::move(made));
}

// What the plan stage gives a lone matrix of this shape: the same rules as for a model's weight.
AffineSpec plan_array(uint64_t rows, uint64_t cols, const PlanOptions& options) {
  ModelDirectory model;
  model.kind = ModelDirectory::Kind::kFile;
  model.components.emplace_back().tensors.push_back(
      {.name = "array", .dtype = DType::kF32, .shape = {rows, cols}});
  PlanOptions own = options;
  own.layer_rules = {{"array", options.bit_width}};
  own.components.clear();
  own.modality = "image";  // any: it decides nothing about a tensor
  return make_plan(model, own).components.at(0).tensors.at(0).spec;
}

}  // namespace

void bind_plan(nb::module_& m) {
  nb::class_<PlanOptions>(m, "PlanOptions", "Everything that decides a plan.")
      .def(
          "__init__",
          [](PlanOptions* self, int bit_width, int group_size, const std::string& method,
             const std::string& param_encoding, const Rules& layer_rules,
             std::vector<std::string> components, std::string modality,
             const Allotments& allocation, const Roles& roles, TensorNames names) {
            new (self) PlanOptions(make_options(
                bit_width, group_size, method, param_encoding, layer_rules, std::move(components),
                std::move(modality), allocation, roles, std::move(names)));
          },
          nb::arg("bit_width"), nb::arg("group_size"), nb::arg("method"), nb::arg("param_encoding"),
          nb::arg("layer_rules"), nb::arg("components"), nb::arg("modality"),
          nb::arg("allocation") = Allotments(), nb::arg("roles") = Roles(),
          nb::arg("names") = TensorNames());
  nb::class_<PlannedTensor>(m, "PlannedTensor", "What happens to one tensor, and why.")
      .def_ro("component", &PlannedTensor::component)
      .def_prop_ro("name", [](const PlannedTensor& t) { return t.source.name; })
      .def_prop_ro("shape", [](const PlannedTensor& t) { return t.source.shape; })
      .def_prop_ro(
          "source_dtype",
          [](const PlannedTensor& t) { return std::string(dtype_info(t.source.dtype).name); })
      .def_prop_ro("source_bytes", [](const PlannedTensor& t) { return t.source.nbytes; })
      .def_ro("planned_bytes", &PlannedTensor::planned_bytes)
      .def_prop_ro("quantized", &PlannedTensor::quantized)
      .def_prop_ro("encoding",
                   [](const PlannedTensor& t) { return std::string(to_string(t.plan.encoding)); })
      .def_prop_ro("spec", [](const PlannedTensor& t) { return t.plan.spec; })
      .def_prop_ro("row_dimensions", [](const PlannedTensor& t) { return t.plan.row_dimensions; })
      .def_prop_ro("fixed", [](const PlannedTensor& t) { return t.plan.fixed; })
      .def_prop_ro("reason", [](const PlannedTensor& t) { return t.plan.reason; })
      .def_prop_ro("role", [](const PlannedTensor& t) { return t.plan.role; })
      .def_prop_ro("known_from", [](const PlannedTensor& t) { return t.plan.known_from; });
  nb::class_<ModelPlan>(m, "ModelPlan", "What happens to every tensor of a model.")
      .def_ro("modality", &ModelPlan::modality)
      .def_ro("modality_reason", &ModelPlan::modality_reason)
      .def_ro("components", &ModelPlan::components)
      .def_ro("warnings", &ModelPlan::warnings)
      .def_ro("source_bytes", &ModelPlan::source_bytes)
      .def_ro("planned_bytes", &ModelPlan::planned_bytes)
      .def_ro("tensors", &ModelPlan::tensors);
  m.def("plan_model", &plan, nb::arg("model_path"), nb::arg("options"));
  m.def("plan_tensors", &plan_tensors, nb::arg("config_json"), nb::arg("tensors"),
        nb::arg("options"));
  m.def("plan_array", &plan_array, nb::arg("rows"), nb::arg("cols"), nb::arg("options"));
}

}  // namespace arrow_quant::python
