// manifest.json as text.
#pragma once

#include <string>

#include "arrow_quant/manifest.h"

namespace arrow_quant {

/// The canonical text: sorted keys, two spaces of indentation, and a hash over all of it.
std::string write_manifest(const Manifest& manifest);

}  // namespace arrow_quant
