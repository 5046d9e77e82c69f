// validate_artefact: hashes first, then every tensor against the original, block by block.
#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "arrow_quant/artefact.h"
#include "arrow_quant/error.h"
#include "arrow_quant/page_reuse.h"
#include "arrow_quant/pipeline.h"
#include "core/thread_pool.h"
#include "kernels/convert.h"
#include "kernels/dequantize_rows.h"
#include "kernels/isa.h"
#include "pipeline/fingerprint.h"
#include "pipeline/schema_metadata.h"
#include "pipeline/summary.h"
#include "pipeline/validate_legacy.h"
#include "quantize/error_sums.h"
#include "read/folded_tensor.h"
#include "read/model_directory.h"
#include "read/tensor_reader.h"
#include "read/tensor_rows.h"

namespace arrow_quant {
namespace {

constexpr uint64_t kBlockElements = 128ULL * 1024;

struct Scratch {
  std::vector<std::byte> source;
  std::vector<float> original;
  std::vector<float> restored;
};

/// Compares the tensors of one component.
class ComponentCheck {
 public:
  ComponentCheck(const ModelIndex& source, const Artefact& artefact, size_t component,
                 ThreadPool& pool, Progress& progress)
      : source_(source),
        artefact_(artefact),
        component_(component),
        reader_(source),
        pool_(pool),
        progress_(progress),
        scratch_(static_cast<size_t>(pool.size())) {}

  /// Tells progress from `begin` to `end`.
  void run(double begin, double end, ValidationReport& report) {
    std::map<std::string, const TensorInfo*> originals;
    for (const TensorInfo& tensor : source_.tensors) originals[tensor.name] = &tensor;
    read_folds(report.problems);
    const auto& stored = artefact_.tensors(component_);
    for (size_t i = 0; i < stored.size(); ++i) {
      const QuantizedTensorInfo& info = stored[i];
      const auto original = originals.find(info.name);
      if (original == originals.end()) {
        report.problems.push_back("extra tensor '" + info.name + "'");
        continue;
      }
      const TensorInfo& expected = *original->second;
      originals.erase(original);
      if (expected.shape != info.shape || expected.dtype != info.source_dtype) {
        report.problems.push_back("tensor '" + info.name + "' has another shape or dtype");
      } else {
        report.tensors.push_back(compare(expected, info, i, report.problems));
      }
      const double done = static_cast<double>(i + 1) / static_cast<double>(stored.size());
      progress_.report(info.name, begin + (end - begin) * done);
    }
    for (const auto& [name, tensor] : originals) {
      report.problems.push_back("missing tensor '" + name + "'");
    }
    reader_.check_unchanged();
  }

 private:
  // What is not of this model cannot be undone: then the tensors differ.
  void read_folds(std::vector<std::string>& problems) {
    const auto folds = stored_folds(artefact_.metadata(component_), artefact_.path());
    try {
      folds_ = tensor_folds(folds, source_, artefact_.path());
    } catch (const Error& error) {
      problems.emplace_back(error.what());
    }
  }

  TensorComparison compare(const TensorInfo& expected, const QuantizedTensorInfo& info,
                           size_t tensor, std::vector<std::string>& problems) {
    TensorComparison result{.component = source_.component, .name = info.name};
    ErrorSums sums;
    bool equal = true;
    for (size_t chunk = 0; chunk < artefact_.chunks(component_, tensor); ++chunk) {
      artefact_.visit_chunk(component_, tensor, chunk, [&](const Artefact::ChunkView& view) {
        if (info.encoding == Encoding::kCopy) {
          equal &= same_bytes(expected, info, view);
        } else {
          sums.add(chunk_error(expected, info, view));
        }
      });
      progress_.poll();
    }
    if (!equal) {
      problems.push_back("kept tensor '" + info.name + "' differs from the original" +
                         (fold_of(expected) == nullptr ? "" : " with the factors folded into it"));
    }
    if (info.encoding != Encoding::kCopy) {
      result.bit_width = info.spec.bit_width;
      result.cosine = sums.cosine();
      result.nmse = sums.nmse();
    }
    return result;
  }

  bool same_bytes(const TensorInfo& expected, const QuantizedTensorInfo& info,
                  const Artefact::ChunkView& view) {
    const bool whole = view.rows == info.rows() || info.rows() == 0;
    const uint64_t row_bytes = info.rows() == 0 ? 0 : expected.nbytes / info.rows();
    const uint64_t begin = whole ? 0 : row_bytes * view.row_begin;
    const TensorFold* fold = fold_of(expected);
    std::vector<std::byte>& block = scratch_[0].source;
    block.resize(kBlockElements * sizeof(float));
    // Factors belong to whole rows.
    if (fold != nullptr && row_bytes != 0)
      block.resize(std::max<uint64_t>(1, block.size() / row_bytes) * row_bytes);
    for (uint64_t done = 0; done < view.codes.size(); done += block.size()) {
      const auto part =
          std::span(block).first(std::min<uint64_t>(block.size(), view.codes.size() - done));
      reader_.read(expected, begin + done, part);
      if (fold != nullptr) {
        fold_rows(*fold, expected.dtype, info.cols(), (begin + done) / row_bytes, part);
      }
      if (std::memcmp(part.data(), view.codes.data() + done, part.size()) != 0) return false;
    }
    return true;
  }

