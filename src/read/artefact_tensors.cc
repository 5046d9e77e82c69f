#include "read/artefact_tensors.h"

#include <algorithm>
#include <set>
#include <string>
#include <string_view>

#include "core/checked.h"
#include "read/artefact_damage.h"

namespace arrow_quant {
namespace {

bool same_tensor(const QuantizedTensorInfo& a, const QuantizedTensorInfo& b) {
  return a.name == b.name && a.shape == b.shape && a.row_dimensions == b.row_dimensions &&
         a.source_dtype == b.source_dtype && a.encoding == b.encoding &&
         a.spec.bit_width == b.spec.bit_width && a.spec.group_size == b.spec.group_size &&
         a.spec.param_encoding == b.spec.param_encoding;
}

// The product of the shape must fit before anything is computed from it.
void check_shape(const QuantizedTensorInfo& info, const std::string& path) {
  uint64_t elements = 64;  // bits of the widest dtype: sizes in bits must fit as well
  for (const uint64_t dim : info.shape) {
    const auto product = checked_mul(elements, std::max<uint64_t>(1, dim));
    if (!product) fail_damaged(path, "a shape whose size overflows", info.name);
    elements = *product;
  }
  if (info.encoding != Encoding::kCopy && info.shape.empty()) {
    fail_damaged(path, "a quantized scalar", info.name);
  }
}

// Chunks must follow one another and cover the rows of the tensor; quality is the mean over rows.
void finish_tensor(QuantizedTensorInfo& info, const TensorEntry& entry, const std::string& path) {
  double cosine = 0;
  double nmse = 0;
  double output_cosine = 0;
  double output_nmse = 0;
  for (size_t i = 0; i < entry.chunks.size(); ++i) {
    const PartRow& row = entry.chunks[i].second;
    const uint64_t end = chunk_end(entry, i, info);
    const bool first_is_zero = i != 0 || row.row_begin == 0;
    if (!first_is_zero || row.chunk != static_cast<int32_t>(i) || end < row.row_begin) {
      fail_damaged(path, "the chunks do not cover the rows of the tensor", info.name);
    }
    const auto rows = static_cast<double>(end - row.row_begin);
    cosine += rows * row.info.cosine;
    nmse += rows * row.info.nmse;
    output_cosine += rows * row.info.output_cosine.value_or(0);
    output_nmse += rows * row.info.output_nmse.value_or(0);
  }
  if (entry.chunks.size() > 1) {
    info.cosine = cosine / static_cast<double>(info.rows());
    info.nmse = nmse / static_cast<double>(info.rows());
    const auto rows = static_cast<double>(info.rows());
    if (info.output_cosine) info.output_cosine = output_cosine / rows;
    if (info.output_nmse) info.output_nmse = output_nmse / rows;
  }
}

}  // namespace

uint64_t row_scale_bytes(const AffineSpec& spec) noexcept {
  return spec.param_encoding == ParamEncoding::kFp16 ? 0 : sizeof(uint16_t);
}

uint64_t tensor_bytes(const QuantizedTensorInfo& info) {
  if (info.encoding == Encoding::kCopy) {
    return info.elements() * dtype_info(info.source_dtype).bits / 8;
  }
  return info.rows() * (packed_row_bytes(info.cols(), info.spec.bit_width) +
                        param_row_bytes(info.cols(), info.spec) + row_scale_bytes(info.spec));
}

uint64_t chunk_end(const TensorEntry& entry, size_t chunk, const QuantizedTensorInfo& info) {
  return chunk + 1 < entry.chunks.size() ? entry.chunks[chunk + 1].second.row_begin : info.rows();
}

ComponentTensors load_tensors(const std::vector<ParquetPart>& parts, uint64_t expected) {
  ComponentTensors result;
  for (size_t number = 0; number < parts.size(); ++number) {
    const std::string& path = parts[number].path();
    for (PartRow& row : parts[number].rows()) {
      check_shape(row.info, path);
      if (row.chunk == 0) {
        result.infos.push_back(row.info);
        result.entries.emplace_back();
      } else if (result.infos.empty() || !same_tensor(result.infos.back(), row.info)) {
        fail_damaged(path, "a chunk without the one before it", row.info.name);
      }
      result.entries.back().chunks.emplace_back(number, std::move(row));
    }
  }
  if (result.infos.size() != expected) {
    fail_damaged(parts.empty() ? "" : parts[0].path(), "expected " + std::to_string(expected) +
                                                           " tensors, found " +
                                                           std::to_string(result.infos.size()));
  }
  std::set<std::string_view> names;
  for (size_t i = 0; i < result.infos.size(); ++i) {
    if (!names.insert(result.infos[i].name).second) {
      fail_damaged(parts[0].path(), "two tensors of one name", result.infos[i].name);
    }
    finish_tensor(result.infos[i], result.entries[i],
                  parts[result.entries[i].chunks[0].first].path());
    uint64_t bytes = tensor_bytes(result.infos[i]);
    for (const auto& [part, row] : result.entries[i].chunks) bytes += row.extra_bytes;
    result.stored_bytes.push_back(bytes);
  }
  return result;
}

}  // namespace arrow_quant
