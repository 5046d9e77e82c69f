// The checksums of Parquet pages, verified as the bytes come from the disk.
//
// Parquet's own reader can do this too, but its CRC is slower than everything else that happens to
// a page. A page without a checksum passes, as there. Pure functions, thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace arrow_quant {

/// Check every page of one column chunk, whose bytes these are from first to last. Raises
/// kValidation when a page does not match its checksum or a page header cannot be read. `path` is
/// for messages.
void verify_pages(std::span<const uint8_t> column_chunk, const std::string& path);

}  // namespace arrow_quant
