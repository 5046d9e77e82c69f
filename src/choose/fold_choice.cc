#include "choose/fold_choice.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "choose/layer_equalization.h"
#include "core/text.h"
#include "io/equalization_factors.h"
#include "kernels/convert.h"
#include "read/tensor_rows.h"

namespace arrow_quant {
namespace {

constexpr double kWorthwhile = 0.99;             // of the errors, at least
constexpr std::array kStrengths = {1.0F, 0.5F};  // of factors: layers with one input want others
constexpr size_t kNamed = 3;                     // of what a warning is about

/// One layer of a fold, with what is tried on it.
struct Member {
  Member(const TensorReader& reader, const TensorInfo& tensor, const QuantizedTensorInfo& planned,
         size_t input_number, const std::string& path, ChunkQuantizer& quantizer)
      : info(planned),
        input(input_number),
        rows(reader, tensor, info.cols()),
        trial(info, rows, path, quantizer) {}

  QuantizedTensorInfo info;
  size_t input;
  TensorRows rows;
  LayerTrial trial;
  LayerChoice plain;
};

/// Sizes of the weights of all members: each member counts the same, whatever its scale.
ChannelSizes sizes_of(std::vector<std::unique_ptr<Member>>& members) {
  ChannelSizes all;
  for (const auto& member : members) {
    const ChannelSizes& own = member->trial.weight_sizes();
    const size_t channels = own.largest.size();
    double squares = 0;
    for (const float size : own.root_mean_square) squares += double{size} * double{size};
    const double mean = std::sqrt(squares / static_cast<double>(channels));
    const float unit = mean > 0 ? static_cast<float>(1 / mean) : 1.0F;
    all.largest.resize(channels);
    all.root_mean_square.resize(channels);
    for (size_t j = 0; j < channels; ++j) {
      all.largest[j] = std::max(all.largest[j], own.largest[j] * unit);
      all.root_mean_square[j] = std::hypot(all.root_mean_square[j], own.root_mean_square[j] * unit);
    }
  }
  return all;
}

/// The error of all members with these factors, or without any.
double tried(std::vector<std::unique_ptr<Member>>& members, const std::vector<float>& factors) {
  double sum = 0;
  for (const auto& member : members) {
    if (factors.empty()) {
      sum += member->trial.output_nmse(member->plain);
    } else {
      LayerChoice choice = with_factors(member->plain, factors);
      sum += member->trial.output_nmse(choice);
    }
  }
  return sum;
}

class FoldSearch {
 public:
  FoldSearch(const ModelIndex& component, const ComponentPlan& plan, const ChoiceOptions& options,
             uint64_t max_memory_bytes, CalibrationSource& calibration, ThreadPool& pool,
             Progress& progress)
      : component_(component),
        options_(options),
        max_memory_bytes_(max_memory_bytes),
        calibration_(calibration),
        threads_(pool.size()),
        reader_(component),
        quantizer_(pool, [&progress] { progress.poll(); }) {
    for (const TensorPlan& tensor : plan.tensors) {
      plans_[component.tensors[tensor.tensor].name] = &tensor;
    }
  }

  FoldPlan run() {
    const auto& known = calibration_.origin().folds;
    if (!known) {
      nothing(
          "the statistics, of an older version or a network that cannot be followed, do not say "
          "what precedes the layers");
      return std::move(result_);
    }
    calibration_.divide({});
    std::map<size_t, std::vector<float>> factors;
    for (const Fold& fold : *known) consider(fold, factors);
    for (const auto& [why, names] : refused_) {
      result_.warnings.push_back("not folded, since " + why + ": " + join(names, kNamed));
    }
    if (result_.folds.empty()) {
      nothing(known->empty() ? "no layer's input is made by parameters that nothing else reads"
                             : "no fold is possible and lowers the errors of outputs");
    }
    calibration_.divide(std::move(factors));
    result_.tensors = tensor_folds(result_.folds, component_, calibration_.path());
    return std::move(result_);
  }

