// quantize_model: read -> plan -> quantize -> write, with more bits each time until the result is
// good enough, then commit.
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "arrow_quant/error.h"
#include "arrow_quant/format.h"
#include "arrow_quant/page_reuse.h"
#include "arrow_quant/pipeline.h"
#include "choose/calibration_source.h"
#include "choose/fold_choice.h"
#include "core/text.h"
#include "core/thread_pool.h"
#include "io/staging.h"
#include "kernels/isa.h"
#include "pipeline/component_run.h"
#include "pipeline/fingerprint.h"
#include "pipeline/quality_report.h"
#include "pipeline/schema_metadata.h"
#include "pipeline/summary.h"
#include "plan/plan.h"
#include "read/model_directory.h"
#include "write/component_writer.h"
#include "write/manifest.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr uint64_t kMinMemoryMb = 64;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void check_options(const QuantizeOptions& options) {
  check_plan_options(options.plan);
  if (options.max_memory_mb < kMinMemoryMb) {
    throw Error(ErrorCode::kConfiguration,
                "Invalid max_memory_mb: " + std::to_string(options.max_memory_mb) +
                    ". Must be at least " + std::to_string(kMinMemoryMb) + ".");
  }
  if (options.num_time_groups < 1 || options.num_time_groups > 1000) {
    throw Error(ErrorCode::kConfiguration,
                "Invalid num_time_groups: " + std::to_string(options.num_time_groups) +
                    ". Must be from 1 to 1000.");
  }
  if (options.activation_bits != 0 && options.activation_bits != 8) {
    throw Error(ErrorCode::kConfiguration,
                "Invalid activation_bits: " + std::to_string(options.activation_bits) +
                    ". Must be 0 (none) or 8.");
  }
  if (options.fold_equalization && options.earlier != nullptr) {
    throw Error(
        ErrorCode::kConfiguration,
        "fold_equalization does not go with tensors of an earlier run, which has other folds");
  }
  if (options.part_size == 0) {
    throw Error(ErrorCode::kConfiguration, "Invalid part_size: 0. Must be positive.");
  }
}

// Neither may lie inside the other, whatever links and dots the paths have. A path that cannot be
// followed is left to whoever opens it.
void check_apart(const std::string& model_path, const std::string& output_path) {
  std::error_code error;
  const fs::path model = fs::canonical(model_path, error);
  if (error) return;
  const fs::path output = fs::weakly_canonical(output_path, error);
  if (error) return;
  const auto inside = [](const fs::path& inner, const fs::path& outer) {
    const fs::path relative = inner.lexically_relative(outer);
    return !relative.empty() && *relative.begin() != "..";
  };
  const bool model_is_file = fs::is_regular_file(model, error);
  if (inside(output, model) || (!model_is_file && inside(model, output))) {
    throw Error(ErrorCode::kConfiguration, "input and output overlap",
                {.path = output_path, .hint = "Choose an output folder outside the model."});
  }
}

// The file, or those of a folder that has one for each component, in the order of their names.
std::vector<std::string> statistics_files(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return {path};
  std::vector<std::string> files;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    if (it->path().filename().string().starts_with('.')) continue;
    files.push_back(it->path().string());
  }
  if (files.empty()) {
    throw Error(ErrorCode::kModelNotFound, "the folder has no file of statistics",
                {.path = path, .hint = "Make them with: arrow-quant calibrate MODEL STATS."});
  }
  std::ranges::sort(files);
  return files;
}

uint64_t planned_bytes(const Plan& plan) {
  uint64_t planned = 0;
  for (const ComponentPlan& component : plan.components) planned += component.planned_bytes;
  return planned;
}

// What an attempt takes of the progress that is left, when another may follow it.
constexpr double kAttemptShare = 0.8;

/// One call of quantize_model, with everything its attempts share.
class QuantizeJob {
 public:
  QuantizeJob(const std::string& model_path, const std::string& output_path,
              const QuantizeOptions& options, Progress& progress)
      : options_(options),
        progress_(progress),
        model_(open_model(model_path, options.plan.names)),
        output_path_(output_path),
        pool_(options.num_threads) {
    for (const ModelIndex& component : model_.components) source_bytes_ += component.total_bytes();
  }

