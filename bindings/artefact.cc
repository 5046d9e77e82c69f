// Reading an artefact back.
#include "arrow_quant/artefact.h"

#include <nanobind/stl/map.h>

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"

namespace arrow_quant::python {
namespace {

void check_index(const Artefact& artefact, size_t component) {
  if (component >= artefact.manifest().components.size()) {
    throw nb::index_error("the artefact has no such component");
  }
}

void check_index(const Artefact& artefact, size_t component, size_t tensor) {
  check_index(artefact, component);
  if (tensor >= artefact.tensors(component).size()) {
    throw nb::index_error("the component has no such tensor");
  }
}

// One chunk as a tensor of its own, with the chunk's rows as its only dimension of rows. Kept
// tensors keep their shape: their chunks are bytes.
Tensor read_chunk(const Artefact& artefact, size_t component, size_t tensor, size_t chunk) {
  check_index(artefact, component, tensor);
  const nb::gil_scoped_release unlocked;
  auto result = std::make_shared<QuantizedTensor>();
  result->info = artefact.tensors(component)[tensor];
  QuantizedChunk& copy = result->chunks.emplace_back();
  artefact.visit_chunk(component, tensor, chunk, [&](const Artefact::ChunkView& view) {
    copy.rows = view.rows;
    copy.codes.assign(view.codes.begin(), view.codes.end());
    copy.params.assign(view.params.begin(), view.params.end());
    copy.row_scales.assign(view.row_scales.begin(), view.row_scales.end());
    copy.tensor_scale = view.tensor_scale;
    copy.offset_unit = view.offset_unit;
    copy.equalization.assign(view.equalization.begin(), view.equalization.end());
    copy.time_groups.assign(view.time_groups.begin(), view.time_groups.end());
  });
  if (result->info.encoding != Encoding::kCopy && !result->info.shape.empty()) {
    result->info.keep_rows(copy.rows);
  }
  return {std::move(result)};
}

Tensor read(const Artefact& artefact, size_t component, size_t tensor) {
  check_index(artefact, component, tensor);
  const nb::gil_scoped_release unlocked;
  return {std::make_shared<const QuantizedTensor>(artefact.read(component, tensor))};
}

std::vector<std::string> component_names(const Artefact& artefact) {
  std::vector<std::string> names;
  for (const ManifestComponent& component : artefact.manifest().components) {
    names.push_back(component.name);
  }
  return names;
}

}  // namespace

void bind_artefact(nb::module_& m) {
  nb::class_<Artefact>(m, "Artefact", "An open artefact; weights are read when asked for.")
      .def_static(
          "open",
          [](const nb::bytes& path) {
            const std::string where = path_of(path);
            const nb::gil_scoped_release unlocked;
            return Artefact::open(where);
          },
          nb::arg("path"))
      .def_prop_ro("path", [](const Artefact& a) { return path_to_python(a.path()); })
      .def_prop_ro("manifest_json", [](const Artefact& a) { return a.manifest_json(); })
      .def_prop_ro("components", &component_names)
      .def(
          "metadata",
          [](const Artefact& a, size_t component) {
            check_index(a, component);
            const nb::gil_scoped_release unlocked;
            return a.metadata(component);
          },
          nb::arg("component"))
      .def(
          "tensors",
          [](const Artefact& a, size_t component) {
            check_index(a, component);
            const nb::gil_scoped_release unlocked;
            return a.tensors(component);
          },
          nb::arg("component"))
      .def(
          "stored_bytes",
          [](const Artefact& a, size_t component) {
            check_index(a, component);
            const nb::gil_scoped_release unlocked;
            return a.stored_bytes(component);
          },
          nb::arg("component"))
      .def("read", &read, nb::arg("component"), nb::arg("tensor"))
      .def(
          "chunks",
          [](const Artefact& a, size_t component, size_t tensor) {
            check_index(a, component, tensor);
            return a.chunks(component, tensor);
          },
          nb::arg("component"), nb::arg("tensor"))
      .def("read_chunk", &read_chunk, nb::arg("component"), nb::arg("tensor"), nb::arg("chunk"))
      .def(
          "verify",
          [](const Artefact& a, Callback callback) {
            PythonProgress progress(std::move(callback));
            const nb::gil_scoped_release unlocked;
            a.verify([&progress] { progress.poll(); });
          },
          nb::arg("callback"));
}

}  // namespace arrow_quant::python
