#include "io/manifest_hash.h"

#include <span>

#include "core/hash.h"

namespace arrow_quant {

std::string manifest_hash(nlohmann::json document) {
  document.erase(kManifestHashKey);
  const std::string text = document.dump();
  return hash_hex(std::as_bytes(std::span(text)));
}

}  // namespace arrow_quant