 private:
  void nothing(const std::string& why) {
    result_.warnings.push_back("fold_equalization: nothing is folded: " + why);
  }

  void consider(const Fold& fold, std::map<size_t, std::vector<float>>& factors) {
    if (const std::string why = obstacle(fold); !why.empty()) {
      refused_[why].push_back(fold.layers[0]);
      return;
    }
    check_shapes(fold);
    std::vector<std::unique_ptr<Member>> members = members_of(fold);
    const auto unknown = [](const auto& member) {
      return member->plain.matrices->judge() == nullptr;
    };
    if (std::ranges::any_of(members, unknown)) {
      refused_["max_memory_mb does not hold the matrices of the input"].push_back(fold.layers[0]);
      return;
    }
    std::vector<float> found = search(fold, members);
    if (found.empty()) return;
    if (overflows(fold, found)) {
      refused_["float16 does not hold the products"].push_back(fold.layers[0]);
      return;
    }
    factors[members[0]->input] = found;
    result_.folds.push_back({.fold = fold, .factors = std::move(found)});
  }

  /// `factors` as the tensors of a fold can take them.
  std::vector<float> fitting(const Fold& fold, std::vector<float> factors) const {
    // bfloat16 has 8 bits: what is not a power of two would round a weight as much as an INT8 code.
    if (is_bfloat(fold)) {
      for (float& factor : factors) factor = std::exp2(std::round(std::log2(factor)));
    }
    // A parameter that a constant is added to rounds beside it: it must not become the smaller one.
    const auto has_offset = [](const FoldSource& source) { return source.offset != 0; };
    if (std::ranges::any_of(fold.sources, has_offset)) {
      const float max_factor = *std::ranges::max_element(factors);
      for (float& factor : factors) factor = byte_factor(factor / max_factor);
    }
    return factors;
  }

  bool is_bfloat(const Fold& fold) const {
    const auto is = [this](const std::string& name) {
      return tensor_of(name).dtype == DType::kBF16;
    };
    return std::ranges::any_of(fold.layers, is) ||
           std::ranges::any_of(fold.sources, is, &FoldSource::name);
  }

  /// What is in the way of a fold; empty: nothing.
  std::string obstacle(const Fold& fold) const {
    std::set<size_t> inputs;
    for (const std::string& name : fold.layers) {
      const auto plan = plans_.find(name);
      if (plan == plans_.end()) return "the model has not all of its layers";
      if (plan->second->encoding == Encoding::kCopy) return "a layer of the input is kept";
      const auto input = calibration_.find(name);
      if (!input) return "the statistics do not know all layers of the input";
      inputs.insert(*input);
      if (!can_fold(tensor_of(name).dtype)) return "the type of a tensor cannot be scaled";
    }
    if (inputs.size() > 1) return "its layers unfold the input differently";
    const InputStatistics& facts = calibration_.facts(*inputs.begin());
    if (facts.bins.empty()) return "an input was never seen";
    for (const CalibratedLayer& layer : facts.layers) {
      if (std::ranges::find(fold.layers, layer.name) == fold.layers.end()) {
        return "another layer reads the input";
      }
    }
    for (const FoldSource& source : fold.sources) {
      if (!plans_.contains(source.name)) return "the model has not all parameters before it";
      if (!can_fold(tensor_of(source.name).dtype)) return "the type of a tensor cannot be scaled";
    }
    return "";
  }

  /// Raises kMetadata for a fold of other shapes.
  void check_shapes(const Fold& fold) const {
    const TensorInfo& layer = tensor_of(fold.layers[0]);
    const uint64_t channels = layer.shape.size() < 2 ? 0 : layer.shape[1];
    const ChosenFold plain{.fold = fold, .factors = std::vector<float>(channels, 1.0F)};
    (void)tensor_folds({&plain, 1}, component_, calibration_.path());
  }

  const TensorInfo& tensor_of(const std::string& name) const {
    return component_.tensors[plans_.at(name)->tensor];
  }