  QuantizeReport run() {
    const Clock::time_point start = Clock::now();
    QuantizeReport report;
    std::vector<Attempt> attempts;
    Plan plan = make_plan(model_, options_.plan);
    open_statistics(plan);
    if (statistics_tell_roles()) plan = make_plan(model_, with_roles_of_statistics());
    for (;;) {
      const Clock::time_point attempt_start = Clock::now();
      Staging staging(output_path_, options_.overwrite, planned_bytes(plan));
      fraction_begin_ += fraction_share_;
      fraction_share_ = (1 - fraction_begin_) * (may_be_repeated(plan) ? kAttemptShare : 1);
      report = attempt(plan, staging);
      attempts.push_back({.bit_width = report.bit_width,
                          .cosine_similarity = report.cosine_similarity,
                          .min_cosine_similarity = report.min_cosine_similarity,
                          .worst_layer = report.worst_layer,
                          .seconds = seconds_since(attempt_start)});
      report.attempts = attempts;
      if (options_.earlier != nullptr) {
        take_verdict(*options_.earlier, report);
      } else {
        if (!is_good_enough(report) && add_bits(report, plan)) continue;
        std::ranges::copy(warnings_, std::back_inserter(report.warnings));
      }
      commit(report, staging);
      break;
    }
    report.seconds = seconds_since(start);
    return report;
  }

 private:
  // What a run said about weights comes after what is known of their class.
  PlanOptions with_roles_of_statistics() const {
    PlanOptions options = options_.plan;
    for (const auto& [number, calibrated] : calibrated_) {
      const std::string& component = model_.components[number].component;
      for (const auto& [name, role] : calibrated.source->origin().roles) {
        options.roles.push_back({component, name, role, false, "run"});
      }
    }
    return options;
  }

  bool statistics_tell_roles() const {
    return std::ranges::any_of(calibrated_, [](const auto& entry) {
      return !entry.second.source->origin().roles.empty();
    });
  }

  void open_statistics(const Plan& plan) {
    if (options_.statistics_path.empty()) return;
    const std::vector<std::string> paths = statistics_files(options_.statistics_path);
    // The other half is for the rows that are worked on and the chunks in flight.
    const uint64_t memory = (options_.max_memory_mb << 20) / 2 / paths.size();
    for (const std::string& path : paths) open_statistics(plan, path, memory);
  }

  void open_statistics(const Plan& plan, const std::string& path, uint64_t memory) {
    auto source =
        std::make_unique<CalibrationSource>(path, memory, pool_, [this] { progress_.poll(); });
    const size_t component = source->component_of(model_, plan);
    source->check_model(model_.components[component]);
    if (calibrated_.contains(component)) {
      throw Error(ErrorCode::kConfiguration,
                  "two files have statistics of component '" + source->component() + "'",
                  {.path = path, .hint = "Merge them: arrow-quant calibrate --merge."});
    }
    const int groups = options_.enable_time_aware ? options_.num_time_groups : 1;
    std::vector<TimeSpan> times = partition_times(source->each_input(), static_cast<size_t>(groups),
                                                  options_.activation_bits);
    std::ranges::copy(source->origin().notes, std::back_inserter(warnings_));
    if (!source->holds_out()) {
      warnings_.push_back(
          "the statistics hold no inputs out: layers are judged by the inputs that "
          "they were fitted to");
    }
    calibrated_[component] = {.source = std::move(source), .times = std::move(times)};
  }

  // "user" where the samples of any component are the user's.
  std::string calibration_data() const {
    if (calibrated_.empty()) return "none";
    for (const auto& [component, calibrated] : calibrated_) {
      if (calibrated.source->origin().data == "user") return "user";
    }
    return calibrated_.begin()->second.source->origin().data;
  }

