#include "write/manifest.h"

#include <nlohmann/json.hpp>

#include "arrow_quant/format.h"
#include "io/manifest_hash.h"

namespace arrow_quant {

std::string write_manifest(const Manifest& manifest) {
  using Json = nlohmann::json;
  Json components = Json::array();
  for (const ManifestComponent& component : manifest.components) {
    components.push_back(
        {{"name", component.name}, {"parts", component.parts}, {"tensors", component.tensors}});
  }
  Json files = Json::array();
  for (const FileRecord& file : manifest.files) {
    Json entry = {{"path", file.path}, {"size", file.size}, {"hash", file.hash}};
    if (!file.footer_hash.empty()) entry["footer_hash"] = file.footer_hash;
    files.push_back(std::move(entry));
  }
  Json document = {{"format", kFormatName},
                   {"format_version", kFormatVersion},
                   {"tool_version", manifest.tool_version},
                   {"modality", manifest.modality},
                   {"source_fingerprint", manifest.source_fingerprint},
                   {"config", Json::parse(manifest.config_json)},
                   {"report", Json::parse(manifest.report_json)},
                   {"components", std::move(components)},
                   {"files", std::move(files)}};
  if (!manifest.machine_json.empty()) document["machine"] = Json::parse(manifest.machine_json);
  document[kManifestHashKey] = manifest_hash(document);
  return document.dump(2) + "\n";
}

}  // namespace arrow_quant
