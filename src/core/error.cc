#include "arrow_quant/error.h"

#include <utility>

namespace arrow_quant {
namespace {

std::string compose(const std::string& message, const ErrorContext& context) {
  std::string text;
  if (!context.path.empty()) text += context.path + ": ";
  if (!context.tensor.empty()) text += "tensor '" + context.tensor + "': ";
  text += message;
  if (!context.hint.empty()) text += "\n" + context.hint;
  return text;
}

}  // namespace

Error::Error(ErrorCode code, const std::string& message, ErrorContext context)
    : std::runtime_error(compose(message, context)), code_(code), context_(std::move(context)) {}

int exit_code(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::kConfiguration:
      return 2;
    case ErrorCode::kModelNotFound:
      return 3;
    case ErrorCode::kMetadata:
    case ErrorCode::kShapeMismatch:
      return 4;
    case ErrorCode::kQuantization:
      return 5;
    case ErrorCode::kValidation:
      return 6;
    case ErrorCode::kOutput:
      return 7;
    case ErrorCode::kMemory:
      return 8;
    case ErrorCode::kCancelled:
      return 130;
  }
  return 1;
}

}  // namespace arrow_quant