  // How many bits, and whether they are good enough, was decided before.
  static void take_verdict(const EarlierResult& precomputed, QuantizeReport& report) {
    report.bit_width = precomputed.bit_width;
    report.meets_min_accuracy = precomputed.meets_min_accuracy;
    report.attempts = precomputed.attempts;
    report.warnings = precomputed.warnings;
  }

  // Records whether `report` meets min_accuracy and min_layer_accuracy, and says what it misses.
  bool is_good_enough(QuantizeReport& report) {
    const bool mean_missed = report.cosine_similarity < options_.min_accuracy;
    const bool layer_missed = report.min_cosine_similarity < options_.min_layer_accuracy;
    report.meets_min_accuracy = !mean_missed && !layer_missed;
    if (report.meets_min_accuracy) return true;
    const bool mixed = !options_.plan.allocation.empty();
    std::string what =
        (mixed ? "mixed precision" : "INT" + std::to_string(report.bit_width)) + " reached ";
    if (mean_missed) {
      what += "a cosine similarity of " + std::to_string(report.cosine_similarity) +
              ", min_accuracy is " + std::to_string(options_.min_accuracy);
    }
    if (layer_missed) {
      what += (mean_missed ? "; " : "") + std::to_string(report.min_cosine_similarity) +
              " in the worst layer, min_layer_accuracy is " +
              std::to_string(options_.min_layer_accuracy);
    }
    if (options_.fail_fast) {
      const std::string gate = mean_missed ? "min_accuracy" : "min_layer_accuracy";
      throw Error(
          ErrorCode::kQuantization, what,
          {.path = model_.path,
           .tensor = report.worst_layer,
           .hint = "The worst layer is '" + printable(report.worst_layer) + "' with " +
                   std::to_string(report.min_cosine_similarity) + ".\nUse more bits, lower " +
                   gate + ", or allow the fallback (fail_fast=False)."});
    }
    warnings_.push_back(what);
    return false;
  }

  // Whether a miss of this attempt would lead to another one.
  bool may_be_repeated(const Plan& plan) const {
    if (options_.fail_fast) return false;
    if (options_.min_accuracy <= 0 && options_.min_layer_accuracy <= 0) return false;
    return can_raise_bits(plan);
  }

  // Turns `plan` into that of the next attempt; false when no layer can get more bits.
  bool add_bits(const QuantizeReport& report, Plan& plan) {
    std::vector<bool> failing(report.tensors.size(), true);
    if (options_.fallback_scope == FallbackScope::kLayer) {
      // Where the mean is missed, the layers below it are to blame.
      const bool mean_missed = report.cosine_similarity < options_.min_accuracy;
      const double wanted =
          std::max(mean_missed ? options_.min_accuracy : 0.0, options_.min_layer_accuracy);
      for (size_t i = 0; i < failing.size(); ++i) {
        failing[i] = accuracy_of(report.tensors[i].info) < wanted;
      }
    }
    return raise_bits(model_, options_.plan, failing, plan) > 0;
  }

  // The widest codes that neither a rule nor an allocation decided; without such, what was asked
  // for.
  int bit_width_of(const Plan& plan) const {
    int widest = 0;
    for (const ComponentPlan& component : plan.components) {
      for (const TensorPlan& tensor : component.tensors) {
        if (tensor.encoding == Encoding::kCopy || tensor.fixed) continue;
        widest = std::max(widest, tensor.spec.bit_width);
      }
    }
    return widest == 0 ? options_.plan.bit_width : widest;
  }

  QuantizeReport attempt(const Plan& plan, Staging& staging) {
    QuantizeReport report{.quantized_path = output_path_,
                          .modality = plan.modality,
                          .modality_reason = plan.modality_reason,
                          .bit_width = bit_width_of(plan),
                          .calibration = calibration_data(),
                          .warnings = model_.warnings};
    files_.clear();
    components_.clear();
    bytes_done_ = 0;
    for (const ComponentPlan& component : plan.components) {
      run_one(plan, component, staging, report);
    }
    copy_the_rest(plan, staging);
    summarize(report);
    return report;
  }

