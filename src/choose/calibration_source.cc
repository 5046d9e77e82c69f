#include "choose/calibration_source.h"

#include <algorithm>
#include <utility>

#include "arrow_quant/calibration.h"
#include "arrow_quant/error.h"
#include "choose/float_inputs.h"
#include "core/text.h"
#include "kernels/convert.h"
#include "read/tensor_reader.h"

namespace arrow_quant {
namespace {

// Relative to the energy of an input: below that, damping is smaller than rounding in f32.
constexpr double kMinSpread = 0.01;

/// The elements of a weight that calibration kept a copy of.
std::vector<float> read_sample(const TensorReader& reader, const TensorInfo& tensor) {
  const size_t size = dtype_info(tensor.dtype).bits / 8;
  std::vector<float> sample;
  std::vector<std::byte> bytes(size);
  for (const uint64_t position : weight_sample_positions(tensor.elements())) {
    reader.read(tensor, position * size, bytes);
    (void)convert_to_f32(tensor.dtype, bytes.data(), 1, &sample.emplace_back());
  }
  return sample;
}

/// x / f for every x of a channel, in any number of tokens.
template <typename T>
void divide_by(const std::vector<float>& factors, uint64_t channels, std::vector<T>& values) {
  const uint64_t span = channels / factors.size();
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] /= factors[i % channels / span];
  }
}

void divide_facts(const std::vector<float>& factors, uint64_t channels, InputStatistics& facts) {
  for (TimeBin& bin : facts.bins) {
    divide_by(factors, channels, bin.low);
    divide_by(factors, channels, bin.high);
    divide_by(factors, channels, bin.sum);
    divide_by(factors, channels, bin.squares);
    divide_by(factors, channels, bin.squares);
    for (WeightedSum* sum : {&bin.fitted, &bin.held_out}) {
      divide_by(factors, channels, sum->sum);
      divide_by(factors, channels, sum->sample);
    }
  }
}

/// H[i][j] / (f_i f_j).
void divide_gram(const std::vector<float>& factors, GramMatrix& gram) {
  const uint64_t span = gram.channels() / factors.size();
  for (const GramMatrix::Tile& tile : gram.tiles()) {
    float* values = gram.values().data() + tile.offset;
    for (uint64_t r = 0; r < tile.rows; ++r) {
      for (uint64_t c = 0; c < tile.columns; ++c) {
        values[r * tile.columns + c] /=
            factors[(tile.row + r) / span] * factors[(tile.column + c) / span];
      }
    }
  }
}

bool is_calibrated_weight(const TensorReader& reader, const TensorInfo& tensor,
                          const CalibratedLayer& layer) {
  return tensor.shape == layer.shape && dtype_info(tensor.dtype).quantizable &&
         same_weight(read_sample(reader, tensor), layer.sample);
}

}  // namespace

CalibrationSource::CalibrationSource(const std::string& path, uint64_t max_bytes, ThreadPool& pool,
                                     std::function<void()> poll)
    : reader_(path),
      max_bytes_(max_bytes),
      pool_(pool),
      poll_(std::move(poll)),
      float_inputs_(float_input_layers(each_input(), reader_.origin().sensitivities)) {
  for (size_t i = 0; i < reader_.inputs().size(); ++i) {
    for (const CalibratedLayer& layer : reader_.inputs()[i].layers) by_layer_[layer.name] = i;
  }
}

bool CalibrationSource::holds_out() const noexcept {
  for (size_t i = 0; i < inputs().size(); ++i) {
    if (reader_.has_held_out(i)) return true;
  }
  return false;
}

uint32_t CalibrationSource::component_of(const ModelDirectory& model, const Plan& plan) const {
  std::vector<std::string> names;
  for (const ComponentPlan& part : plan.components) {
    const std::string& name = model.components[part.component].component;
    // A component folder is the same network as the component of its pipeline.
    if (name == component() || name.empty()) return part.component;
    names.push_back(name);
  }
  if (component().empty() && names.size() == 1) return plan.components[0].component;
  throw Error(ErrorCode::kConfiguration,
              component().empty()
                  ? "the statistics do not say which component they are of"
                  : "the statistics are of component '" + component() + "', which is not quantized",
              {.path = path(), .hint = "Quantized components: " + join(names) + "."});
}

void CalibrationSource::check_model(const ModelIndex& component) const {
  std::map<std::string, const TensorInfo*> tensors;
  for (const TensorInfo& tensor : component.tensors) tensors[tensor.name] = &tensor;
  const TensorReader reader(component);
  for (const InputStatistics& input : reader_.inputs()) {
    for (const CalibratedLayer& layer : input.layers) {
      const auto found = tensors.find(layer.name);
      if (found != tensors.end() && is_calibrated_weight(reader, *found->second, layer)) continue;
      throw Error(ErrorCode::kShapeMismatch,
                  found == tensors.end() ? "the model has no such layer"
                                         : "expected the weight that was calibrated",
                  {.path = path(),
                   .tensor = layer.name,
                   .hint = "These statistics are of another model than " + component.path +
                           ": calibrate this one."});
    }
  }
}

