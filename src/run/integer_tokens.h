// The activations of a call as integers: for matrix products, and arranged for few tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "arrow_quant/linear.h"
#include "kernels/activations.h"
#include "kernels/gemv_packed.h"
#include "run/reused_buffer.h"

namespace arrow_quant {

/// Integers of all tokens of a call, one row per byte limb, each padded to whole quads.
class IntegerTokens {
 public:
  IntegerTokens(const LinearCall& call, size_t inputs);

  size_t inputs() const noexcept { return inputs_; }
  int planes() const noexcept { return planes_; }
  /// Rows of byte limbs of tokens from `token` on.
  const int8_t* const* rows(size_t token) const noexcept {
    return rows_.data() + token * static_cast<size_t>(planes_);
  }
  const TokenSums* tokens() const noexcept { return tokens_.data(); }

 private:
  void quantize(const LinearCall& call, size_t t, const float* x) noexcept;

  size_t inputs_;
  int planes_;
  size_t stride_;
  ReusedBuffer<int8_t> bytes_;
  std::vector<TokenSums> tokens_;
  std::vector<const int8_t*> rows_;
};

/// One token in the layout of gemv_packed.
class ArrangedToken {
 public:
  /// `group`: codes per parameter of `two_level`, or 0.
  ArrangedToken(const IntegerTokens& tokens, size_t token, int bits, size_t group);

  GemvToken view() const noexcept;

 private:
  template <size_t kPhases>
  void arrange(const IntegerTokens& tokens, size_t token);
  void sum_groups(const IntegerTokens& tokens, size_t token, size_t group);

  std::vector<int8_t> planes_, group_planes_;
  size_t group_stride_ = 0;
  double sum_ = 0;
};

}  // namespace arrow_quant
