// Models in the old Parquet layouts: what their rows are, and their integers and scales.
#include <nanobind/stl/map.h>

#include <algorithm>
#include <cstddef>
#include <deque>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "arrow_quant/error.h"
#include "arrow_quant/model_index.h"
#include "bindings.h"
#include "read/legacy/model.h"
#include "read/legacy/reader.h"
#include "read/model_directory.h"

namespace arrow_quant::python {
namespace {

using BytesOut = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using IntegersOut = nb::ndarray<int16_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using RealsOut = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

Int2Order order_from(const std::string& name) {
  if (name == "lsb") return Int2Order::kLsb;
  if (name == "msb") return Int2Order::kMsb;
  throw Error(ErrorCode::kConfiguration,
              "Invalid int2_order: '" + name + "'. Must be 'lsb' or 'msb'.");
}

/// One tensor of an old model.
struct OldTensor {
  size_t component;
  TensorInfo source;
  LegacyTensor facts;

  std::string granularity() const {
    if (facts.codes == LegacyCodes::kValues) return {};
    if (facts.groups.count <= 1) return "tensor";
    if (facts.groups.stride == 0) return "groups of " + std::to_string(facts.groups.block);
    uint64_t stride = 1;
    size_t axis = source.shape.size();
    while (axis > 0 && stride <= facts.groups.stride && source.shape[axis - 1] != 0) {
      --axis;
      if (stride == facts.groups.stride && source.shape[axis] == facts.groups.count) break;
      stride *= source.shape[axis];
    }
    return "axis " + std::to_string(axis);
  }
};

/// An open model. Reading is thread-safe.
class OldModel {
 public:
  OldModel(const std::string& path, Int2Order order) {
    auto found = open_old_model(path, order);
    if (!found) {
      throw Error(ErrorCode::kModelNotFound, "no weights in an old Parquet layout", {.path = path});
    }
    model_ = std::move(*found);
    for (const ModelIndex& component : model_.components) {
      for (const TensorInfo& tensor : component.tensors) {
        tensors_.push_back({readers_.size(), tensor, component.legacy->tensors[tensor.offset]});
      }
      readers_.emplace_back(component);
    }
  }

  OldModel(const OldModel&) = delete;
  OldModel& operator=(const OldModel&) = delete;

  const ModelDirectory& model() const noexcept { return model_; }
  const std::vector<OldTensor>& tensors() const noexcept { return tensors_; }

  const LegacyReader& reader(const OldTensor& tensor) const {
    if (tensor.component < readers_.size()) return readers_[tensor.component];
    throw Error(ErrorCode::kShapeMismatch, "a tensor of another model",
                {.tensor = tensor.source.name});
  }

  void read(const OldTensor& tensor, uint64_t offset, std::span<std::byte> out) const {
    const uint64_t bytes = tensor.source.nbytes;
    if (offset > bytes || out.size() > bytes - offset) wrong_size(tensor, bytes, out.size());
    reader(tensor).read(tensor.source, offset, out);
  }

  void read_stored(const OldTensor& tensor, std::span<std::byte> out) const {
    check(tensor, tensor.facts.data_bytes, out.size());
    reader(tensor).read_stored(tensor.source, out);
  }

  void read_codes(const OldTensor& tensor, std::span<int16_t> out) const {
    check(tensor, tensor.source.elements(), out.size());
    reader(tensor).read_codes(tensor.source, 0, out);
  }

  void read_parameters(const OldTensor& tensor, std::span<float> scales,
                       std::span<float> zero_points) const {
    check(tensor, tensor.facts.groups.count, scales.size());
    check(tensor, tensor.facts.groups.count, zero_points.size());
    const LegacyParameters found = reader(tensor).parameters(tensor.source);
    std::ranges::copy(found.scales, scales.begin());
    std::ranges::copy(found.zero_points, zero_points.begin());
  }

 private:
  [[noreturn]] static void wrong_size(const OldTensor& tensor, uint64_t expected, uint64_t found) {
    throw Error(
        ErrorCode::kShapeMismatch,
        "output: expected " + std::to_string(expected) + " values, found " + std::to_string(found),
        {.tensor = tensor.source.name});
  }

  static void check(const OldTensor& tensor, uint64_t expected, uint64_t found) {
    const bool quantized = tensor.facts.codes != LegacyCodes::kValues;
    if (!quantized || expected != found) wrong_size(tensor, quantized ? expected : 0, found);
  }

