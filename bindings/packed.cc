// Packed weights in buffers that Python owns, such as those of a torch module.
#include <cstdint>

#include "arrow_quant/pipeline.h"
#include "arrow_quant/quantized_tensor.h"
#include "bindings.h"
#include "packed_weight.h"

namespace arrow_quant::python {
namespace {

using FloatsOut = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Int8Out = nb::ndarray<int8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

}  // namespace

void bind_packed(nb::module_& m) {
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
