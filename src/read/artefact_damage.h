// How the readers of an artefact say that what they found cannot be true.
#pragma once

#include <string>

#include "arrow_quant/error.h"

namespace arrow_quant {

/// Raise kValidation.
[[noreturn]] inline void fail_damaged(const std::string& path, const std::string& what,
                                      const std::string& tensor = {}) {
  throw Error(ErrorCode::kValidation, what,
              {.path = path, .tensor = tensor, .hint = "The artefact is damaged: quantize again."});
}

}  // namespace arrow_quant
