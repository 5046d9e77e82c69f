// The checksums of Parquet pages, verified as the bytes come from the disk.
//
// Parquet's own reader can do this too, but its CRC is slower than everything else that happens to
// a page. A page without a checksum passes, as there. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

namespace arrow_quant {

/// Fills the bytes [begin, end) of a column chunk.
using ReadPart = std::function<void(size_t begin, size_t end)>;

/// Have all of `column_chunk` read, front to back in parts that stay in the caches until their
/// checksum is known, and check every page of it. Raises kValidation when a page does not match its
/// checksum or a page header cannot be read, and what `read` raises. `path` is for messages.
void read_pages(std::span<const uint8_t> column_chunk, const ReadPart& read,
                const std::string& path);

}  // namespace arrow_quant