std::optional<size_t> CalibrationSource::find(const std::string& name) const {
  const auto found = by_layer_.find(name);
  if (found == by_layer_.end()) return std::nullopt;
  return found->second;
}

const InputStatistics& CalibrationSource::facts(size_t input) const {
  if (known_ == input) return facts_;
  known_.reset();
  facts_ = {};  // first room for the next one
  facts_ = reader_.read_facts(input);
  const auto factors = factors_.find(input);
  if (factors != factors_.end()) divide_facts(factors->second, reader_.channels(input), facts_);
  known_ = input;
  return facts_;
}

EachInput CalibrationSource::each_input() const {
  return [this](const std::function<void(const InputStatistics&)>& visit) {
    for (size_t i = 0; i < inputs().size(); ++i) visit(reader_.read_facts(i));
  };
}

void CalibrationSource::divide(std::map<size_t, std::vector<float>> factors) {
  known_.reset();
  factors_ = std::move(factors);
  matrices_.reset();
  centred_.clear();
}

GramMatrix CalibrationSource::read_gram(size_t input, bool held_out) const {
  GramMatrix gram = reader_.read_gram(input, held_out);
  const auto found = factors_.find(input);
  if (found != factors_.end()) divide_gram(found->second, gram);
  return gram;
}

std::vector<float> CalibrationSource::importance(size_t input) const {
  std::vector<double> squares(reader_.channels(input), 0.0);
  uint64_t tokens = 0;
  for (const TimeBin& bin : facts(input).bins) {
    for (size_t i = 0; i < squares.size(); ++i) squares[i] += bin.squares[i];
    tokens += bin.tokens;
  }
  std::vector<float> mean;
  mean.reserve(squares.size());
  for (const double square : squares) {
    mean.push_back(static_cast<float>(square / static_cast<double>(std::max<uint64_t>(1, tokens))));
  }
  return mean;
}

std::shared_ptr<const FeedbackFactor> CalibrationSource::factor_of(const GramMatrix& gram,
                                                                   size_t input, int bit_width,
                                                                   double uncertain) {
  const auto make = [&](const GramMatrix& seen) {
    return make_feedback_factor(seen, facts(input).tokens,
                                {.bit_width = bit_width, .uncertain = uncertain}, pool_, poll_);
  };
  const auto found = factors_.find(input);
  if (found == factors_.end()) return std::make_shared<const FeedbackFactor>(make(gram));
  // Order and damping are those of the input as it was seen: factors only change units.
  const std::vector<float>& factors = found->second;
  std::vector<float> inverse;
  for (const float factor : factors) inverse.push_back(1 / factor);
  GramMatrix seen = gram;
  divide_gram(inverse, seen);
  return std::make_shared<const FeedbackFactor>(
      equalized(make(seen), factors, gram.channels() / factors.size()));
}

Centred CalibrationSource::centred(const TimeMeans& means) {
  Centred& kept = centred_[means.fitted_weights.size()];
  if (kept.gram != nullptr) return kept;
  auto gram = std::make_shared<GramMatrix>(matrices_->gram);
  take_means_out(means, *gram);
  kept.factor = factor_of(*gram, loaded_, bit_width_);
  kept.gram = std::move(gram);
  return kept;
}

std::shared_ptr<const InputMatrices> CalibrationSource::matrices(size_t input, int bit_width,
                                                                 std::span<const TimeSpan> times) {
  const bool by_time = !times.empty() && !facts(input).bins.empty();
  if (matrices_ && loaded_ == input && bit_width_ == bit_width && by_time_ == by_time) {
    return matrices_;
  }
  matrices_.reset();
  centred_.clear();
  auto loaded = std::make_shared<InputMatrices>();
  const bool held_out = reader_.has_held_out(input);
  const uint64_t bytes = reader_.gram_bytes(input);
  if (bytes <= max_bytes_) loaded->held_out = read_gram(input, held_out);
  // Both matrices, one less its means and one equalized; a factor of each, and one in the making.
  const uint64_t needed = 4 * bytes + 4 * FeedbackFactor::bytes(loaded->held_out);
  if (bytes <= max_bytes_ && needed <= max_bytes_) {
    loaded->gram = held_out ? read_gram(input, false) : loaded->held_out;
    const double spread =
        by_time ? spread_about(means_by_time(facts(input), times), loaded->gram) : 1.0;
    loaded->factor = factor_of(loaded->gram, input, bit_width, std::max(spread, kMinSpread));
  }
  loaded_ = input;
  bit_width_ = bit_width;
  by_time_ = by_time;
  matrices_ = std::move(loaded);
  return matrices_;
}

}  // namespace arrow_quant
