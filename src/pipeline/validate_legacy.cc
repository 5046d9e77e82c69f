#include "pipeline/validate_legacy.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <span>
#include <vector>

#include "arrow_quant/quantized_tensor.h"
#include "core/thread_pool.h"
#include "kernels/convert.h"
#include "pipeline/summary.h"
#include "quantize/error_sums.h"
#include "read/legacy/model.h"
#include "read/tensor_reader.h"

namespace arrow_quant {
namespace {

constexpr uint64_t kBlockElements = 128ULL * 1024;

struct Side {
  std::vector<std::byte> bytes;
  std::vector<float> values;
};

void load(const TensorReader& reader, const TensorInfo& tensor, uint64_t first, uint64_t count,
          Side& side) {
  const uint64_t width = dtype_info(tensor.dtype).bits / 8;
  side.bytes.resize(count * width);
  reader.read(tensor, first * width, side.bytes);
  side.values.resize(count);
  convert_to_f32(tensor.dtype, side.bytes.data(), count, side.values.data());
}

/// Compares the tensors of one component.
class LegacyCheck {
 public:
  LegacyCheck(const ModelIndex& original, const ModelIndex& old, ThreadPool& pool,
              Progress& progress)
      : original_(original),
        old_(old),
        original_reader_(original),
        old_reader_(old),
        pool_(pool),
        progress_(progress),
        scratch_(static_cast<size_t>(pool.size())) {}

  /// Tells progress from `begin` to `end`.
  void run(double begin, double end, ValidationReport& report, QualitySummary& quality,
           ErrorSums& total) {
    std::map<std::string, const TensorInfo*> originals;
    for (const TensorInfo& tensor : original_.tensors) originals[tensor.name] = &tensor;
    size_t done = 0;
    for (const TensorInfo& tensor : old_.tensors) {
      progress_.report(tensor.name, begin + (end - begin) * static_cast<double>(++done) /
                                                static_cast<double>(old_.tensors.size()));
      const auto found = originals.find(tensor.name);
      if (found == originals.end()) {
        report.problems.push_back("extra tensor '" + tensor.name + "'");
        continue;
      }
      const TensorInfo& expected = *found->second;
      originals.erase(found);
      compare(expected, tensor, report, quality, total);
    }
    for (const auto& [name, tensor] : originals) {
      report.problems.push_back("missing tensor '" + name + "'");
    }
    original_reader_.check_unchanged();
    old_reader_.check_unchanged();
  }

 private:
  struct Scratch {
    Side original;
    Side old;
  };

  void compare(const TensorInfo& expected, const TensorInfo& found, ValidationReport& report,
               QualitySummary& quality, ErrorSums& total) {
    const bool real = dtype_info(expected.dtype).quantizable && dtype_info(found.dtype).quantizable;
    if (expected.shape != found.shape || (!real && expected.dtype != found.dtype)) {
      report.problems.push_back("tensor '" + found.name + "' has another shape or dtype");
      return;
    }
    TensorComparison result{.component = old_.component, .name = found.name};
    result.bit_width = old_.legacy->tensors[found.offset].bit_width;
    if (expected.dtype == found.dtype && result.bit_width == 0) {
      if (!same_bytes(expected, found)) {
        report.problems.push_back("kept tensor '" + found.name + "' differs from the original");
      }
    } else {
      const ErrorSums sums = errors(expected, found);
      // A wider type holds the same values; a narrower one is a quantization of its own.
      if (result.bit_width == 0 && sums.err != 0) {
        result.bit_width = static_cast<int>(dtype_info(found.dtype).bits);
      }
      result.cosine = sums.cosine();
      result.nmse = sums.nmse();
      if (result.bit_width != 0) {
        quality.add(found.name, found.elements(), result.cosine);
        total.add(sums);
        report.bit_width =
            report.bit_width == 0 ? result.bit_width : std::min(report.bit_width, result.bit_width);
      }
    }
    report.tensors.push_back(std::move(result));
  }

  bool same_bytes(const TensorInfo& expected, const TensorInfo& found) {
    Scratch& scratch = scratch_[0];
    for (uint64_t done = 0; done < expected.nbytes; done += kBlockElements) {
      const uint64_t count = std::min(kBlockElements, expected.nbytes - done);
      scratch.original.bytes.resize(count);
      scratch.old.bytes.resize(count);
      original_reader_.read(expected, done, scratch.original.bytes);
      old_reader_.read(found, done, scratch.old.bytes);
      if (scratch.original.bytes != scratch.old.bytes) return false;
      progress_.poll();
    }
    return true;
  }

  ErrorSums errors(const TensorInfo& expected, const TensorInfo& found) {
    const uint64_t elements = found.elements();
    std::vector<ErrorSums> blocks((elements + kBlockElements - 1) / kBlockElements);
    const auto compare_block = [&](size_t block, int worker) {
      Scratch& scratch = scratch_[static_cast<size_t>(worker)];
      const uint64_t first = block * kBlockElements;
      const uint64_t count = std::min(kBlockElements, elements - first);
      load(original_reader_, expected, first, count, scratch.original);
      load(old_reader_, found, first, count, scratch.old);
      blocks[block] = error_sums(scratch.original.values, scratch.old.values);
    };
    pool_.parallel_for(blocks.size(), compare_block, [this] { progress_.poll(); });
    ErrorSums sums;
    for (const ErrorSums& block : blocks) sums.add(block);
    return sums;
  }

  const ModelIndex& original_;
  const ModelIndex& old_;
  TensorReader original_reader_;
  TensorReader old_reader_;
  ThreadPool& pool_;
  Progress& progress_;
  std::vector<Scratch> scratch_;
};

// The component of that name. The old layouts also hold a denoiser alone, without a name: then the
// one that has its first tensor.
const ModelIndex* find_original(const ModelDirectory& original, const ModelIndex& old) {
  const bool unnamed = old.component.empty();
  const auto fits = [&](const ModelIndex& candidate) {
    if (!unnamed || candidate.component.empty()) return candidate.component == old.component;
    return std::ranges::find(candidate.tensors, old.tensors[0].name, &TensorInfo::name) !=
           candidate.tensors.end();
  };
  const auto found = std::ranges::find_if(original.components, fits);
  return found == original.components.end() ? nullptr : &*found;
}

}  // namespace

ValidationReport validate_legacy(const ModelDirectory& original, const ModelDirectory& old,
                                 int num_threads, Progress& progress) {
  ThreadPool pool(num_threads);
  ValidationReport report;
  QualitySummary quality;
  ErrorSums total;
  const auto count = static_cast<double>(old.components.size());
  for (size_t i = 0; i < old.components.size(); ++i) {
    const ModelIndex& component = old.components[i];
    const ModelIndex* source = find_original(original, component);
    if (source == nullptr) {
      report.problems.push_back("the original has no component '" + component.component + "'");
      continue;
    }
    LegacyCheck(*source, component, pool, progress)
        .run(static_cast<double>(i) / count, static_cast<double>(i + 1) / count, report, quality,
             total);
  }
  progress.report("done", 1.0);
  report.cosine_similarity = quality.mean();
  report.min_cosine_similarity = quality.worst();
  report.worst_layer = quality.worst_layer();
  report.nmse = total.nmse();
  return report;
}

}  // namespace arrow_quant
