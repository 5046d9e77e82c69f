// Layers on packed weights, on arrays that Python owns.
#include <nanobind/stl/pair.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "arrow_quant/attention.h"
#include "arrow_quant/conv.h"
#include "arrow_quant/error.h"
#include "arrow_quant/gelu.h"
#include "arrow_quant/linear.h"
#include "bindings.h"
#include "packed_weight.h"

namespace arrow_quant::python {
namespace {

using PanelBytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using PanelsOut = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
// Of float32, or of int16 that are the bits of bfloat16, which numpy does not have.
using Matrix = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using MatrixOut = nb::ndarray<nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void check_size(size_t found, size_t expected, const char* what) {
  if (found == expected) return;
  throw Error(ErrorCode::kShapeMismatch, std::string(what) + ": expected " +
                                             std::to_string(expected) + ", found " +
                                             std::to_string(found));
}

template <typename Array>
bool is_bf16(const Array& array, const char* what) {
  if (array.dtype() == nb::dtype<int16_t>()) return true;
  if (array.dtype() == nb::dtype<float>()) return false;
  throw nb::type_error(
      (std::string(what) + ": expected float32, or int16 as the bits of bfloat16").c_str());
}

template <typename Array>
InputNumbers input_of(const Array& array) {
  if (is_bf16(array, "input")) return static_cast<const uint16_t*>(array.data());
  return static_cast<const float*>(array.data());
}

template <typename Array>
OutputNumbers output_of(const Array& array) {
  if (is_bf16(array, "output")) return static_cast<uint16_t*>(array.data());
  return static_cast<float*>(array.data());
}

LinearCall linear_call(const Matrix& x, const MatrixOut& y, const std::optional<Floats>& bias,
                       const std::optional<Floats>& input_factors, size_t outputs, size_t inputs) {
  check_size(x.shape(1), inputs, "columns of the input");
  check_size(y.shape(1), outputs, "columns of the output");
  check_size(y.shape(0), x.shape(0), "rows of the output");
  if (bias) check_size(bias->size(), outputs, "bias");
  if (input_factors) check_size(input_factors->size(), inputs, "input factors");
  return {.x = input_of(x),
          .y = output_of(y),
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

// ------------------------------ Convolutions

using Images = nb::ndarray<nb::ro, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using ImagesOut = nb::ndarray<nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Pair = std::pair<size_t, size_t>;

/// How a kernel moves over an image; (height, width) each.
struct ConvGeometry {
  Pair kernel, stride, padding, dilation;
};

ConvShape conv_shape(const ConvGeometry& geometry, size_t channels, size_t outputs) {
  const auto both = [](const Pair& pair) { return std::array{pair.first, pair.second}; };
  return {.channels = channels,
          .outputs = outputs,
          .kernel = both(geometry.kernel),
          .stride = both(geometry.stride),
          .padding = both(geometry.padding),
          .dilation = both(geometry.dilation)};
}

ConvCall conv_call(const Images& x, const ImagesOut& y, const ConvGeometry& geometry,
                   const std::optional<Floats>& bias, const std::optional<Floats>& input_factors,
                   size_t outputs) {
  ConvCall call{
      .shape = conv_shape(geometry, x.shape(3), outputs), .x = input_of(x), .y = output_of(y)};
  call.shape.batch = x.shape(0);
  call.shape.size = {x.shape(1), x.shape(2)};
  const auto out = call.shape.output_size();
  check_size(y.shape(0), x.shape(0), "samples of the output");
  check_size(y.shape(1), out[0], "height of the output");
  check_size(y.shape(2), out[1], "width of the output");
  check_size(y.shape(3), outputs, "channels of the output");
  if (bias) check_size(bias->size(), outputs, "bias");
  if (input_factors) check_size(input_factors->size(), x.shape(3), "input factors");
  call.bias = bias ? bias->data() : nullptr;
  call.input_factors = input_factors ? input_factors->data() : nullptr;
  return call;
}

void bind_conv(nb::module_& m) {
  nb::class_<ConvGeometry>(m, "ConvGeometry",
                           "How a kernel moves over an image; (height, width) each.")
      .def(
          "__init__",
          [](ConvGeometry* self, const Pair& kernel, const Pair& stride, const Pair& padding,
             const Pair& dilation) { new (self) ConvGeometry{kernel, stride, padding, dilation}; },
          nb::arg("kernel"), nb::arg("stride"), nb::arg("padding"), nb::arg("dilation"));
  m.def(
      "conv2d_packed",
      [](const Images& x, const ImagesOut& y, const Bytes& codes, const Bytes& params,
         const HalfBits& row_scales, const ChunkTable& chunks, uint64_t cols,
         const AffineSpec& spec, const ConvGeometry& geometry, const std::optional<Floats>& bias,
         const std::optional<Floats>& input_factors, int planes, float activation_scale,
         int num_threads) {
        const PackedWeight weight(codes, params, row_scales, chunks, cols, spec);
        ConvCall call = conv_call(x, y, geometry, bias, input_factors, codes.shape(0));
        call.planes = planes;
        call.activation_scale = activation_scale;
        call.threads = num_threads;
        const nb::gil_scoped_release unlocked;
        conv2d(weight.view, call);
      },
      nb::arg("x"), nb::arg("y"), nb::arg("codes"), nb::arg("params"), nb::arg("row_scales"),
      nb::arg("chunks"), nb::arg("cols"), nb::arg("spec"), nb::arg("geometry"),
      nb::arg("bias").none(), nb::arg("input_factors").none(), nb::arg("planes"),
      nb::arg("activation_scale"), nb::arg("num_threads"),
      "Convolve channels-last images with a packed weight; activations as linear_packed takes "
      "them, "
      "one scale per sample.");
  m.def(
      "conv2d_panels",
      [](const Images& x, const ImagesOut& y, const PanelBytes& panels, const Floats& row_scales,
         const ConvGeometry& geometry, const std::optional<Floats>& bias,
         const std::optional<Floats>& input_factors, int planes, float activation_scale,
         int num_threads) {
        ConvCall call = conv_call(x, y, geometry, bias, input_factors, row_scales.size());
        call.planes = planes;
        call.activation_scale = activation_scale;
        call.threads = num_threads;
        const nb::gil_scoped_release unlocked;
        conv2d({{panels.data(), panels.size()}, {row_scales.data(), row_scales.size()}}, call);
      },
      nb::arg("x"), nb::arg("y"), nb::arg("panels"), nb::arg("row_scales"), nb::arg("geometry"),
      nb::arg("bias").none(), nb::arg("input_factors").none(), nb::arg("planes"),
      nb::arg("activation_scale"), nb::arg("num_threads"),
      "The same on a weight that make_conv_panels expanded to int8.");
  m.def(
      "conv_panels_bytes",
      [](size_t outputs, size_t channels, const ConvGeometry& geometry) {
        return conv_panels_bytes(conv_shape(geometry, channels, outputs));
      },
      nb::arg("outputs"), nb::arg("channels"), nb::arg("geometry"));
  m.def(
      "make_conv_panels",
      [](const Bytes& codes, const Bytes& params, const HalfBits& row_scales,
         const ChunkTable& chunks, uint64_t cols, const AffineSpec& spec, size_t channels,
         const ConvGeometry& geometry, const PanelsOut& panels, int num_threads) {
        const PackedWeight weight(codes, params, row_scales, chunks, cols, spec);
        const nb::gil_scoped_release unlocked;
        make_conv_panels(weight.view, conv_shape(geometry, channels, codes.shape(0)), num_threads,
                         {panels.data(), panels.size()});
      },
      nb::arg("codes"), nb::arg("params"), nb::arg("row_scales"), nb::arg("chunks"),
      nb::arg("cols"), nb::arg("spec"), nb::arg("channels"), nb::arg("geometry"), nb::arg("panels"),
      nb::arg("num_threads"), "Expand a weight whose parameters are not fp16 for conv2d_panels.");
}

// ------------------------------ Attention

using HeadsIn = nb::ndarray<nb::ro, nb::ndim<4>, nb::device::cpu>;
using HeadsOut = nb::ndarray<nb::ndim<4>, nb::device::cpu>;

template <typename Numbers, typename Array>
Heads<Numbers> heads_of(const Array& array, Numbers numbers, const char* what) {
  if (array.shape(3) > 1 && array.stride(3) != 1) {
    throw Error(ErrorCode::kShapeMismatch,
                std::string(what) + ": expected the numbers of a token side by side");
  }
  const auto stride = [&](size_t d) { return static_cast<size_t>(array.stride(d)); };
  return {numbers, stride(0), stride(1), stride(2)};
}

AttentionCall attention_call(const HeadsIn& queries, const HeadsIn& keys, const HeadsIn& values,
                             const HeadsOut& out) {
  for (const size_t d : {0, 1, 3}) {
    check_size(keys.shape(d), queries.shape(d), "size of the keys");
    check_size(values.shape(d), queries.shape(d), "size of the values");
    check_size(out.shape(d), queries.shape(d), "size of the output");
  }
  check_size(values.shape(2), keys.shape(2), "number of values");
  check_size(out.shape(2), queries.shape(2), "number of outputs");
  return {.queries = heads_of(queries, input_of(queries), "queries"),
          .keys = heads_of(keys, input_of(keys), "keys"),
          .values = heads_of(values, input_of(values), "values"),
          .out = heads_of(out, output_of(out), "output"),
          .batch = queries.shape(0),
          .heads = queries.shape(1),
          .query_count = queries.shape(2),
          .key_count = keys.shape(2),
          .width = queries.shape(3)};
}

void bind_attention(nb::module_& m) {
  m.attr("WIDEST_HEAD") = kWidestHead;
  m.def(
      "attention",
      [](const HeadsIn& queries, const HeadsIn& keys, const HeadsIn& values, const HeadsOut& out,
         float scale, int num_threads) {
        AttentionCall call = attention_call(queries, keys, values, out);
        call.scale = scale;
        call.threads = num_threads;
        const nb::gil_scoped_release unlocked;
        attention(call);
      },
      nb::arg("queries"), nb::arg("keys"), nb::arg("values"), nb::arg("out"), nb::arg("scale"),
      nb::arg("num_threads"),
      "out = softmax(queries keys^T scale) values, each [batch, heads, tokens, width].");
}

// ------------------------------ Between layers

using NumbersIn = nb::ndarray<nb::ro, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using NumbersOut = nb::ndarray<nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void bind_gelu(nb::module_& m) {
  m.def(
      "gelu_tanh",
      [](const NumbersIn& x, const NumbersOut& y, int num_threads) {
        check_size(y.size(), x.size(), "size of the output");
        const GeluCall call{input_of(x), output_of(y), x.size(), num_threads};
        const nb::gil_scoped_release unlocked;
        gelu_tanh(call);
      },
      nb::arg("x"), nb::arg("y"), nb::arg("num_threads"),
      "y = x (1 + tanh(sqrt(2 / pi) (x + .044715 x^3))) / 2.");
}

}  // namespace

void bind_layers(nb::module_& m) {
  bind_linear(m);
  bind_conv(m);
  bind_attention(m);
  bind_gelu(m);
}

}  // namespace arrow_quant::python
