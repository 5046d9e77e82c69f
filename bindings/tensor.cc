// Packed tensors: what they are, views of their memory, and the ways back to numbers.

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "arrow_quant/error.h"
#include "arrow_quant/pipeline.h"
#include "arrow_quant/quantized_tensor.h"
#include "bindings.h"
#include "codec/residual_binary.h"
#include "codec/spec.h"
#include "codec/two_level.h"
#include "parse.h"

namespace arrow_quant::python {
namespace {

// A view of rows * row_bytes bytes inside `owner`. Never a null pointer: numpy wants an address
// even for an empty array.
ByteMatrix view(const void* data, uint64_t rows, uint64_t row_bytes, nb::handle owner) {
  static const uint8_t kNothing = 0;
  const void* address = rows * row_bytes == 0 ? &kNothing : data;
  return ByteMatrix(static_cast<const uint8_t*>(address), {rows, row_bytes}, owner);
}

uint64_t code_row_bytes(const QuantizedTensorInfo& info) {
  return packed_row_bytes(info.cols(), info.spec.bit_width);
}

/// One chunk as Python sees it; it keeps the whole tensor alive.
struct Chunk {
  std::shared_ptr<const QuantizedTensor> tensor;
  size_t index;

  const QuantizedChunk& get() const { return tensor->chunks[index]; }
};

template <typename T>
std::span<T> span_of(const nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>& array) {
  return {array.data(), array.size()};
}

QuantizedTensorInfo make_info(const std::string& name, const std::vector<uint64_t>& shape,
                              const std::string& dtype) {
  QuantizedTensorInfo info;
  info.name = name;
  info.shape = shape;
  info.source_dtype = dtype_from(dtype);
  return info;
}

Tensor quantize(
    const std::string& name, const std::vector<uint64_t>& shape, const std::string& dtype,
    const ByteArray& data, const AffineSpec& spec,
    std::optional<nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>> importance,
    int num_threads, Callback callback) {
  QuantizedTensorInfo info = make_info(name, shape, dtype);
  info.spec = spec;
  const std::span<const std::byte> bytes = std::as_bytes(std::span(data.data(), data.size()));
  const std::span<const float> weights =
      importance ? std::span<const float>(importance->data(), importance->size())
                 : std::span<const float>();
  PythonProgress progress(std::move(callback));
  const nb::gil_scoped_release unlocked;
  return {std::make_shared<const QuantizedTensor>(
      quantize_array(info, bytes, weights, num_threads, progress))};
}

Tensor keep(const std::string& name, const std::vector<uint64_t>& shape, const std::string& dtype,
            const ByteArray& data) {
  auto tensor = std::make_shared<QuantizedTensor>();
  tensor->info = make_info(name, shape, dtype);
  QuantizedChunk chunk;
  chunk.rows = tensor->info.rows();
  chunk.codes.assign(data.data(), data.data() + data.size());
  tensor->chunks.push_back(std::move(chunk));
  return {std::move(tensor)};
}

using FloatsOut = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using BytesOut = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Int8Out = nb::ndarray<int8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::vector<TimeGroup> time_groups_of(std::vector<TimeGroup> groups, uint64_t first,
                                      uint64_t rows) {
  const auto slice = [&](std::vector<float>& values) {
    if (values.empty()) return;
    const auto begin = values.begin() + static_cast<ptrdiff_t>(first);
    values = std::vector<float>(begin, begin + static_cast<ptrdiff_t>(rows));
  };
  for (TimeGroup& group : groups) {
    slice(group.output_scale);
    slice(group.output_bias);
  }
  return groups;
}

// Rows of a tensor of one chunk, for callers that dequantize piece by piece.
Tensor slice_rows(const Tensor& source, uint64_t first, uint64_t rows) {
  const QuantizedTensor& whole = *source.tensor;
  if (whole.chunks.size() != 1 || whole.info.encoding == Encoding::kCopy ||
      first > whole.info.rows() || rows > whole.info.rows() - first) {
    throw Error(ErrorCode::kShapeMismatch, "rows to slice are not within one quantized chunk",
                {.tensor = whole.info.name});
  }
  const QuantizedChunk& chunk = whole.chunks[0];
  const auto slice = [&](const auto& all, uint64_t row_size, auto& part) {
    const auto begin = all.begin() + static_cast<ptrdiff_t>(first * row_size);
    part.assign(begin, begin + static_cast<ptrdiff_t>(rows * row_size));
  };
  auto tensor = std::make_shared<QuantizedTensor>();
  tensor->info = whole.info;
  tensor->info.keep_rows(rows);
  QuantizedChunk& part = tensor->chunks.emplace_back();
  part.rows = rows;
  part.tensor_scale = chunk.tensor_scale;
  part.offset_unit = chunk.offset_unit;
  part.equalization = chunk.equalization;
  part.time_groups = time_groups_of(chunk.time_groups, first, rows);
  slice(chunk.codes, code_row_bytes(whole.info), part.codes);
  slice(chunk.params, param_row_bytes(whole.info.cols(), whole.info.spec), part.params);
  if (!chunk.row_scales.empty()) slice(chunk.row_scales, 1, part.row_scales);
  return {std::move(tensor)};
}

// The tensor with other codes, parameters and row scales, which have the sizes that they had.
Tensor learned(const Tensor& source, const ByteArray& codes, const ByteArray& params,
               const ByteArray& row_scales, const std::string& candidates) {
  auto tensor = std::make_shared<QuantizedTensor>(*source.tensor);
  const QuantizedTensorInfo& info = tensor->info;
  const uint64_t code_row = code_row_bytes(info);
  const uint64_t param_row = param_row_bytes(info.cols(), info.spec);
  const uint64_t scale_row = info.spec.param_encoding == ParamEncoding::kFp16 ? 0 : 2;
  const uint64_t rows = info.rows();
  if (info.encoding == Encoding::kCopy || codes.size() != rows * code_row ||
      params.size() != rows * param_row || row_scales.size() != rows * scale_row) {
    throw Error(ErrorCode::kShapeMismatch,
                "codes, parameters and row scales must have the sizes that they had",
                {.tensor = info.name});
  }
  for (QuantizedChunk& chunk : tensor->chunks) {
    const auto take = [&chunk](const ByteArray& all, uint64_t row_size, void* part) {
      std::memcpy(part, all.data() + chunk.row_begin * row_size, chunk.rows * row_size);
    };
    take(codes, code_row, chunk.codes.data());
    take(params, param_row, chunk.params.data());
    take(row_scales, scale_row, chunk.row_scales.data());
  }
  tensor->info.spec.method = Method::kLearned;
  tensor->info.method = to_string(Method::kLearned);
  tensor->info.candidates = candidates;
  return {std::move(tensor)};
}

void bind_info(nb::module_& m) {
  nb::class_<QuantizedTensorInfo>(m, "TensorInfo", "Everything about a stored tensor but its data.")
      .def_ro("name", &QuantizedTensorInfo::name)
      .def_ro("shape", &QuantizedTensorInfo::shape)
      .def_ro("row_dimensions", &QuantizedTensorInfo::row_dimensions)
      .def_prop_ro(
          "source_dtype",
          [](const QuantizedTensorInfo& t) { return std::string(dtype_info(t.source_dtype).name); })
      .def_prop_ro("encoding",
                   [](const QuantizedTensorInfo& t) { return std::string(to_string(t.encoding)); })
      .def_ro("spec", &QuantizedTensorInfo::spec)
      .def_ro("cosine", &QuantizedTensorInfo::cosine)
      .def_ro("nmse", &QuantizedTensorInfo::nmse)
      .def_ro("output_cosine", &QuantizedTensorInfo::output_cosine)
      .def_ro("output_nmse", &QuantizedTensorInfo::output_nmse)
      .def_ro("method", &QuantizedTensorInfo::method)
      .def_ro("candidates", &QuantizedTensorInfo::candidates);
}

void bind_spec(nb::module_& m) {
  nb::class_<AffineSpec>(m, "AffineSpec", "What one weight is quantized to.")
      .def(
          "__init__",
          [](AffineSpec* self, int bit_width, int group_size, const std::string& param_encoding,
             const std::string& method) {
            const AffineSpec spec{.bit_width = bit_width,
                                  .group_size = group_size,
                                  .param_encoding = param_encoding_from(param_encoding),
                                  .method = method_from(method)};
            codec::check_spec(spec);
            new (self) AffineSpec(spec);
          },
          nb::arg("bit_width"), nb::arg("group_size"), nb::arg("param_encoding"), nb::arg("method"))
      .def_ro("bit_width", &AffineSpec::bit_width)
      .def_ro("group_size", &AffineSpec::group_size)
      .def_prop_ro("param_encoding",
                   [](const AffineSpec& s) { return std::string(to_string(s.param_encoding)); })
      .def_prop_ro("method", [](const AffineSpec& s) { return std::string(to_string(s.method)); });
}

// A numpy array with a copy of `values`.
auto floats_of(const std::vector<float>& values) {
  auto* copy = new std::vector<float>(values);
  const nb::capsule owner(copy,
                          [](void* p) noexcept { delete static_cast<std::vector<float>*>(p); });
  return nb::ndarray<nb::numpy, float, nb::ndim<1>>(copy->data(), {copy->size()}, owner);
}

void bind_time_group(nb::module_& m) {
  nb::class_<TimeGroup>(m, "TimeGroup", "What applies in a span of diffusion time.")
      .def_ro("begin", &TimeGroup::begin)
      .def_ro("end", &TimeGroup::end)
      .def_ro("activation_scale", &TimeGroup::activation_scale)
      .def_ro("activation_zero", &TimeGroup::activation_zero)
      .def_prop_ro(
          "output_scale", [](const TimeGroup& g) { return floats_of(g.output_scale); },
          nb::rv_policy::move)
      .def_prop_ro(
          "output_bias", [](const TimeGroup& g) { return floats_of(g.output_bias); },
          nb::rv_policy::move);
}

void bind_chunk(nb::module_& m) {
  nb::class_<Chunk>(m, "Chunk", "Consecutive rows of a tensor, as stored.")
      .def_prop_ro("row_begin", [](const Chunk& c) { return c.get().row_begin; })
      .def_prop_ro("rows", [](const Chunk& c) { return c.get().rows; })
      .def_prop_ro("tensor_scale", [](const Chunk& c) { return c.get().tensor_scale; })
      .def_prop_ro("offset_unit",
                   [](const Chunk& c) { return static_cast<int>(c.get().offset_unit); })
      .def_prop_ro(
          "equalization", [](const Chunk& c) { return floats_of(c.get().equalization); },
          nb::rv_policy::move)
      .def_prop_ro("time_groups", [](const Chunk& c) { return c.get().time_groups; })
      .def_prop_ro("codes",
                   [](nb::handle_t<Chunk> self) {
                     const auto& c = nb::cast<const Chunk&>(self);
                     const QuantizedTensorInfo& info = c.tensor->info;
                     const bool copy = info.encoding == Encoding::kCopy;
                     return copy ? view(c.get().codes.data(), 1, c.get().codes.size(), self)
                                 : view(c.get().codes.data(), c.get().rows, code_row_bytes(info),
                                        self);
                   })
      .def_prop_ro("params",
                   [](nb::handle_t<Chunk> self) {
                     const auto& c = nb::cast<const Chunk&>(self);
                     const QuantizedChunk& chunk = c.get();
                     const uint64_t row = chunk.rows == 0 ? 0 : chunk.params.size() / chunk.rows;
                     return view(chunk.params.data(), chunk.rows, row, self);
                   })
      .def_prop_ro("row_scale_bits", [](nb::handle_t<Chunk> self) {
        const QuantizedChunk& chunk = nb::cast<const Chunk&>(self).get();
        return view(chunk.row_scales.data(), chunk.row_scales.size(), sizeof(uint16_t), self);
      });
}

}  // namespace

/// What Python needs to know about parameter bytes; the rest is src/codec.
void bind_codec(nb::module_& m) {
  m.def(
      "check_spec",
      [](int bit_width, int group_size, const std::string& param_encoding) {
        codec::check_spec({.bit_width = bit_width,
                           .group_size = group_size,
                           .param_encoding = param_encoding_from(param_encoding)});
      },
      nb::arg("bit_width"), nb::arg("group_size"), nb::arg("param_encoding"),
      "Raise ConfigurationError for a combination that does not exist.");
  namespace two_level = codec::two_level;
  namespace residual = codec::residual_binary;
  static_assert(two_level::kFieldBits == residual::kFieldBits);
  static_assert(two_level::kMinQ == residual::kMinQ1 && residual::kMinQ2 == 0);
  m.attr("SUB_GROUPS") = two_level::kSubGroups;
  m.attr("FIELD_BITS") = two_level::kFieldBits;
  m.attr("FIELD_MASK") = two_level::kFieldMask;
  m.attr("MIN_Q") = two_level::kMinQ;
  m.attr("MIN_Z") = two_level::kMinZ;
  m.attr("MAX_V") = two_level::kMaxV;
}

void bind_tensor(nb::module_& m) {
  bind_spec(m);
  bind_codec(m);
  bind_info(m);
  bind_time_group(m);
  bind_chunk(m);
  nb::class_<Tensor>(m, "Tensor", "A stored tensor: packed codes and parameters, or kept bytes.")
      .def_prop_ro("info", [](const Tensor& t) { return t.info(); })
      .def_prop_ro("chunks",
                   [](const Tensor& t) {
                     std::vector<Chunk> chunks;
                     for (size_t i = 0; i < t.tensor->chunks.size(); ++i) {
                       chunks.push_back({t.tensor, i});
                     }
                     return chunks;
                   })
      .def("slice_rows", &slice_rows, nb::arg("first"), nb::arg("rows"),
           "Copy rows [first, first + rows) of a tensor of one chunk into a tensor of their own.")
      .def("learned", &learned, nb::arg("codes"), nb::arg("params"), nb::arg("row_scales"),
           nb::arg("candidates"),
           "Copy a quantized tensor with other codes, parameters and fp16 bits of row scales, as "
           "bytes.")
      .def(
          "dequantize",
          [](const Tensor& t, const FloatsOut& out, int num_threads) {
            const nb::gil_scoped_release unlocked;
            dequantize(*t.tensor, span_of(out), num_threads);
          },
          nb::arg("out"), nb::arg("num_threads"))
      .def(
          "unpack",
          [](const Tensor& t, const BytesOut& out) {
            const nb::gil_scoped_release unlocked;
            unpack(*t.tensor, span_of(out));
          },
          nb::arg("out"))
      .def(
          "expand_int8",
          [](const Tensor& t, const Int8Out& out, const FloatsOut& row_scales) {
            const nb::gil_scoped_release unlocked;
            expand_int8(*t.tensor, span_of(out), span_of(row_scales));
          },
          nb::arg("out"), nb::arg("row_scales"));

  m.def("quantize_array", &quantize, nb::arg("name"), nb::arg("shape"), nb::arg("dtype"),
        nb::arg("data"), nb::arg("spec"), nb::arg("importance"), nb::arg("num_threads"),
        nb::arg("callback"));
  m.def("keep_array", &keep, nb::arg("name"), nb::arg("shape"), nb::arg("dtype"), nb::arg("data"));
}

}  // namespace arrow_quant::python
