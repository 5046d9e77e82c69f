#include "io/parquet_footer.h"

#include <cstring>
#include <vector>

#include "arrow_quant/error.h"
#include "core/hash.h"

namespace arrow_quant {

std::string parquet_footer_hash(const FileReader& file) {
  constexpr uint64_t kTail = 8;  // 4 bytes of length, "PAR1"
  const auto fail = [&](const std::string& what) {
    throw Error(ErrorCode::kMetadata, what, {.path = file.path()});
  };
  if (file.size() < kTail + 4) fail("too short for a Parquet file");
  std::byte tail[kTail];
  file.read_exact(file.size() - kTail, tail);
  if (std::memcmp(tail + 4, "PAR1", 4) != 0) fail("the file does not end with 'PAR1'");
  uint32_t length = 0;
  std::memcpy(&length, tail, sizeof(length));
  if (length > file.size() - kTail - 4) fail("the footer is longer than the file");
  std::vector<std::byte> footer(length + kTail);
  file.read_exact(file.size() - footer.size(), footer);
  return hash_hex(footer);
}

}  // namespace arrow_quant