  void run_one(const Plan& plan, const ComponentPlan& component_plan, Staging& staging,
               QuantizeReport& report) {
    const ModelIndex& component = model_.components[component_plan.component];
    const auto own = calibrated_.find(component_plan.component);
    CalibrationSource* calibration = own == calibrated_.end() ? nullptr : own->second.source.get();
    // Without statistics nothing depends on the time.
    const std::vector<TimeSpan> no_times;
    const std::vector<TimeSpan>& times = calibration == nullptr ? no_times : own->second.times;
    ComponentWriter writer(staging, {.directory = component.component,
                                     .metadata = schema_metadata(plan, component, fingerprint(),
                                                                 options_, calibration),
                                     .planned_bytes = component_plan.planned_bytes,
                                     .part_size = options_.part_size});
    const bool text = plan.modality == "text" || plan.modality == "code";
    RunContext context{
        .pool = pool_,
        .max_memory_bytes = options_.max_memory_mb << 20,
        .progress = progress_,
        .calibration = calibration,
        .choice = {.any_method = options_.plan.choose_method,
                   .any_encoding = options_.plan.param_encoding == ParamEncodingChoice::kAuto,
                   .residual_first = text,
                   .equalize = options_.enable_spatial,
                   .times = times,
                   .time_aware = options_.enable_time_aware,
                   .static_activations = options_.activation_bits == 8},
        .precomputed = options_.earlier.get()};
    const FoldPlan folds = plan_folds(component, component_plan, context);
    context.folds = &folds.tensors;
    for (const std::string& warning : folds.warnings) {
      const std::string where = component.component.empty() ? "" : component.component + ": ";
      report.warnings.push_back(where + warning);
    }
    std::vector<TensorReport> tensors = run_component(
        component, component_plan, context,
        [&writer](const QuantizedTensorInfo& info, QuantizedChunk chunk) {
          writer.append(info, std::move(chunk));
        },
        [&](const TensorPlan& tensor, uint64_t bytes) {
          const bool kept = tensor.encoding == Encoding::kCopy;
          const std::string verb = kept ? "copy" : "INT" + std::to_string(tensor.spec.bit_width);
          tell(verb + " " + component.tensors[tensor.tensor].name, bytes);
        });
    ManifestComponent& entry = components_.emplace_back();
    entry.name = component.component;
    entry.tensors = tensors.size();
    for (FileRecord& record :
         writer.finish(result_metadata(tensors, options_, calibration, folds.folds))) {
      entry.parts.push_back(record.path);
      report.weights_bytes += record.size;
      files_.push_back(std::move(record));
    }
    report.components.push_back(component.component);
    report.source_bytes += component_plan.source_bytes;
    if (calibration != nullptr) warn_of_uncalibrated(tensors, report);
    std::ranges::move(tensors, std::back_inserter(report.tensors));
  }

  // Where factors go that are not to be stored.
  FoldPlan plan_folds(const ModelIndex& component, const ComponentPlan& plan,
                      const RunContext& context) {
    if (!options_.fold_equalization) return {};
    const auto nothing = [](const std::string& why) {
      return FoldPlan{.warnings = {"fold_equalization: nothing is folded: " + why}};
    };
    if (!options_.enable_spatial) return nothing("enable_spatial is false");
    if (context.calibration == nullptr) return nothing(not_calibrated(options_));
    progress_.poll();
    return choose_folds(component, plan, context.choice, context.max_memory_bytes,
                        *context.calibration, pool_, progress_);
  }

  static void warn_of_uncalibrated(const std::vector<TensorReport>& tensors,
                                   QuantizeReport& report) {
    std::vector<std::string> names;
    for (const TensorReport& tensor : tensors) {
      const bool quantized = tensor.info.encoding != Encoding::kCopy;
      if (quantized && !tensor.calibrated) names.push_back(tensor.info.name);
    }
    if (names.empty()) return;
    report.warnings.push_back("the statistics do not know " + std::to_string(names.size()) +
                              " layers, which are quantized data-free: " + join(names, 3));
  }

