// The one exception type of the library.
//
// Thrown at stage boundaries only; kernels are noexcept. `what()` reads
// "<path>: tensor '<name>': <message>" and, on the following lines, the hint: the probable cause or
// the next step. The Python layer maps each code to one exception class, the command line to one
// exit code.
#pragma once

#include <stdexcept>
#include <string>

#include "arrow_quant/api.h"

namespace arrow_quant {

/// What kind of failure it is; decides the exception class in Python and the exit code.
enum class ErrorCode {
  kConfiguration,  ///< A setting is invalid or contradicts another.
  kModelNotFound,  ///< A model, a shard or an artefact is absent or unreadable.
  kMetadata,       ///< A file is malformed.
  kShapeMismatch,  ///< Sizes that must agree do not.
  kQuantization,   ///< A weight cannot be quantized (NaN, Inf, out of range).
  kValidation,     ///< An artefact is damaged, tampered with, or misses its threshold.
  kOutput,         ///< The output cannot be written.
  kMemory,         ///< An allocation failed.
  kCancelled,      ///< The caller asked to stop.
};

/// Exit code of the command line for `code` (2 to 8; 130 for a cancelled run).
ARROW_QUANT_API int exit_code(ErrorCode code) noexcept;

/// Where an error happened and what to do about it. Empty fields are left out of the text.
struct ErrorContext {
  std::string path = {};    ///< of the file or folder
  std::string tensor = {};  ///< name of the tensor
  std::string hint = {};    ///< the probable cause or the next step
};

/// A failure; `what()` is the whole text.
class ARROW_QUANT_API Error : public std::runtime_error {
 public:
  /// `message` says what was expected and what was found.
  explicit Error(ErrorCode code, const std::string& message, ErrorContext context = {});

  /// Which kind of failure.
  ErrorCode code() const noexcept { return code_; }
  /// The fields of the context; empty where nothing was given.
  const std::string& path() const noexcept { return context_.path; }
  /// See path().
  const std::string& tensor() const noexcept { return context_.tensor; }
  /// See path().
  const std::string& hint() const noexcept { return context_.hint; }

 private:
  ErrorCode code_;
  ErrorContext context_;
};

}  // namespace arrow_quant
