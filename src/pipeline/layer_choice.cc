#include "pipeline/layer_choice.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/text.h"

namespace arrow_quant {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kSampleRows = 256;  // one block of error feedback

/// Rows of a layer, evenly spread over it.
class SampledRows final : public RowSource {
 public:
  SampledRows(const RowSource& all, uint64_t rows)
      : all_(all), rows_(rows), count_(std::min(rows, kSampleRows)) {}

  uint64_t count() const noexcept { return count_; }

  std::span<const std::byte> rows(uint64_t row, uint64_t count,
                                  std::vector<std::byte>& scratch) const override {
    if (count_ == rows_) return all_.rows(row, count, scratch);
    std::vector<std::byte> one;
    std::vector<std::byte> gathered;
    for (uint64_t i = row; i < row + count; ++i) {
      const std::span<const std::byte> bytes = all_.rows(i * rows_ / count_, 1, one);
      gathered.insert(gathered.end(), bytes.begin(), bytes.end());
    }
    scratch = std::move(gathered);
    return scratch;
  }

 private:
  const RowSource& all_;
  uint64_t rows_;
  uint64_t count_;
};

bool has_sub_groups(const AffineSpec& spec) noexcept { return spec.group_size % 32 == 0; }

std::vector<Method> methods_for(const AffineSpec& planned, const ChoiceOptions& options) {
  if (!options.any_method) {
    // Residual binary codes have two bits; at others the same error feedback runs on even levels.
    const bool residual = planned.bit_width == 2 && has_sub_groups(planned);
    return {planned.method == Method::kR2q && !residual ? Method::kGptq : planned.method};
  }
  if (planned.bit_width != 2 || !has_sub_groups(planned)) return {Method::kGptq, Method::kSearch};
  if (options.residual_first) return {Method::kR2q, Method::kGptq, Method::kSearch};
  return {Method::kGptq, Method::kR2q, Method::kSearch};
}

std::vector<ParamEncoding> encodings_for(const AffineSpec& planned, Method method,
                                         const ChoiceOptions& options) {
  if (method == Method::kR2q) return {ParamEncoding::kResidualBinary};
  const bool grouped = planned.bit_width != 8 && has_sub_groups(planned);
  if (!options.any_encoding || !grouped) return {planned.param_encoding};
  const ParamEncoding other = planned.param_encoding == ParamEncoding::kFp16
                                  ? ParamEncoding::kTwoLevel
                                  : ParamEncoding::kFp16;
  return {planned.param_encoding, other};
}

std::vector<AffineSpec> candidates(const AffineSpec& planned, const ChoiceOptions& options,
                                   bool has_factor) {
  std::vector<AffineSpec> specs;
  for (const Method method : methods_for(planned, options)) {
    if (needs_statistics(method) && !has_factor) continue;
    for (const ParamEncoding encoding : encodings_for(planned, method, options)) {
      AffineSpec& spec = specs.emplace_back(planned);
      spec.method = method;
      spec.param_encoding = encoding;
    }
  }
  if (specs.empty()) {
    specs.push_back(planned);
    specs.back().method = Method::kSearch;
  }
  return specs;
}

}  // namespace

ChunkInput LayerChoice::input() const {
  const bool feedback = needs_statistics(info.spec.method);
  return {.importance = importance,
          .factor = feedback ? matrices->factor.get() : nullptr,
          .held_out = matrices->judge()};
}

LayerChoice choose_layer(const QuantizedTensorInfo& planned, const RowSource& rows,
                         const std::string& path, CalibrationSource& source, size_t input,
                         const ChoiceOptions& options, ChunkQuantizer& quantizer) {
  LayerChoice best{.info = planned,
                   .importance = source.importance(input),
                   .matrices = options.matrices ? source.matrices(input)
                                                : std::make_shared<const InputMatrices>()};
  const bool has_factor = best.matrices->factor != nullptr && best.matrices->factor->usable;
  if (has_factor) best.importance = best.matrices->factor->importance;
  const std::vector<AffineSpec> specs = candidates(planned.spec, options, has_factor);
  best.info.spec = specs[0];
  best.info.encoding = encoding_of(specs[0]);
  if (specs.size() == 1 || best.matrices->judge() == nullptr) return best;

  const SampledRows sample(rows, planned.rows());
  LayerChoice trial = best;
  trial.info.shape[0] = sample.count();
  double least = HUGE_VAL;
  Json tried = Json::array();
  for (const AffineSpec& spec : specs) {
    trial.info.spec = spec;
    trial.info.encoding = encoding_of(spec);
    const QuantizedChunk chunk =
        quantizer.quantize(trial.info, sample, 0, sample.count(), trial.input(), path);
    const double error = chunk.output_error.nmse();
    tried.push_back({{"method", to_string(spec.method)},
                     {"param_encoding", to_string(spec.param_encoding)},
                     {"output_nmse", rounded(error)}});
    if (error < least) {
      least = error;
      best.info.spec = spec;
      best.info.encoding = encoding_of(spec);
    }
  }
  best.info.candidates = tried.dump();
  return best;
}

}  // namespace arrow_quant
