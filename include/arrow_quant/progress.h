// How a long job talks to its caller.
//
// Both methods are called only on the thread that started the job, at least every 100 ms while it
// runs, and may throw: the job then stops its workers, removes its staging files and lets that same
// exception through.
#pragma once

#include <string_view>

#include "arrow_quant/api.h"

namespace arrow_quant {

/// What a caller implements to hear of a job and to stop it.
class ARROW_QUANT_API Progress {
 public:
  virtual ~Progress() = default;

  /// Tell that `fraction` (0 to 1, never decreasing) of the work is done.
  virtual void report(std::string_view message, double fraction) = 0;

  /// Give the caller a chance to stop the job by throwing (a signal arrived, a deadline passed).
  virtual void poll() = 0;
};

}  // namespace arrow_quant
