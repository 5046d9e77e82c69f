#include "read/shard_index.h"

#include "arrow_quant/error.h"
#include "core/json.h"

namespace arrow_quant {
namespace {

// Symbolic links are allowed (hub caches are made of them); separators are not.
bool is_plain_name(const std::string& name) {
  return name.find_first_of(std::string("/\\\0:", 4)) == std::string::npos && name != "." &&
         name != ".." && name.ends_with(".safetensors") && name.size() > sizeof(".safetensors") - 1;
}

}  // namespace

ShardIndex parse_shard_index(const std::string& text, const std::string& path) {
  const nlohmann::json document =
      parse_json(text, path, {.max_bytes = 100'000'000, .max_depth = 8});
  const auto fail = [&](const std::string& what, const std::string& tensor = {}) {
    throw Error(ErrorCode::kMetadata, what, {.path = path, .tensor = tensor});
  };
  if (!document.is_object() || !document.contains("weight_map") ||
      !document["weight_map"].is_object()) {
    fail("expected an object with an object 'weight_map'");
  }
  ShardIndex index;
  for (const auto& [name, file] : document["weight_map"].items()) {
    if (!file.is_string()) fail("expected a file name in weight_map", name);
    const auto& file_name = file.get_ref<const std::string&>();
    if (!is_plain_name(file_name)) {
      fail("expected a plain file name ending in .safetensors in weight_map, found '" + file_name +
               "'",
           name);
    }
    index.file_of.emplace(name, file_name);
  }
  if (index.file_of.empty()) fail("weight_map names no tensors");
  if (document.contains("metadata") && document["metadata"].is_object()) {
    const auto& metadata = document["metadata"];
    if (metadata.contains("total_size") && metadata["total_size"].is_number_unsigned()) {
      index.total_size = metadata["total_size"].get<uint64_t>();
    }
  }
  return index;
}

}  // namespace arrow_quant
