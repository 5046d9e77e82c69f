// Memory for Parquet pages: large blocks come straight from the kernel in huge pages, where it has
// them, and go back at once when freed.
//
// A page may be as large as a chunk of codes, and each is used once. From the heap it would cost
// one page fault per 4 KiB, more than reading or writing it; kept for reuse it would stay resident.
// Thread-safe.
#pragma once

#include <arrow/memory_pool.h>

namespace arrow_quant {

/// The one pool; lives as long as the process.
arrow::MemoryPool* page_memory_pool();

}  // namespace arrow_quant
