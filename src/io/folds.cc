#include "io/folds.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string_view>
#include <utility>

#include "arrow_quant/error.h"
#include "io/equalization_factors.h"

namespace arrow_quant {
namespace {

using Json = nlohmann::json;

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw Error(ErrorCode::kMetadata, "malformed folds: " + what, {.path = path});
}

const Json& field(const Json& object, const char* key, const std::string& path) {
  if (!object.is_object() || !object.contains(key)) fail(path, std::string("no ") + key);
  return object[key];
}

const Json& list(const Json& object, const char* key, const std::string& path) {
  const Json& value = field(object, key, path);
  if (!value.is_array() || value.empty()) fail(path, std::string(key) + " is no list");
  return value;
}

std::string text(const Json& value, const std::string& path) {
  if (!value.is_string()) fail(path, "a name is no text");
  return value.get<std::string>();
}

constexpr std::string_view kDigits = "0123456789abcdef";

std::string hex(std::span<const uint8_t> bytes) {
  std::string digits;
  for (const uint8_t byte : bytes) {
    digits.push_back(kDigits[byte / 16]);
    digits.push_back(kDigits[byte % 16]);
  }
  return digits;
}

std::vector<uint8_t> from_hex(std::string_view digits, const std::string& path) {
  std::vector<uint8_t> bytes;
  if (digits.empty() || digits.size() % 2 != 0) fail(path, "factors are no bytes");
  for (size_t i = 0; i < digits.size(); i += 2) {
    const size_t high = kDigits.find(digits[i]);
    const size_t low = kDigits.find(digits[i + 1]);
    if (high == std::string_view::npos || low == std::string_view::npos) {
      fail(path, "factors are no bytes");
    }
    bytes.push_back(static_cast<uint8_t>(high * 16 + low));
  }
  return bytes;
}

FoldSource read_source(const Json& json, const std::string& path) {
  FoldSource source{.name = text(field(json, "name", path), path)};
  const Json& row = field(json, "row", path);
  const Json& offset = field(json, "offset", path);
  // A small number, so that adding a count to it cannot overflow.
  if (!row.is_number_unsigned() || row.get<uint64_t>() > std::numeric_limits<uint32_t>::max()) {
    fail(path, "a row is no number");
  }
  if (!offset.is_number() || !std::isfinite(offset.get<double>())) {
    fail(path, "an offset is no number");
  }
  source.row = row.get<uint64_t>();
  source.offset = offset.get<double>();
  return source;
}

Fold read_fold(const Json& json, const std::string& path) {
  Fold fold;
  for (const Json& name : list(json, "layers", path)) fold.layers.push_back(text(name, path));
  for (const Json& entry : list(json, "sources", path)) {
    fold.sources.push_back(read_source(entry, path));
  }
  return fold;
}

Json fold_json(const Fold& fold) {
  Json sources = Json::array();
  for (const FoldSource& source : fold.sources) {
    sources.push_back({{"name", source.name}, {"row", source.row}, {"offset", source.offset}});
  }
  return {{"layers", fold.layers}, {"sources", std::move(sources)}};
}

}  // namespace

Json folds_json(std::span<const Fold> folds) {
  Json json = Json::array();
  for (const Fold& fold : folds) json.push_back(fold_json(fold));
  return json;
}

Json chosen_folds_json(std::span<const ChosenFold> folds) {
  Json json = Json::array();
  for (const ChosenFold& chosen : folds) {
    Json entry = fold_json(chosen.fold);
    entry["factors"] = hex(pack_factors(chosen.factors));
    json.push_back(std::move(entry));
  }
  return json;
}

std::vector<Fold> read_folds(const Json& json, const std::string& path) {
  if (!json.is_array()) fail(path, "expected a list");
  std::vector<Fold> folds;
  for (const Json& entry : json) folds.push_back(read_fold(entry, path));
  return folds;
}

std::vector<ChosenFold> read_chosen_folds(const Json& json, const std::string& path) {
  if (!json.is_array()) fail(path, "expected a list");
  std::vector<ChosenFold> folds;
  for (const Json& entry : json) {
    ChosenFold& chosen = folds.emplace_back(read_fold(entry, path));
    const std::vector<uint8_t> bytes = from_hex(text(field(entry, "factors", path), path), path);
    auto factors = unpack_factors(bytes, bytes.size());
    if (!factors) fail(path, "a factor is out of range");
    chosen.factors = std::move(*factors);
  }
  return folds;
}

}  // namespace arrow_quant
