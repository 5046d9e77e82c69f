// Strict JSON for files that strangers made: UTF-8, no duplicate keys at any level, bounded depth
// and size, no NaN, nothing after the end. Pure functions.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace arrow_quant {

struct JsonLimits {
  size_t max_bytes = 64U << 20;
  size_t max_depth = 64;
};

/// Parse `text`. `path` is for messages. Raises kMetadata with the byte position.
nlohmann::json parse_json(std::string_view text, const std::string& path, JsonLimits limits = {});

/// The same for what Python's json module writes: a bare `NaN`, `Infinity` or `-Infinity` is null.
nlohmann::json parse_config(std::string_view text, const std::string& path);

/// What nlohmann says about a parse error, without its prefix and without the text it last read
/// (which may be long or not UTF-8).
std::string json_problem(const nlohmann::json::exception& error);

}  // namespace arrow_quant
