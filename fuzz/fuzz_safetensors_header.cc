// The parser of safetensors headers takes any bytes: it returns a header that keeps every promise
// of safetensors_header.h or raises arrow_quant::Error. Anything else stops the fuzzer.
//
// Input: two bytes for the size of the data that follows the header, then the header.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
#include <string_view>

#include "arrow_quant/error.h"
#include "read/safetensors_header.h"

namespace {

void require(bool promise) {
  if (!promise) std::abort();
}

// What the rest of the program relies on.
void check(const arrow_quant::SafetensorsHeader& header, uint64_t data_begin, uint64_t file_size) {
  require(!header.tensors.empty());
  std::set<std::string_view> names;
  uint64_t end = data_begin;
  for (const arrow_quant::TensorInfo& tensor : header.tensors) {
    require(names.insert(tensor.name).second);
    require(tensor.name.size() <= arrow_quant::SafetensorsLimits::kMaxNameBytes);
    require(tensor.name.find('\0') == std::string::npos);
    require(tensor.shape.size() <= arrow_quant::SafetensorsLimits::kMaxRank);
    require(tensor.offset == end);
    require(tensor.nbytes <= file_size - end);
    require(tensor.file == 0);
    const bool empty = std::ranges::count(tensor.shape, 0U) != 0;
    require(empty == (tensor.nbytes == 0));
    require(tensor.elements() * arrow_quant::dtype_info(tensor.dtype).bits == tensor.nbytes * 8);
    end += tensor.nbytes;
  }
  require(end == file_size);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  uint16_t data_bytes = 0;
  if (size < sizeof(data_bytes)) return 0;
  std::memcpy(&data_bytes, data, sizeof(data_bytes));
  const std::string_view text(reinterpret_cast<const char*>(data) + sizeof(data_bytes),
                              size - sizeof(data_bytes));
  const uint64_t data_begin = 8 + text.size();
  const uint64_t file_size = data_begin + data_bytes;
  try {
    check(arrow_quant::parse_safetensors_header(text, file_size, "fuzz"), data_begin, file_size);
  } catch (const arrow_quant::Error& error) {
    require(std::string_view(error.what()).size() < 16'384);  // a message never repeats the input
  }
  return 0;
}
