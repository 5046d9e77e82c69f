// What identifies a source model: two models with one fingerprint are taken for the same.
#pragma once

#include <string>

#include "arrow_quant/model_index.h"

namespace arrow_quant {

/// Hash over every header, every file size and a sample of the weight bytes of the components (64
/// places per file), so that it costs no full read. Paths and times do not enter.
std::string source_fingerprint(const ModelDirectory& model);

}  // namespace arrow_quant
