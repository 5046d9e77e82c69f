// Builds safetensors bytes for tests, valid ones and ones with a chosen fault.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "arrow_quant/dtype.h"

namespace arrow_quant::testing {

/// The 8-byte little-endian header length.
inline std::string length_prefix(uint64_t length) {
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes;
}

/// A file of the given header text and `data_bytes` zero bytes.
inline std::string file_bytes(const std::string& header, uint64_t data_bytes = 0) {
  return length_prefix(header.size()) + header + std::string(data_bytes, '\0');
}

/// One entry of a header: "name":{"dtype":...,"shape":[...],"data_offsets":[begin,end]}.
inline std::string entry(const std::string& name, const std::string& dtype,
                         const std::string& shape, uint64_t begin, uint64_t end) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + shape +
         "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(end) + "]}";
}

/// Adds tensors one after the other and keeps the offsets right.
class SafetensorsBuilder {
 public:
  SafetensorsBuilder& add(const std::string& name, const std::vector<uint64_t>& shape,
                          DType dtype = DType::kF32) {
    std::string dims;
    uint64_t bits = dtype_info(dtype).bits;
    for (const uint64_t dim : shape) {
      dims += (dims.empty() ? "" : ",") + std::to_string(dim);
      bits *= dim;
    }
    const uint64_t begin = std::exchange(end_, end_ + bits / 8);
    append(entry(name, std::string(dtype_info(dtype).name), dims, begin, end_));
    return *this;
  }

  /// `json` is the text of an object of strings.
  SafetensorsBuilder& metadata(const std::string& json) {
    append("\"__metadata__\":" + json);
    return *this;
  }

  std::string header() const { return "{" + entries_ + "}"; }
  std::string bytes() const { return file_bytes(header(), end_); }
  uint64_t data_bytes() const { return end_; }

 private:
  void append(const std::string& text) { entries_ += (entries_.empty() ? "" : ",") + text; }

  std::string entries_;
  uint64_t end_ = 0;
};

}  // namespace arrow_quant::testing
