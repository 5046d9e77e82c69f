// Layers on packed weights. Tensors come as addresses: wrapping six of them would take longer than
// a small layer does. The caller checks shapes, types and contiguity and keeps them alive
// (python/arrow_quant_v2/torch does).
#include <nanobind/stl/string.h>

#include "arrow_quant/linear.h"
#include "bindings.h"
#include "parse.h"

namespace arrow_quant::python {
namespace {

template <typename T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

/// A weight as Python describes it; 0 is the address of what is absent.
PackedWeight packed_weight(const AffineSpec& spec, const std::string& encoding, size_t outputs,
                           size_t inputs, uintptr_t codes, uintptr_t params, uintptr_t row_scales,
                           float tensor_scale, int offset_unit) {
  return {.encoding = encoding_from(encoding),
          .spec = spec,
          .codes = at<const uint8_t>(codes),
          .params = at<const uint8_t>(params),
          .row_scales = at<const float>(row_scales),
          .tensor_scale = tensor_scale,
          .offset_unit = offset_unit,
          .outputs = outputs,
          .inputs = inputs};
}

LinearCall linear_call(uintptr_t x, uintptr_t y, size_t tokens, size_t y_stride, uintptr_t bias,
                       uintptr_t input_factors, int planes, float activation_scale, int threads) {
  return {.x = at<const float>(x),
          .y = at<float>(y),
          .tokens = tokens,
          .y_stride = y_stride,
          .bias = at<const float>(bias),
          .input_factors = at<const float>(input_factors),
          .planes = planes,
          .activation_scale = activation_scale,
          .threads = threads};
}

}  // namespace

void bind_run(nb::module_& m) {
  nb::class_<PackedWeight>(m, "PackedWeight", "Where the parts of a packed weight are in memory.")
      .def(
          "__init__",
          [](PackedWeight* self, const AffineSpec& spec, const std::string& encoding,
             size_t outputs, size_t inputs, uintptr_t codes, uintptr_t params, uintptr_t row_scales,
             float tensor_scale, int offset_unit) {
            new (self) PackedWeight(packed_weight(spec, encoding, outputs, inputs, codes, params,
                                                  row_scales, tensor_scale, offset_unit));
          },
          nb::arg("spec"), nb::arg("encoding"), nb::arg("outputs"), nb::arg("inputs"),
          nb::arg("codes"), nb::arg("params"), nb::arg("row_scales"), nb::arg("tensor_scale"),
          nb::arg("offset_unit"));
  m.def(
      "linear",
      [](const PackedWeight& weight, uintptr_t x, uintptr_t y, size_t tokens, size_t y_stride,
         uintptr_t bias, uintptr_t input_factors, int planes, float activation_scale, int threads) {
        const nb::gil_scoped_release unlocked;
        linear(weight, linear_call(x, y, tokens, y_stride, bias, input_factors, planes,
                                   activation_scale, threads));
      },
      nb::arg("weight"), nb::arg("x"), nb::arg("y"), nb::arg("tokens"), nb::arg("y_stride"),
      nb::arg("bias"), nb::arg("input_factors"), nb::arg("planes"), nb::arg("activation_scale"),
      nb::arg("threads"), "y = x W^T + b, f32, on a packed weight.");
  m.def(
      "linear_panels",
      [](uintptr_t panels, uintptr_t row_scales, size_t outputs, size_t inputs, uintptr_t x,
         uintptr_t y, size_t tokens, size_t y_stride, uintptr_t bias, uintptr_t input_factors,
         int planes, float activation_scale, int threads) {
        const nb::gil_scoped_release unlocked;
        linear(PanelWeight{at<const uint8_t>(panels), at<const float>(row_scales), outputs, inputs},
               linear_call(x, y, tokens, y_stride, bias, input_factors, planes, activation_scale,
                           threads));
      },
      nb::arg("panels"), nb::arg("row_scales"), nb::arg("outputs"), nb::arg("inputs"), nb::arg("x"),
      nb::arg("y"), nb::arg("tokens"), nb::arg("y_stride"), nb::arg("bias"),
      nb::arg("input_factors"), nb::arg("planes"), nb::arg("activation_scale"), nb::arg("threads"),
      "y = x W^T + b, f32, on a weight that make_panels expanded to int8.");
  m.def("panels_bytes", &panels_bytes, nb::arg("outputs"), nb::arg("inputs"));
  m.def(
      "make_panels",
      [](const PackedWeight& weight, int threads, uintptr_t panels) {
        const nb::gil_scoped_release unlocked;
        make_panels(weight, threads, at<uint8_t>(panels));
      },
      nb::arg("weight"), nb::arg("threads"), nb::arg("panels"),
      "Expand a weight of two_level or row parameters to panels_bytes(outputs, inputs) bytes.");
}

}  // namespace arrow_quant::python
