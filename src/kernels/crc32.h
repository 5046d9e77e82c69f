// CRC-32 (the polynomial of zlib and Parquet, 0xEDB88320 reflected) at memory speed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace arrow_quant {

/// The checksum of `size` bytes at `data`, after others whose checksum was `before`. A pure
/// function, safe from many threads.
uint32_t crc32(const void* data, size_t size, uint32_t before = 0) noexcept;

}  // namespace arrow_quant
