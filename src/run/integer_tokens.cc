#include "run/integer_tokens.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/parallel.h"

namespace arrow_quant {
namespace {

constexpr size_t kTokensPerBlock = 16;  // of one thread at a time
constexpr size_t kVectorSlack = 16;

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
    for (size_t t = block * kTokensPerBlock; t < end; ++t) quantize(call, t);
  });
}

void IntegerTokens::quantize(const LinearCall& call, size_t t) noexcept {
  const float* x = call.x + t * inputs_;
  const float most = token_absmax(x, call.input_factors, inputs_);
  float scale = most / static_cast<float>(largest_integer(planes_));
  if (call.activation_scale > 0) scale = call.activation_scale;
  if (!std::isfinite(most)) scale = std::numeric_limits<float>::quiet_NaN();
  tokens_[t] = quantize_token(x, call.input_factors, inputs_, scale, planes_, stride_,
                              bytes_.data() + t * static_cast<size_t>(planes_) * stride_);
}

ArrangedToken::ArrangedToken(const IntegerTokens& tokens, size_t token, int bits, size_t group) {
  const size_t phases = 8 / static_cast<size_t>(bits), inputs = tokens.inputs();
  const size_t planes = static_cast<size_t>(tokens.planes());
  const size_t block_codes = kGemvBlock * phases;
  const size_t blocks = (inputs + block_codes - 1) / block_codes;
  planes_.resize(blocks * planes * block_codes);
  const size_t row_bytes = (inputs + phases - 1) / phases;
  std::vector<float> values(inputs);
  for (size_t p = 0; p < planes; ++p) {
    const int8_t* row = tokens.rows(token)[p];
    for (size_t b = 0; b < blocks; ++b) {
      int8_t* to = planes_.data() + (b * planes + p) * block_codes;
      const size_t begin = b * block_codes, count = std::min(block_codes, inputs - begin);
      for (size_t i = 0; i < count; ++i) to[i % phases * kGemvBlock + i / phases] = row[begin + i];
    }
    for (size_t i = 0; i < inputs; ++i) {
      values[i] = values[i] * 256.0F + static_cast<float>(row[i]);
    }
    sum_ = sum_ * 256 + tokens.tokens()[token].sums[p];
  }
  if (group == 0) return;
  values_.resize(phases * row_bytes + kVectorSlack);
  for (size_t i = 0; i < inputs; ++i) values_[i % phases * row_bytes + i / phases] = values[i];
  group_sums_.assign((inputs + group - 1) / group + kVectorSlack, 0.0F);
  for (size_t begin = 0; begin < inputs; begin += group) {
    double sum = 0;
    for (size_t i = begin; i < std::min(inputs, begin + group); ++i) {
      sum += static_cast<double>(values[i]);
    }
    group_sums_[begin / group] = static_cast<float>(sum);
  }
}

GemvToken ArrangedToken::view() const noexcept {
  return {planes_.data(), values_.data(), group_sums_.data(), sum_};
}

}  // namespace arrow_quant
