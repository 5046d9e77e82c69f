#include "read/file_signature.h"

namespace arrow_quant {

std::string looks_like(std::string_view start) {
  const auto begins = [&](std::string_view magic) { return start.starts_with(magic); };
  if (begins("PK\x03\x04")) return "a zip archive (a torch .pt or .bin file?)";
  if (begins("\x80\x02") || begins("\x80\x03") || begins("\x80\x04") || begins("\x80\x05")) {
    return "a pickle";
  }
  if (begins("GGUF")) return "a GGUF file";
  if (begins("PAR1")) return "a Parquet file";
  if (begins("version ")) return "a git-lfs pointer (run 'git lfs pull')";
  if (begins("\x89HDF")) return "an HDF5 file";
  if (begins("<")) return "an HTML page (a failed download?)";
  if (begins("{")) return "JSON text (a failed download?)";
  return {};
}

}  // namespace arrow_quant
