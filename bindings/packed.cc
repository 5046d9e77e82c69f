// Packed weights in buffers that Python owns, such as those of a torch module.
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "arrow_quant/error.h"
#include "arrow_quant/linear.h"
#include "arrow_quant/pipeline.h"
#include "arrow_quant/quantized_tensor.h"
#include "bindings.h"
#include "parse.h"

namespace arrow_quant::python {
namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using HalfBits = nb::ndarray<const int16_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ChunkTable = nb::ndarray<const int32_t, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;
using FloatsOut = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using PanelBytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using PanelsOut = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Int8Out = nb::ndarray<int8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// A view of the arrays it was made from, and the chunks, which have a form of their own in Python.
struct PackedWeight {
  PackedWeightView view;
  std::vector<PackedWeightView::Chunk> chunks;

  PackedWeight(const Bytes& codes, const Bytes& params, const HalfBits& row_scales,
               const ChunkTable& table, uint64_t cols, const AffineSpec& spec) {
    for (size_t i = 0; i < table.shape(0); ++i) {
      chunks.push_back({.row_begin = static_cast<uint64_t>(table(i, 0)),
                        .tensor_scale = std::ldexp(1.0F, table(i, 1)),
                        .offset_unit = static_cast<int8_t>(table(i, 2))});
    }
    view.spec = spec;
    view.rows = codes.shape(0);
    view.cols = cols;
    view.codes = {codes.data(), codes.size()};
    view.params = {params.data(), params.size()};
    view.row_scales = {reinterpret_cast<const uint16_t*>(row_scales.data()), row_scales.size()};
    view.chunks = chunks;
  }
  PackedWeight(const PackedWeight&) = delete;
  PackedWeight& operator=(const PackedWeight&) = delete;
};

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using MatrixOut = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void check_size(size_t found, size_t expected, const char* what) {
  if (found == expected) return;
  throw Error(ErrorCode::kShapeMismatch, std::string(what) + ": expected " +
                                             std::to_string(expected) + ", found " +
                                             std::to_string(found));
}

LinearCall linear_call(const Matrix& x, const MatrixOut& y, const std::optional<Floats>& bias,
                       const std::optional<Floats>& input_factors, size_t outputs, size_t inputs) {
  check_size(x.shape(1), inputs, "columns of the input");
  check_size(y.shape(1), outputs, "columns of the output");
  check_size(y.shape(0), x.shape(0), "rows of the output");
  if (bias) check_size(bias->size(), outputs, "bias");
  if (input_factors) check_size(input_factors->size(), inputs, "input factors");
  return {.x = x.data(),
          .y = y.data(),
          .tokens = x.shape(0),
          .y_stride = outputs,
          .bias = bias ? bias->data() : nullptr,
          .input_factors = input_factors ? input_factors->data() : nullptr};
}

void bind_linear(nb::module_& m) {
  m.def(
      "linear_packed",
      [](const Matrix& x, const MatrixOut& y, const Bytes& codes, const Bytes& params,
         const HalfBits& row_scales, const ChunkTable& chunks, uint64_t cols,
         const AffineSpec& spec, const std::optional<Floats>& bias,
         const std::optional<Floats>& input_factors, int planes, float activation_scale,
         int num_threads) {
        const PackedWeight weight(codes, params, row_scales, chunks, cols, spec);
        LinearCall call = linear_call(x, y, bias, input_factors, codes.shape(0), cols);
        call.planes = planes;
        call.activation_scale = activation_scale;
        call.threads = num_threads;
        const nb::gil_scoped_release unlocked;
        linear(weight.view, call);
      },
      nb::arg("x"), nb::arg("y"), nb::arg("codes"), nb::arg("params"), nb::arg("row_scales"),
      nb::arg("chunks"), nb::arg("cols"), nb::arg("spec"), nb::arg("bias").none(),
      nb::arg("input_factors").none(), nb::arg("planes"), nb::arg("activation_scale"),
      nb::arg("num_threads"),
      "y = x W^T + bias on a packed weight; activations as `planes` bytes each, scaled per token "
      "or by `activation_scale` unless that is 0.");
  m.def(
      "linear_panels",
      [](const Matrix& x, const MatrixOut& y, const PanelBytes& panels, const Floats& row_scales,
         const std::optional<Floats>& bias, const std::optional<Floats>& input_factors, int planes,
         float activation_scale, int num_threads) {
        const size_t outputs = row_scales.size(), inputs = x.shape(1);
        check_size(panels.size(), panels_bytes(outputs, inputs), "bytes of the panels");
        LinearCall call = linear_call(x, y, bias, input_factors, outputs, inputs);
        call.planes = planes;
        call.activation_scale = activation_scale;
        call.threads = num_threads;
        const nb::gil_scoped_release unlocked;
        linear(PanelWeight{panels.data(), row_scales.data(), outputs, inputs}, call);
      },
      nb::arg("x"), nb::arg("y"), nb::arg("panels"), nb::arg("row_scales"), nb::arg("bias").none(),
      nb::arg("input_factors").none(), nb::arg("planes"), nb::arg("activation_scale"),
      nb::arg("num_threads"), "The same on a weight that make_panels expanded to int8.");
  m.def("panels_bytes", &panels_bytes, nb::arg("outputs"), nb::arg("inputs"));
  m.def(
      "make_panels",
      [](const Bytes& codes, const Bytes& params, const HalfBits& row_scales,
         const ChunkTable& chunks, uint64_t cols, const AffineSpec& spec, const PanelsOut& panels,
         int num_threads) {
        const PackedWeight weight(codes, params, row_scales, chunks, cols, spec);
        const nb::gil_scoped_release unlocked;
        make_panels(weight.view, num_threads, {panels.data(), panels.size()});
      },
      nb::arg("codes"), nb::arg("params"), nb::arg("row_scales"), nb::arg("chunks"),
      nb::arg("cols"), nb::arg("spec"), nb::arg("panels"), nb::arg("num_threads"),
      "Expand a weight whose parameters are not fp16 into panels_bytes(outputs, inputs) bytes.");
}

}  // namespace

void bind_packed(nb::module_& m) {
  bind_linear(m);
  m.def(
      "dequantize_packed",
      [](const Bytes& codes, const Bytes& params, const HalfBits& row_scales,
         const ChunkTable& chunks, uint64_t cols, const AffineSpec& spec, const FloatsOut& out,
         int num_threads) {
        const PackedWeight weight(codes, params, row_scales, chunks, cols, spec);
        const nb::gil_scoped_release unlocked;
        dequantize(weight.view, {out.data(), out.size()}, num_threads);
      },
      nb::arg("codes"), nb::arg("params"), nb::arg("row_scales"), nb::arg("chunks"),
      nb::arg("cols"), nb::arg("spec"), nb::arg("out"), nb::arg("num_threads"),
      "Reconstruct a weight from its buffers. A row of `chunks` is the first row, the binary "
      "exponent of the tensor scale, and the offset unit.");
  m.def(
      "expand_packed",
      [](const Bytes& codes, const Bytes& params, const HalfBits& row_scales,
         const ChunkTable& chunks, uint64_t cols, const AffineSpec& spec, const Int8Out& out,
         int num_threads) {
        const PackedWeight weight(codes, params, row_scales, chunks, cols, spec);
        const nb::gil_scoped_release unlocked;
        expand_int8(weight.view, {out.data(), out.size()}, num_threads);
      },
      nb::arg("codes"), nb::arg("params"), nb::arg("row_scales"), nb::arg("chunks"),
      nb::arg("cols"), nb::arg("spec"), nb::arg("out"), nb::arg("num_threads"));
}

}  // namespace arrow_quant::python
