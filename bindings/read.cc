// Weights of a model as they are: names, types, shapes, and bytes one tensor at a time.
#include <cstddef>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "arrow_quant/error.h"
#include "arrow_quant/model_index.h"
#include "bindings.h"
#include "read/model_directory.h"
#include "read/tensor_reader.h"

namespace arrow_quant::python {
namespace {

using BytesOut = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

/// One tensor of a source model.
struct SourceTensor {
  std::string component;
  size_t reader;
  TensorInfo info;
};

/// An open model. Reading is thread-safe.
class SourceModel {
 public:
  SourceModel(const std::string& path, const TensorNames& names) {
    const ModelDirectory model = open_model(path, names);
    for (const ModelIndex& component : model.components) {
      for (const TensorInfo& tensor : component.tensors) {
        tensors_.push_back({component.component, readers_.size(), tensor});
      }
      readers_.emplace_back(component);
    }
  }

  SourceModel(const SourceModel&) = delete;
  SourceModel& operator=(const SourceModel&) = delete;

  const std::vector<SourceTensor>& tensors() const noexcept { return tensors_; }

  void read(const SourceTensor& tensor, std::span<std::byte> out) const {
    if (tensor.reader >= readers_.size() || out.size() != tensor.info.nbytes) {
      throw Error(ErrorCode::kShapeMismatch,
                  "output: expected " + std::to_string(tensor.info.nbytes) + " bytes, found " +
                      std::to_string(out.size()),
                  {.tensor = tensor.info.name});
    }
    readers_[tensor.reader].read(tensor.info, 0, out);
    readers_[tensor.reader].check_unchanged();
  }

 private:
  std::vector<SourceTensor> tensors_;
  std::deque<TensorReader> readers_;
};

}  // namespace

void bind_read(nb::module_& m) {
  nb::class_<SourceTensor>(m, "SourceTensor", "One tensor of a source model.")
      .def_ro("component", &SourceTensor::component)
      .def_prop_ro("name", [](const SourceTensor& t) { return t.info.name; })
      .def_prop_ro("dtype",
                   [](const SourceTensor& t) { return std::string(dtype_info(t.info.dtype).name); })
      .def_prop_ro("shape", [](const SourceTensor& t) { return t.info.shape; })
      .def_prop_ro("nbytes", [](const SourceTensor& t) { return t.info.nbytes; });
  nb::class_<SourceModel>(m, "SourceModel", "An open model; reads one tensor at a time.")
      .def(
          "__init__",
          [](SourceModel* self, const nb::bytes& path, const TensorNames& names) {
            const std::string where = path_of(path);
            const nb::gil_scoped_release unlocked;
            new (self) SourceModel(where, names);
          },
          nb::arg("path"), nb::arg("names") = TensorNames())
      .def_prop_ro("tensors", &SourceModel::tensors)
      .def(
          "read",
          [](const SourceModel& model, const SourceTensor& tensor, const BytesOut& out) {
            const nb::gil_scoped_release unlocked;
            model.read(tensor, std::as_writable_bytes(std::span(out.data(), out.size())));
          },
          nb::arg("tensor"), nb::arg("out"));
}

}  // namespace arrow_quant::python
