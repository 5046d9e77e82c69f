// The index of a sharded safetensors model: which file holds which tensor.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace arrow_quant {

struct ShardIndex {
  std::map<std::string, std::string> file_of;  ///< tensor name -> file name without a folder
  std::optional<uint64_t> total_size;          ///< as the index claims; only ever a warning
};

/// Parse the text of `*.safetensors.index.json`. Every file name must be one plain name that ends
/// in
/// ".safetensors", so that no path leaves the folder. Raises kMetadata.
ShardIndex parse_shard_index(const std::string& text, const std::string& path);

}  // namespace arrow_quant
