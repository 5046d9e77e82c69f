#include "read/manifest_reader.h"

#include <algorithm>
#include <set>

#include "arrow_quant/error.h"
#include "arrow_quant/format.h"
#include "core/json.h"
#include "io/manifest_hash.h"

namespace arrow_quant {
namespace {

using Json = nlohmann::json;

[[noreturn]] void fail(const std::string& path, const std::string& what,
                       const std::string& hint = "The artefact is damaged: quantize again.") {
  throw Error(ErrorCode::kValidation, what, {.path = path, .hint = hint});
}

/// Typed access to the members of one object.
class Fields {
 public:
  Fields(const Json& object, const std::string& path) : object_(object), path_(path) {
    if (!object.is_object()) fail(path, "expected an object in the manifest");
  }

  const Json& get(const char* key) const {
    const auto entry = object_.find(key);
    if (entry == object_.end()) fail(path_, std::string("the manifest lacks '") + key + "'");
    return *entry;
  }

  std::string text(const char* key) const {
    if (!get(key).is_string()) fail(path_, std::string("expected text for '") + key + "'");
    return get(key).get<std::string>();
  }

  uint64_t number(const char* key) const {
    if (!get(key).is_number_unsigned()) {
      fail(path_, std::string("expected a whole number for '") + key + "'");
    }
    return get(key).get<uint64_t>();
  }

  const Json& array(const char* key) const {
    if (!get(key).is_array()) fail(path_, std::string("expected a list for '") + key + "'");
    return get(key);
  }

 private:
  const Json& object_;
  const std::string& path_;
};

// "a/b.parquet": no root, no "." or ".." step, no backslash, no NUL.
bool is_inside(const std::string& relative) {
  if (relative.empty() || relative.find_first_of(std::string("\\\0", 2)) != std::string::npos) {
    return false;
  }
  for (size_t begin = 0; begin <= relative.size();) {
    const size_t end = std::min(relative.find('/', begin), relative.size());
    const std::string step = relative.substr(begin, end - begin);
    if (step.empty() || step == "." || step == "..") return false;
    begin = end + 1;
  }
  return true;
}

// The writer has one text for one document; another text with the same meaning has been changed by
// someone, which the hash over the meaning does not see.
void check_identity(const Json& document, const std::string& text, const std::string& path) {
  const Fields fields(document, path);
  if (fields.text("format") != kFormatName) fail(path, "not a manifest of arrow_quant_v2");
  const uint64_t version = fields.number("format_version");
  if (version == 0) fail(path, "no format has version 0");
  if (version > static_cast<uint64_t>(kFormatVersion)) {
    fail(path,
         "format version " + std::to_string(version) + ", this build reads up to " +
             std::to_string(kFormatVersion),
         "Upgrade arrow-quant-v2.");
  }
  if (fields.text(kManifestHashKey) != manifest_hash(document)) {
    fail(path, "the manifest does not match its own hash");
  }
  if (text != document.dump(2) + "\n") fail(path, "the manifest is not as it was written");
}

FileRecord read_file_record(const Json& entry, const std::string& path) {
  const Fields fields(entry, path);
  FileRecord record{
      .path = fields.text("path"), .size = fields.number("size"), .hash = fields.text("hash")};
  if (entry.contains("footer_hash")) record.footer_hash = fields.text("footer_hash");
  if (!is_inside(record.path)) fail(path, "the manifest names a file outside the artefact");
  return record;
}

}  // namespace

Manifest parse_manifest(const std::string& text, const std::string& path) {
  const Json document = parse_json(text, path);
  check_identity(document, text, path);
  const Fields fields(document, path);
  Manifest manifest{.tool_version = fields.text("tool_version"),
                    .modality = fields.text("modality"),
                    .source_fingerprint = fields.text("source_fingerprint"),
                    .config_json = fields.get("config").dump(),
                    .report_json = fields.get("report").dump()};
  std::set<std::string> names;
  for (const Json& entry : fields.array("files")) {
    manifest.files.push_back(read_file_record(entry, path));
    if (!names.insert(manifest.files.back().path).second) fail(path, "a file is listed twice");
  }
  for (const Json& entry : fields.array("components")) {
    const Fields component(entry, path);
    ManifestComponent& out = manifest.components.emplace_back();
    out.name = component.text("name");
    out.tensors = component.number("tensors");
    for (const Json& part : component.array("parts")) {
      if (!part.is_string() || !names.contains(part.get<std::string>())) {
        fail(path, "a part is not among the files");
      }
      out.parts.push_back(part.get<std::string>());
    }
  }
  if (manifest.components.empty()) fail(path, "the manifest names no component");
  return manifest;
}

}  // namespace arrow_quant
