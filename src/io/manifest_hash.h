// The hash by which a manifest checks itself, for the writer and the reader.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace arrow_quant {

inline constexpr const char* kManifestHashKey = "manifest_hash";

/// Hash of `document` as compact text with sorted keys, without its own hash.
std::string manifest_hash(nlohmann::json document);

}  // namespace arrow_quant
