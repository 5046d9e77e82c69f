// manifest.json, checked: who wrote it, that it is whole, and that it names only files inside the
// artefact.
#pragma once

#include <string>

#include "arrow_quant/manifest.h"

namespace arrow_quant {

/// Parse the text of a manifest. Raises kMetadata when it is not JSON, kValidation when its own
/// hash or a field is wrong, or when a newer version of the format wrote it.
Manifest parse_manifest(const std::string& text, const std::string& path);

}  // namespace arrow_quant
