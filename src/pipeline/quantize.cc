// quantize_model: read -> plan -> quantize -> write, with more bits each time until the result is
// good enough, then commit.
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "arrow_quant/error.h"
#include "arrow_quant/format.h"
#include "arrow_quant/pipeline.h"
#include "core/thread_pool.h"
#include "io/staging.h"
#include "kernels/isa.h"
#include "pipeline/component_run.h"
#include "pipeline/fingerprint.h"
#include "pipeline/summary.h"
#include "plan/plan.h"
#include "read/model_directory.h"
#include "write/component_writer.h"
#include "write/manifest.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

constexpr uint64_t kLeastMemoryMb = 64;
constexpr const char* kNotCalibrated = "data-free: the model was not run";

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void check_options(const QuantizeOptions& options) {
  check_plan_options(options.plan);
  if (options.max_memory_mb < kLeastMemoryMb) {
    throw Error(ErrorCode::kConfiguration,
                "Invalid max_memory_mb: " + std::to_string(options.max_memory_mb) +
                    ". Must be at least " + std::to_string(kLeastMemoryMb) + ".");
  }
  if (options.part_size == 0) {
    throw Error(ErrorCode::kConfiguration, "Invalid part_size: 0. Must be positive.");
  }
}

// Neither may lie inside the other, whatever links and dots the paths have.
void check_apart(const std::string& model_path, const std::string& output_path) {
  const fs::path model = fs::weakly_canonical(model_path);
  const fs::path output = fs::weakly_canonical(output_path);
  const auto inside = [](const fs::path& inner, const fs::path& outer) {
    const fs::path relative = inner.lexically_relative(outer);
    return !relative.empty() && *relative.begin() != "..";
  };
  const bool model_is_file = fs::is_regular_file(model);
  if (inside(output, model) || (!model_is_file && inside(model, output))) {
    throw Error(ErrorCode::kConfiguration, "input and output overlap",
                {.path = output_path, .hint = "Choose an output folder outside the model."});
  }
}

/// One call of quantize_model, with everything its attempts share.
class QuantizeJob {
 public:
  QuantizeJob(const std::string& model_path, const std::string& output_path,
              const QuantizeOptions& options, Progress& progress)
      : options_(options),
        progress_(progress),
        model_(open_model(model_path)),
        output_path_(output_path),
        pool_(options.num_threads) {
    for (const ModelIndex& component : model_.components) source_bytes_ += component.total_bytes();
  }

  QuantizeReport run() {
    const Clock::time_point start = Clock::now();
    QuantizeReport report;
    std::vector<Attempt> attempts;
    Plan plan = make_plan(model_, options_.plan);
    for (;;) {
      const Clock::time_point attempt_start = Clock::now();
      uint64_t planned = 0;
      for (const ComponentPlan& component : plan.components) planned += component.planned_bytes;
      Staging staging(output_path_, options_.overwrite, planned);
      report = attempt(plan, staging);
      attempts.push_back({.bit_width = report.bit_width,
                          .cosine_similarity = report.cosine_similarity,
                          .min_cosine_similarity = report.min_cosine_similarity,
                          .worst_layer = report.worst_layer,
                          .seconds = seconds_since(attempt_start)});
      report.attempts = attempts;
      if (!is_good_enough(report) && add_bits(report, plan)) continue;
      std::ranges::copy(warnings_, std::back_inserter(report.warnings));
      commit(report, staging);
      break;
    }
    report.seconds = seconds_since(start);
    return report;
  }

