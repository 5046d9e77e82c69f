// What the binding files share: one registration function per area, progress, paths, arrays.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "arrow_quant/progress.h"
#include "arrow_quant/quantized_tensor.h"

namespace arrow_quant::python {

namespace nb = nanobind;

void bind_errors(nb::module_& m);
void bind_tensor(nb::module_& m);
void bind_read(nb::module_& m);
void bind_plan(nb::module_& m);
void bind_pipeline(nb::module_& m);
void bind_artefact(nb::module_& m);
void bind_calibrate(nb::module_& m);
void bind_legacy(nb::module_& m);
void bind_packed(nb::module_& m);
void bind_layers(nb::module_& m);

/// Bytes of a C-contiguous array, whatever its element type was.
using ByteArray = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

/// A read-only numpy matrix of bytes that keeps the object it views alive.
using ByteMatrix = nb::ndarray<nb::numpy, const uint8_t, nb::ndim<2>>;

/// Paths travel as bytes in both directions, since a file name need not be UTF-8.
inline std::string path_of(const nb::bytes& path) { return {path.c_str(), path.size()}; }
inline nb::bytes path_to_python(const std::string& path) {
  return nb::bytes(path.data(), path.size());
}

/// The Python object around a tensor. Immutable, so it may be used from many threads; views of its
/// memory keep it alive.
struct Tensor {
  std::shared_ptr<const QuantizedTensor> tensor;

  const QuantizedTensorInfo& info() const noexcept { return tensor->info; }
};

/// What Python passes as a progress callback.
using Callback = std::optional<nb::typed<nb::callable, nb::object(nb::str, double)>>;

/// A callback `(message, fraction)` of Python, or none. Whatever it raises, and whatever a signal
/// handler raises, passes through the engine as that same exception. A callback with a method
/// `poll` has it called several times a second, so that it can stop the job by raising.
class PythonProgress final : public Progress {
 public:
  explicit PythonProgress(Callback callback);
  ~PythonProgress() override;
  PythonProgress(const PythonProgress&) = delete;
  PythonProgress& operator=(const PythonProgress&) = delete;

  void report(std::string_view message, double fraction) override;
  void poll() override;

 private:
  Callback callback_;
  nb::object poll_;
  double fraction_ = 0;
};

}  // namespace arrow_quant::python
