// The footer of a Parquet file as bytes: what must be intact before anything in the file is
// believed.
#pragma once

#include <string>

#include "io/file_reader.h"

namespace arrow_quant {

/// Hash of the footer: the metadata, its length and the closing magic. Raises kMetadata when the
/// file does not end as a Parquet file does.
std::string parquet_footer_hash(const FileReader& file);

}  // namespace arrow_quant
