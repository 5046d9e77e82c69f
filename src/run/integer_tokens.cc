#include "run/integer_tokens.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "run/float_rows.h"

namespace arrow_quant {
namespace {

constexpr size_t kTokensPerBlock = 16;  // of one thread at a time

}  // namespace

IntegerTokens::IntegerTokens(const LinearCall& call, size_t inputs)
    : inputs_(inputs),
      planes_(call.planes),
      stride_((inputs + 3) / 4 * 4),
      bytes_(call.tokens * static_cast<size_t>(call.planes) * stride_),
      tokens_(call.tokens),
      rows_(call.tokens * static_cast<size_t>(call.planes)) {
  for (size_t r = 0; r < rows_.size(); ++r) rows_[r] = bytes_.data() + r * stride_;
  const size_t blocks = (call.tokens + kTokensPerBlock - 1) / kTokensPerBlock;
  parallel_blocks(call.threads, blocks, [&](size_t block) {
    const size_t end = std::min(call.tokens, (block + 1) * kTokensPerBlock);
    FloatRows x(call.x, inputs_);
    for (size_t t = block * kTokensPerBlock; t < end; ++t) {
      quantize(call, t, x.row(t * inputs_, inputs_));
    }
  });
}

void IntegerTokens::quantize(const LinearCall& call, size_t t, const float* x) noexcept {
  const float max_abs = token_absmax(x, call.input_factors, inputs_);
  float scale = max_abs / static_cast<float>(largest_integer(planes_));
  if (call.activation_scale > 0) scale = call.activation_scale;
  if (!std::isfinite(max_abs)) scale = std::numeric_limits<float>::quiet_NaN();
  const auto planes = static_cast<size_t>(planes_);
  int8_t* bytes = bytes_.data() + t * planes * stride_;
  tokens_[t] = quantize_token(x, call.input_factors, inputs_, scale, planes_, stride_, bytes);
  for (size_t p = 0; p < planes; ++p) {
    std::fill(bytes + p * stride_ + inputs_, bytes + (p + 1) * stride_, int8_t{0});
  }
}

ArrangedToken::ArrangedToken(const IntegerTokens& tokens, size_t token, int bits, size_t group) {
  for (int p = 0; p < tokens.planes(); ++p) {
    sum_ = sum_ * 256 + tokens.tokens()[token].sums[p];
  }
  if (bits == 8) arrange<1>(tokens, token);
  if (bits == 4) arrange<2>(tokens, token);
  if (bits == 2) arrange<4>(tokens, token);
  if (group != 0) sum_groups(tokens, token, group);
}

template <size_t kPhases>
void ArrangedToken::arrange(const IntegerTokens& tokens, size_t token) {
  constexpr size_t kCodes = kGemvBlock * kPhases;
  const size_t inputs = tokens.inputs(), blocks = (inputs + kCodes - 1) / kCodes;
  const auto planes = static_cast<size_t>(tokens.planes());
  planes_.resize(blocks * planes * kCodes);
  for (size_t p = 0; p < planes; ++p) {
    for (size_t b = 0; b < blocks; ++b) {
      int8_t* to = planes_.data() + (b * planes + p) * kCodes;
      const int8_t* from = tokens.rows(token)[p] + b * kCodes;
      int8_t last[kCodes] = {};
      if (inputs - b * kCodes < kCodes) {
        std::copy_n(from, inputs - b * kCodes, last);
        from = last;
      }
      for (size_t phase = 0; phase < kPhases; ++phase) {
        for (size_t j = 0; j < kGemvBlock; ++j) {
          to[phase * kGemvBlock + j] = from[j * kPhases + phase];
        }
      }
    }
  }
}

void ArrangedToken::sum_groups(const IntegerTokens& tokens, size_t token, size_t group) {
  const size_t inputs = tokens.inputs(), groups = (inputs + group - 1) / group;
  group_stride_ = (groups + kGemvBlock - 1) / kGemvBlock * kGemvBlock;
  group_planes_.resize(kGroupPlanes * group_stride_);
  for (size_t g = 0; g < groups; ++g) {
    const size_t count = std::min(group, inputs - g * group);
    int32_t sum = 0;  // fits: of at most 256 codes
    for (int p = 0; p < tokens.planes(); ++p) {
      sum = sum * 256 + sum_bytes(tokens.rows(token)[p] + g * group, count);
    }
    for (size_t p = kGroupPlanes; p-- > 0;) {
      const auto digit = static_cast<int8_t>(sum);  // the lowest byte as a signed number
      group_planes_[p * group_stride_ + g] = digit;
      sum = (sum - digit) / 256;
    }
  }
}

GemvToken ArrangedToken::view() const noexcept {
  return {planes_.data(), group_planes_.data(), group_stride_, sum_};
}

}  // namespace arrow_quant
