// Names what a file that is not safetensors looks like, for messages.
#pragma once

#include <string>
#include <string_view>

namespace arrow_quant {

/// The format that begins with the bytes `start` (eight are enough), with the probable cause, or
/// empty.
std::string looks_like(std::string_view start);

}  // namespace arrow_quant