  ErrorSums chunk_error(const TensorInfo& expected, const QuantizedTensorInfo& info,
                        const Artefact::ChunkView& view) {
    const uint64_t cols = info.cols();
    if (cols == 0) return {};
    const uint64_t step = std::max<uint64_t>(1, kBlockElements / cols);
    std::vector<ErrorSums> blocks((view.rows + step - 1) / step);
    const auto compare_block = [&](size_t block, int worker) {
      const uint64_t first = block * step;
      const uint64_t count = std::min(step, view.rows - first);
      Scratch& scratch = scratch_[static_cast<size_t>(worker)];
      load(expected, view.row_begin + first, count, cols, scratch);
      scratch.restored.resize(count * cols);
      const PackedRows rows{
          .codes = view.codes.data() + first * packed_row_bytes(cols, info.spec.bit_width),
          .params = view.params.data() + first * param_row_bytes(cols, info.spec),
          .row_scales = view.row_scales.empty() ? nullptr : view.row_scales.data() + first,
          .tensor_scale = view.tensor_scale,
          .offset_unit = view.offset_unit,
          .rows = count,
          .cols = cols,
          .equalization = view.equalization.empty() ? nullptr : view.equalization.data(),
          .columns_per_factor = columns_per_factor(info, view.equalization.size())};
      dequantize_rows(info.spec, rows, scratch.restored.data());
      blocks[block] = error_sums(std::span(scratch.original).first(count * cols), scratch.restored);
    };
    pool_.parallel_for(blocks.size(), compare_block, [this] { progress_.poll(); });
    ErrorSums sums;
    for (const ErrorSums& block : blocks) sums.add(block);
    return sums;
  }

  void load(const TensorInfo& tensor, uint64_t row, uint64_t rows, uint64_t cols,
            Scratch& scratch) const {
    const TensorRows source(reader_, tensor, cols, fold_of(tensor));
    scratch.original.resize(rows * cols);
    convert_to_f32(tensor.dtype, source.rows(row, rows, scratch.source).data(), rows * cols,
                   scratch.original.data());
  }

  const TensorFold* fold_of(const TensorInfo& tensor) const {
    const auto found = folds_.find(tensor.name);
    return found == folds_.end() ? nullptr : &found->second;
  }

  const ModelIndex& source_;
  const Artefact& artefact_;
  const size_t component_;
  TensorFolds folds_;
  TensorReader reader_;
  ThreadPool& pool_;
  Progress& progress_;
  std::vector<Scratch> scratch_;
};

void summarize(const Artefact& artefact, ValidationReport& report) {
  QualitySummary quality;
  double nmse = 0;
  std::map<std::pair<std::string, std::string>, uint64_t> elements;
  for (size_t c = 0; c < artefact.manifest().components.size(); ++c) {
    for (const QuantizedTensorInfo& info : artefact.tensors(c)) {
      elements[{artefact.manifest().components[c].name, info.name}] = info.elements();
    }
  }
  for (const TensorComparison& tensor : report.tensors) {
    if (tensor.bit_width == 0) continue;
    const uint64_t count = elements[{tensor.component, tensor.name}];
    quality.add(tensor.name, count, tensor.cosine);
    nmse += tensor.nmse * static_cast<double>(count);
    report.bit_width =
        report.bit_width == 0 ? tensor.bit_width : std::min(report.bit_width, tensor.bit_width);
  }
  report.cosine_similarity = quality.mean();
  report.min_cosine_similarity = quality.worst();
  report.worst_layer = quality.worst_layer();
  report.nmse = nmse / static_cast<double>(std::max<uint64_t>(1, quality.elements()));
}

// The artefact at `path`; or nothing, and `old` set, when a model in an old layout is there.
std::optional<Artefact> open_artefact_or_old(const std::string& path,
                                             std::optional<ModelDirectory>& old) {
  try {
    return Artefact::open(path);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kModelNotFound) throw;
    old = open_old_model(path);
    if (!old) throw;
    return std::nullopt;
  }
}

}  // namespace

ValidationReport validate_artefact(const std::string& original_path,
                                   const std::string& quantized_path, int num_threads,
                                   Progress& progress, const TensorNames& names) {
  check_isa_override();
  const ModelDirectory original = open_model(original_path, names);
  std::optional<ModelDirectory> old;
  const std::optional<Artefact> opened = open_artefact_or_old(quantized_path, old);
  // NOLINTNEXTLINE(bugprone-unchecked-optional-access): it is either an artefact or an old model
  if (!opened) return validate_legacy(original, *old, num_threads, progress);
  const Artefact& artefact = *opened;
  artefact.verify([&progress] { progress.poll(); });
  const PageReuse reuse;
  ThreadPool pool(num_threads);
  ValidationReport report;
  const size_t components = artefact.manifest().components.size();
  for (size_t c = 0; c < components; ++c) {
    const std::string& name = artefact.manifest().components[c].name;
    const auto source = std::ranges::find(original.components, name, &ModelIndex::component);
    if (source == original.components.end()) {
      report.problems.push_back("the original has no component '" + name + "'");
      continue;
    }
    const auto share = [&](size_t done) {
      return static_cast<double>(done) / static_cast<double>(components);
    };
    ComponentCheck(*source, artefact, c, pool, progress).run(share(c), share(c + 1), report);
  }
  report.original_matches = source_fingerprint(original) == artefact.manifest().source_fingerprint;
  progress.report("done", 1.0);
  summarize(artefact, report);
  return report;
}

}  // namespace arrow_quant