  ModelDirectory model_;
  std::vector<OldTensor> tensors_;
  std::deque<LegacyReader> readers_;
};

const ModelIndex& component_of(const OldModel& model, size_t component) {
  if (component < model.model().components.size()) return model.model().components[component];
  throw nb::index_error("the model has no such component");
}

QuantizedTensorInfo info_of(const OldTensor& tensor) {
  return {.name = tensor.source.name,
          .shape = tensor.source.shape,
          .source_dtype = tensor.source.dtype,
          .encoding = Encoding::kCopy};
}

void bind_tensor_of(nb::module_& m) {
  nb::class_<OldTensor>(m, "OldTensor", "One tensor of a model in an old layout.")
      .def_ro("component", &OldTensor::component)
      .def_prop_ro("info", &info_of)
      .def_prop_ro("nbytes", [](const OldTensor& t) { return t.source.nbytes; })
      .def_prop_ro("bit_width", [](const OldTensor& t) { return t.facts.bit_width; })
      .def_prop_ro("signed",
                   [](const OldTensor& t) { return t.facts.codes != LegacyCodes::kUnsigned8; })
      .def_prop_ro("granularity", &OldTensor::granularity)
      .def_prop_ro("groups", [](const OldTensor& t) { return t.facts.groups.count; })
      .def_prop_ro("stored_bytes",
                   [](const OldTensor& t) {
                     const uint64_t parameters =
                         t.facts.groups.count * (t.facts.zero_points != 0 ? 2 : 1);
                     if (t.facts.in_companion) return t.source.nbytes;
                     return t.facts.data_bytes + parameters * sizeof(float);
                   })
      .def_prop_ro("data_bytes", [](const OldTensor& t) { return t.facts.data_bytes; });
}

}  // namespace

void bind_legacy(nb::module_& m) {
  bind_tensor_of(m);
  nb::class_<OldModel>(m, "OldModel", "A model in an old layout; reads one tensor at a time.")
      .def(
          "__init__",
          [](OldModel* self, const nb::bytes& path, const std::string& int2_order) {
            const std::string where = path_of(path);
            const Int2Order order = order_from(int2_order);
            const nb::gil_scoped_release unlocked;
            new (self) OldModel(where, order);
          },
          nb::arg("path"), nb::arg("int2_order"))
      .def_prop_ro("components",
                   [](const OldModel& model) {
                     std::vector<std::string> names;
                     for (const ModelIndex& c : model.model().components) {
                       names.push_back(c.component);
                     }
                     return names;
                   })
      .def_prop_ro("metadata_json",
                   [](const OldModel& model) {
                     return nb::bytes(model.model().metadata_json.data(),
                                      model.model().metadata_json.size());
                   })
      .def_prop_ro("other_files",
                   [](const OldModel& model) {
                     std::vector<nb::bytes> files;
                     for (const std::string& file : model.model().other_files) {
                       files.push_back(path_to_python(file));
                     }
                     return files;
                   })
      .def_prop_ro("tensors", &OldModel::tensors)
      .def(
          "layout",
          [](const OldModel& m, size_t component) { return component_of(m, component).layout; },
          nb::arg("component"))
      .def(
          "metadata",
          [](const OldModel& m, size_t component) { return component_of(m, component).metadata; },
          nb::arg("component"))
      .def(
          "read",
          [](const OldModel& model, const OldTensor& tensor, uint64_t offset, const BytesOut& out) {
            const nb::gil_scoped_release unlocked;
            model.read(tensor, offset, std::as_writable_bytes(std::span(out.data(), out.size())));
          },
          nb::arg("tensor"), nb::arg("offset"), nb::arg("out"))
      .def(
          "read_stored",
          [](const OldModel& model, const OldTensor& tensor, const BytesOut& out) {
            const nb::gil_scoped_release unlocked;
            model.read_stored(tensor, std::as_writable_bytes(std::span(out.data(), out.size())));
          },
          nb::arg("tensor"), nb::arg("out"))
      .def(
          "read_codes",
          [](const OldModel& model, const OldTensor& tensor, const IntegersOut& out) {
            const nb::gil_scoped_release unlocked;
            model.read_codes(tensor, {out.data(), out.size()});
          },
          nb::arg("tensor"), nb::arg("out"))
      .def(
          "read_parameters",
          [](const OldModel& model, const OldTensor& tensor, const RealsOut& scales,
             const RealsOut& zero_points) {
            const nb::gil_scoped_release unlocked;
            model.read_parameters(tensor, {scales.data(), scales.size()},
                                  {zero_points.data(), zero_points.size()});
          },
          nb::arg("tensor"), nb::arg("scales"), nb::arg("zero_points"));
}

}  // namespace arrow_quant::python
