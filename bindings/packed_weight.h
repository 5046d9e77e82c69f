// A packed weight in arrays that Python owns, such as the buffers of a torch module.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "arrow_quant/quantized_tensor.h"
#include "bindings.h"

namespace arrow_quant::python {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using HalfBits = nb::ndarray<const int16_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ChunkTable = nb::ndarray<const int32_t, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;

/// A view of the arrays it was made from, and the chunks, which have a form of their own in Python:
/// the first row, the binary exponent of the tensor scale, and the offset unit.
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

}  // namespace arrow_quant::python