 private:
  // Records whether `report` meets min_accuracy and min_layer_accuracy, and says what it misses.
  bool is_good_enough(QuantizeReport& report) {
    const bool mean_missed = report.cosine_similarity < options_.min_accuracy;
    const bool layer_missed = report.min_cosine_similarity < options_.min_layer_accuracy;
    report.meets_min_accuracy = !mean_missed && !layer_missed;
    if (report.meets_min_accuracy) return true;
    std::string what = "INT" + std::to_string(report.bit_width) + " reached ";
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
           .hint = "Use more bits, lower " + gate + ", or allow the fallback (fail_fast=False)."});
    }
    warnings_.push_back(what);
    return false;
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
        failing[i] = report.tensors[i].info.cosine < wanted;
      }
    }
    return raise_bits(model_, options_.plan, failing, plan) > 0;
  }

  // The widest codes that no rule of the user decided; where rules decided all, what was asked for.
  int bit_width_of(const Plan& plan) const {
    int widest = 0;
    for (const ComponentPlan& component : plan.components) {
      for (const TensorPlan& tensor : component.tensors) {
        if (tensor.encoding == Encoding::kCopy || tensor.by_rule) continue;
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
    ComponentWriter writer(staging, {.directory = component.component,
                                     .metadata = schema_metadata(plan, component),
                                     .planned_bytes = component_plan.planned_bytes,
                                     .part_size = options_.part_size});
    const RunContext context{pool_, options_.max_memory_mb << 20, progress_};
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
    for (FileRecord& record : writer.finish()) {
      entry.parts.push_back(record.path);
      report.weights_bytes += record.size;
      files_.push_back(std::move(record));
    }
    report.components.push_back(component.component);
    report.source_bytes += component_plan.source_bytes;
    std::ranges::move(tensors, std::back_inserter(report.tensors));
  }

  std::map<std::string, std::string> schema_metadata(const Plan& plan,
                                                     const ModelIndex& component) const {
    const Json off = {{"enabled", false}, {"reason", kNotCalibrated}};
    const Json source = {{"fingerprint", fingerprint()},
                         {"component", component.component},
                         {"tensors", component.tensors.size()}};
    return {{"arrow_quant_v2.format", std::to_string(kFormatVersion)},
            {"is_diffusion_model", "true"},
            {"modality", plan.modality},
            {"time_aware_quant", off.dump()},
            {"spatial_quant", off.dump()},
            {"activation_stats", off.dump()},
            {"calibration", Json{{"kind", "none"}, {"reason", kNotCalibrated}}.dump()},
            {"config", Json::parse(options_.config_json).dump()},
            {"source", source.dump()}};
  }

  const std::string& fingerprint() const {
    if (fingerprint_.empty()) fingerprint_ = source_fingerprint(model_);
    return fingerprint_;
  }

  // The weights of components that are kept, and every file that is not a weight.
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
    fraction_ = std::max(fraction_, std::min(done, 0.99));  // a second attempt never moves it back
    progress_.report(message, fraction_);
  }

  static void summarize(QuantizeReport& report) {
    QualitySummary quality;
    uint64_t stored = 0;
    double nmse = 0;
    for (const TensorReport& tensor : report.tensors) {
      if (tensor.info.encoding == Encoding::kCopy) continue;
      quality.add(tensor.info.name, tensor.info.elements(), tensor.info.cosine);
      nmse += tensor.info.nmse * static_cast<double>(tensor.info.elements());
      stored += tensor.stored_bytes;
      ++report.layers_by_bit_width[tensor.info.spec.bit_width];
    }
    const auto elements = static_cast<double>(std::max<uint64_t>(1, quality.elements()));
    report.cosine_similarity = quality.mean();
    report.min_cosine_similarity = quality.worst();
    report.worst_layer = quality.worst_layer();
    report.nmse = nmse / elements;
    report.bits_per_weight = static_cast<double>(stored) * 8 / elements;
  }

  void commit(QuantizeReport& report, Staging& staging) {
    // The last time that the caller may stop the job: after the rename there is nothing to undo.
    progress_.report("commit", 1.0);
    Json attempts = Json::array();
    for (const Attempt& attempt : report.attempts) {
      attempts.push_back({{"bit_width", attempt.bit_width},
                          {"cosine_similarity", attempt.cosine_similarity},
                          {"min_cosine_similarity", attempt.min_cosine_similarity},
                          {"worst_layer", attempt.worst_layer}});
    }
    Json layers = Json::object();
    for (const auto& [bits, count] : report.layers_by_bit_width) {
      layers[std::to_string(bits)] = count;
    }
    const Json summary = {{"bit_width", report.bit_width},
                          {"cosine_similarity", report.cosine_similarity},
                          {"cosine_kind", "weights"},
                          {"min_cosine_similarity", report.min_cosine_similarity},
                          {"worst_layer", report.worst_layer},
                          {"nmse", report.nmse},
                          {"bits_per_weight", report.bits_per_weight},
                          {"layers_by_bit_width", std::move(layers)},
                          {"source_bytes", report.source_bytes},
                          {"modality_reason", report.modality_reason},
                          {"meets_min_accuracy", report.meets_min_accuracy},
                          {"attempts", std::move(attempts)}};
    std::ranges::sort(files_, {}, &FileRecord::path);
    const std::string manifest = write_manifest({.tool_version = ARROW_QUANT_VERSION,
                                                 .modality = report.modality,
                                                 .source_fingerprint = fingerprint(),
                                                 .config_json = options_.config_json,
                                                 .report_json = summary.dump(),
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
  ThreadPool pool_;
  uint64_t source_bytes_ = 0;
  uint64_t bytes_done_ = 0;
  double fraction_ = 0;
  std::vector<std::string> warnings_;  // of all attempts
  std::vector<FileRecord> files_;
  std::vector<ManifestComponent> components_;
  mutable std::string fingerprint_;
};

}  // namespace

Plan plan_model(const std::string& model_path, const PlanOptions& options) {
  check_plan_options(options);
  return make_plan(open_model(model_path), options);
}

QuantizeReport quantize_model(const std::string& model_path, const std::string& output_path,
                              const QuantizeOptions& options, Progress& progress) {
  check_options(options);
  apply_isa_override();
  if (fs::exists(model_path)) check_apart(model_path, output_path);
  return QuantizeJob(model_path, output_path, options, progress).run();
}

}  // namespace arrow_quant
