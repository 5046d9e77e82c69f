// For whoever works through many tensors in a row.
#pragma once

#include "arrow_quant/api.h"

namespace arrow_quant {

/// While one lives, large blocks of memory that are given back wait for the next request of their
/// size, 64 MiB of them at most in the process: a fresh page costs the kernel as much as filling
/// it, and layers are alike. Thread-safe; several may live.
class ARROW_QUANT_API PageReuse {
 public:
  /// From now on, until it is destroyed.
  PageReuse() noexcept;
  ~PageReuse();
  PageReuse(const PageReuse&) = delete;
  PageReuse& operator=(const PageReuse&) = delete;
};

}  // namespace arrow_quant
