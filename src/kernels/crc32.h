// CRC-32 (the polynomial of zlib and Parquet, 0xEDB88320 reflected) at memory speed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace arrow_quant {

/// The checksum of `size` bytes at `data`. A pure function, safe from many threads.
uint32_t crc32(const void* data, size_t size) noexcept;

}  // namespace arrow_quant