  std::vector<std::unique_ptr<Member>> members_of(const Fold& fold) {
    std::vector<std::unique_ptr<Member>> members;
    for (const std::string& name : fold.layers) {
      const TensorInfo& tensor = tensor_of(name);
      const TensorPlan& plan = *plans_.at(name);
      const QuantizedTensorInfo info{.name = name,
                                     .shape = tensor.shape,
                                     .source_dtype = tensor.dtype,
                                     .encoding = plan.encoding,
                                     .spec = plan.spec};
      const size_t input = calibration_.find(name).value_or(0);
      auto member = std::make_unique<Member>(reader_, tensor, info, input,
                                             component_.files[tensor.file].path, quantizer_);
      ChoiceOptions options = options_;
      const int threads = ChunkQuantizer::calibrated_threads(info.cols(), tensor.dtype, threads_,
                                                             max_memory_bytes_ / 2);
      options.matrices = threads > 0;
      quantizer_.use_threads(std::max(1, threads));
      member->plain = first_choice(member->info, calibration_, input, options);
      if (options.static_activations && !options.times.empty()) {
        member->trial.round_activations(calibration_.facts(input), options.times);
      }
      members.push_back(std::move(member));
    }
    return members;
  }

  /// The factors that all members share; none when they do not pay.
  std::vector<float> search(const Fold& fold, std::vector<std::unique_ptr<Member>>& members) {
    const uint64_t channels = members[0]->info.shape[1];
    const ActivationSizes sizes(calibration_.facts(members[0]->input), channels);
    const ChannelSizes weights = sizes_of(members);
    const double plain = tried(members, {});
    double min_error = kWorthwhile * plain;
    std::vector<float> best;
    for (const float strength : kStrengths) {
      const auto factors_of = [&](Pooling pooling, float alpha) {
        std::vector<float> factors = sizes.factors(pooling, weights, alpha);
        for (float& factor : factors) factor = byte_factor(std::pow(factor, strength));
        return fitting(fold, std::move(factors));
      };
      const auto form = best_form(plain, [&](Pooling pooling, float alpha) {
        return tried(members, factors_of(pooling, alpha));
      });
      if (!form) continue;
      std::vector<float> factors = factors_of(form->pooling, form->alpha);
      const double error = tried(members, factors);
      if (error < min_error) min_error = error, best = std::move(factors);
    }
    return best;
  }

  /// Whether a tensor in float16 would get an infinite element.
  bool overflows(const Fold& fold, const std::vector<float>& factors) const {
    const ChosenFold chosen{.fold = fold, .factors = factors};
    for (const auto& [name, change] : tensor_folds({&chosen, 1}, component_, calibration_.path())) {
      const TensorInfo& tensor = tensor_of(name);
      if (tensor.dtype != DType::kF16) continue;
      const uint64_t cols = tensor.elements() / std::max<uint64_t>(1, tensor.shape[0]);
      const TensorRows rows(reader_, tensor, cols, &change);
      std::vector<std::byte> scratch;
      std::vector<float> row(cols);
      for (uint64_t r = 0; r < tensor.shape[0]; ++r) {
        if (!convert_to_f32(tensor.dtype, rows.rows(r, 1, scratch).data(), cols, row.data())) {
          return true;
        }
      }
    }
    return false;
  }

  const ModelIndex& component_;
  const ChoiceOptions& options_;
  const uint64_t max_memory_bytes_;
  CalibrationSource& calibration_;
  const int threads_;
  TensorReader reader_;
  ChunkQuantizer quantizer_;
  std::map<std::string, const TensorPlan*> plans_;
  std::map<std::string, std::vector<std::string>> refused_;  // by reason
  FoldPlan result_;
};

}  // namespace

FoldPlan choose_folds(const ModelIndex& component, const ComponentPlan& plan,
                      const ChoiceOptions& options, uint64_t max_memory_bytes,
                      CalibrationSource& calibration, ThreadPool& pool, Progress& progress) {
  return FoldSearch(component, plan, options, max_memory_bytes, calibration, pool, progress).run();
}

}  // namespace arrow_quant