  const std::string& fingerprint() const {
    if (fingerprint_.empty()) fingerprint_ = source_fingerprint(model_);
    return fingerprint_;
  }

  // The weights of components that are not quantized, and every file that is not a weight.
  void copy_the_rest(const Plan& plan, Staging& staging) {
    const auto poll = [this] { progress_.poll(); };
    for (size_t i = 0; i < model_.components.size(); ++i) {
      const auto quantized = [i](const ComponentPlan& c) { return c.component == i; };
      if (std::ranges::any_of(plan.components, quantized)) continue;
      const ModelIndex& component = model_.components[i];
      std::vector<std::string> paths;
      for (const SourceFile& file : component.files) paths.push_back(file.path);
      if (!component.index_path.empty()) paths.push_back(component.index_path);
      for (const std::string& path : paths) {
        const std::string name = component.component + "/" + fs::path(path).filename().string();
        files_.push_back(staging.copy(path, name, poll));
        tell("copy " + name, files_.back().size);
      }
    }
    for (const std::string& file : model_.other_files) {
      // A manifest of an older artefact must not pass for ours.
      if (file == kManifestFile) continue;
      files_.push_back(staging.copy((fs::path(model_.path) / file).string(), file, poll));
    }
  }

  void tell(const std::string& message, uint64_t bytes) {
    bytes_done_ += bytes;
    const double done = static_cast<double>(bytes_done_) / static_cast<double>(source_bytes_ + 1);
    progress_.report(message, fraction_begin_ + fraction_share_ * std::min(done, 0.99));
  }

  void commit(QuantizeReport& report, Staging& staging) {
    // The last time that the caller may stop the job: after the rename there is nothing to undo.
    progress_.report("commit", 1.0);
    std::ranges::sort(files_, {}, &FileRecord::path);
    const std::string manifest =
        write_manifest({.tool_version = ARROW_QUANT_VERSION,
                        .modality = report.modality,
                        .source_fingerprint = fingerprint(),
                        .config_json = options_.config_json,
                        .report_json = report_json(report, options_.mixed_precision_json),
                        .machine_json = !calibrated_.empty() ? machine_json(options_) : "",
                        .components = components_,
                        .files = files_});
    report.total_bytes = manifest.size();
    for (const FileRecord& file : files_) report.total_bytes += file.size;
    staging.commit(manifest);
  }

  const QuantizeOptions& options_;
  Progress& progress_;
  const ModelDirectory model_;
  const std::string output_path_;
  PageReuse page_reuse_;
  ThreadPool pool_;
  // Statistics of a component, and its groups of time; one group: nothing depends on it.
  struct Calibrated {
    std::unique_ptr<CalibrationSource> source;
    std::vector<TimeSpan> times;
  };
  std::map<size_t, Calibrated> calibrated_;  // by the number of the component in the model
  uint64_t source_bytes_ = 0;
  uint64_t bytes_done_ = 0;
  double fraction_begin_ = 0;  // of the attempt that runs
  double fraction_share_ = 0;
  std::vector<std::string> warnings_;  // of all attempts
  std::vector<FileRecord> files_;
  std::vector<ManifestComponent> components_;
  mutable std::string fingerprint_;
};

}  // namespace

Plan plan_model(const std::string& model_path, const PlanOptions& options) {
  check_plan_options(options);
  return make_plan(open_model(model_path, options.names), options);
}

void check_output(const std::string& model_path, const std::string& output_path,
                  const QuantizeOptions& options) {
  check_options(options);
  check_apart(model_path, output_path);
  const Plan plan = make_plan(open_model(model_path, options.plan.names), options.plan);
  const Staging staging(output_path, options.overwrite, planned_bytes(plan));
}

QuantizeReport quantize_model(const std::string& model_path, const std::string& output_path,
                              const QuantizeOptions& options, Progress& progress) {
  check_options(options);
  check_isa_override();
  check_apart(model_path, output_path);
  return QuantizeJob(model_path, output_path, options, progress).run();
}

}  // namespace arrow_quant
