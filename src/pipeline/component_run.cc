#include "pipeline/component_run.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "arrow_quant/error.h"
#include "arrow_quant/format.h"
#include "io/equalization_factors.h"
#include "io/time_params.h"
#include "pipeline/precomputed_input.h"
#include "pipeline/write_queue.h"
#include "quantize/chunk_quantizer.h"
#include "read/tensor_reader.h"
#include "read/tensor_rows.h"

namespace arrow_quant {
namespace {

// Several fit a third of little memory, so that one is read while another is written.
constexpr uint64_t kCopiedChunkBytes = 32ULL << 20;
static_assert(kCopiedChunkBytes <= kMaxChunkBytes);

// Bytes of one row of a copied tensor; 0 when rows do not end on whole bytes (4 and 6 bit types),
// in which case the tensor is copied in one piece.
uint64_t copied_row_bytes(const TensorInfo& source, uint64_t rows) noexcept {
  return rows != 0 && source.nbytes % rows == 0 ? source.nbytes / rows : 0;
}

uint64_t stored_bytes(const QuantizedChunk& chunk) noexcept {
  return chunk.codes.size() + chunk.params.size() + chunk.row_scales.size() * sizeof(uint16_t) +
         pack_factors(chunk.equalization).size() + time_params_bytes(chunk.time_groups);
}

void set_errors(const ErrorSums& weights, const ErrorSums& outputs, QuantizedTensorInfo& info) {
  info.cosine = weights.cosine();
  info.nmse = weights.nmse();
  if (outputs.count == 0) return;
  info.output_cosine = outputs.cosine();
  info.output_nmse = outputs.nmse();
}

/// The loop over tensors and chunks, with what it carries along.
class ComponentRun {
 public:
  ComponentRun(const ModelIndex& component, const RunContext& context, const ChunkSink& sink,
               const BytesDone& bytes_done)
      : component_(component),
        context_(context),
        sink_(sink),
        bytes_done_(bytes_done),
        reader_(component),
        quantizer_(context.pool, [&context] { context.progress.poll(); }),
        // A third is for chunks in flight; Parquet's page buffers and the workers share the rest.
        queue_(context.max_memory_bytes / 3, [&context] { context.progress.poll(); }) {}

  std::vector<TensorReport> run(const ComponentPlan& plan) {
    std::vector<TensorReport> reports;
    reports.reserve(plan.tensors.size());
    for (const TensorPlan& tensor : plan.tensors) reports.push_back(run_tensor(tensor));
    queue_.drain();
    reader_.check_unchanged();
    return reports;
  }

 private:
  TensorReport run_tensor(const TensorPlan& plan) {
    const TensorInfo& source = component_.tensors[plan.tensor];
    if (const EarlierTensor* precomputed = find_precomputed(source.name)) {
      return reuse(*precomputed, plan, source);
    }
    TensorReport report{.component = component_.component,
                        .info = {.name = source.name,
                                 .shape = source.shape,
                                 .row_dimensions = plan.row_dimensions,
                                 .source_dtype = source.dtype,
                                 .encoding = plan.encoding,
                                 .spec = plan.spec},
                        .reason = plan.reason};
    const TensorFold* fold = fold_of(source);
    report.folded = fold != nullptr && !fold->columns.empty();
    report.divided = fold != nullptr && !fold->rows.empty();
    const TensorRows source_rows(reader_, source, report.info.cols(), fold);
    const std::optional<LayerChoice> choice = choose(source, source_rows, report);
    // The queue keeps this copy while the report is being completed.
    const auto info = std::make_shared<const QuantizedTensorInfo>(report.info);
    check_row_fits(source, *info);
    ErrorSums sums;
    ErrorSums outputs;
    const uint64_t rows = info->rows();
    const uint64_t step = chunk_rows(source, *info);
    uint64_t row = 0;
    int32_t number = 0;
    do {  // an empty tensor still is one row of the table
      const uint64_t count = std::min(step, rows - row);
      const uint64_t reserved = source.nbytes == 0 ? 0 : chunk_bytes(source, *info, count);
      queue_.reserve(reserved);
      QuantizedChunk chunk =
          plan.encoding == Encoding::kCopy ? copy_rows(source, *info, row, count)
          : choice && choice->sample != nullptr && count == rows
              ? *choice->sample
              : quantizer_.quantize(*info, source_rows, row, count,
                                    choice ? choice->input() : input_unknown(*info),
                                    path_of(source));
      chunk.chunk = number++;
      sums.add(chunk.error);
      outputs.add(chunk.output_error);
      report.stored_bytes += stored_bytes(chunk);
      push(info, std::move(chunk), reserved);
      row += count;
      bytes_done_(plan, rows == 0 ? 0 : source.nbytes / rows * count);
    } while (row < rows);
    set_errors(sums, outputs, report.info);
    return report;
  }

  const TensorFold* fold_of(const TensorInfo& source) const {
    if (context_.folds == nullptr) return nullptr;
    const auto found = context_.folds->find(source.name);
    return found == context_.folds->end() ? nullptr : &found->second;
  }

  const EarlierTensor* find_precomputed(const std::string& name) const {
    if (context_.precomputed == nullptr) return nullptr;
    const auto found = context_.precomputed->tensors.find({component_.component, name});
    return found == context_.precomputed->tensors.end() ? nullptr : &found->second;
  }

  // The chunks of a tensor that was quantized before, with their errors as they are now.
  TensorReport reuse(const EarlierTensor& precomputed, const TensorPlan& plan,
                     const TensorInfo& source) {
    TensorReport report = precomputed.report;
    const TensorRows source_rows(reader_, source, report.info.cols(), fold_of(source));
    const auto info = std::make_shared<const QuantizedTensorInfo>(report.info);
    PrecomputedInput input(context_.calibration, *info);
    ErrorSums sums;
    ErrorSums outputs;
    report.stored_bytes = 0;
    for (const QuantizedChunk& stored : precomputed.tensor->chunks) {
      const uint64_t reserved = stored_bytes(stored);
      queue_.reserve(reserved);
      QuantizedChunk chunk = stored;
      quantizer_.measure(*info, source_rows, input.of(chunk), path_of(source), chunk);
      sums.add(chunk.error);
      outputs.add(chunk.output_error);
      report.stored_bytes += reserved;
      bytes_done_(plan, source.nbytes / std::max<uint64_t>(1, info->rows()) * chunk.rows);
      push(info, std::move(chunk), reserved);
    }
    set_errors(sums, outputs, report.info);
    return report;
  }

  // What calibration makes of a planned weight, or nothing without statistics of its input. Methods
  // that need them become the search.
  std::optional<LayerChoice> choose(const TensorInfo& source, const RowSource& rows,
                                    TensorReport& report) {
    quantizer_.use_threads(context_.pool.size());
    if (report.info.encoding == Encoding::kCopy) return std::nullopt;
    // Statistics have one matrix for a weight: each expert of a stack would need its own.
    const bool can_know = context_.calibration != nullptr && report.info.row_dimensions == 1;
    const auto input = can_know ? context_.calibration->find(source.name) : std::nullopt;
    if (!input) {
      if (needs_statistics(report.info.spec.method)) report.info.spec.method = Method::kSearch;
      return std::nullopt;
    }
    // Rather fewer threads than other bytes.
    const int threads = ChunkQuantizer::calibrated_threads(
        report.info.cols(), source.dtype, context_.pool.size(), context_.max_memory_bytes / 2);
    if (threads > 0) quantizer_.use_threads(threads);
    ChoiceOptions options = context_.choice;
    options.matrices = threads > 0;
    options.has_bias = has_bias(source.name);
    options.equalize = options.equalize && !report.folded;
    options.static_activations =
        options.static_activations && !context_.calibration->float_inputs().contains(source.name);
    LayerChoice choice = choose_layer(report.info, rows, path_of(source), *context_.calibration,
                                      *input, options, quantizer_);
    report.info = choice.info;
    report.calibrated = true;
    report.lacked_memory = choice.matrices->factor == nullptr;
    for (const float factor : choice.equalization) {
      report.equalization = std::max(report.equalization, factor);
    }
    if (choice.time != nullptr) {
      report.time_groups = choice.time->groups;
      report.time_bias = !choice.time->means.fitted.empty();
    }
    return choice;
  }

  // A user who asks for the search by name gets the least error of the weights.
  ChunkInput input_unknown(const QuantizedTensorInfo& info) const {
    return {.by_magnitude = context_.choice.any_method && info.spec.bit_width == 2};
  }

  // Whoever computes with one bias at all times can take a correction up in it.
  bool has_bias(const std::string& weight) const {
    if (!weight.ends_with("weight")) return false;
    const std::string bias = weight.substr(0, weight.size() - 6) + "bias";
    return std::ranges::find(component_.tensors, bias, &TensorInfo::name) !=
           component_.tensors.end();
  }

  const std::string& path_of(const TensorInfo& source) const {
    return component_.files[source.file].path;
  }

  static uint64_t chunk_rows(const TensorInfo& source, const QuantizedTensorInfo& info) noexcept {
    if (info.encoding != Encoding::kCopy) return rows_per_chunk(info.cols(), info.spec.bit_width);
    const uint64_t row_bytes = copied_row_bytes(source, info.rows());
    return row_bytes == 0 ? info.rows() : std::max<uint64_t>(1, kCopiedChunkBytes / row_bytes);
  }

  static uint64_t chunk_bytes(const TensorInfo& source, const QuantizedTensorInfo& info,
                              uint64_t rows) noexcept {
    if (info.encoding == Encoding::kCopy) {
      return rows == info.rows() ? source.nbytes : rows * copied_row_bytes(source, info.rows());
    }
    return rows * (packed_row_bytes(info.cols(), info.spec.bit_width) +
                   param_row_bytes(info.cols(), info.spec) + sizeof(uint16_t));
  }

  // One row is the least that can be worked on; it must fit the memory that was granted.
  void check_row_fits(const TensorInfo& source, const QuantizedTensorInfo& info) const {
    const uint64_t needed =
        info.encoding == Encoding::kCopy
            ? chunk_bytes(source, info, 1)
            : ChunkQuantizer::scratch_bytes(info.cols(), info.source_dtype, context_.pool.size());
    if (needed <= context_.max_memory_bytes) return;
    throw Error(ErrorCode::kConfiguration,
                "a row of this tensor needs " + std::to_string(needed >> 20) +
                    " MB of working memory, max_memory_mb grants " +
                    std::to_string(context_.max_memory_bytes >> 20),
                {.path = component_.path,
                 .tensor = info.name,
                 .hint = "Raise max_memory_mb (--max-memory-mb) or use fewer threads."});
  }

  QuantizedChunk copy_rows(const TensorInfo& source, const QuantizedTensorInfo& info, uint64_t row,
                           uint64_t count) {
    QuantizedChunk chunk;
    chunk.row_begin = row;
    chunk.rows = count;
    if (source.nbytes == 0) return chunk;
    chunk.codes.resize(chunk_bytes(source, info, count));
    const auto bytes = std::as_writable_bytes(std::span(chunk.codes));
    reader_.read(source, row * copied_row_bytes(source, info.rows()), bytes);
    if (const TensorFold* fold = fold_of(source)) {
      fold_rows(*fold, source.dtype, info.cols(), row, bytes);
    }
    return chunk;
  }

  void push(const std::shared_ptr<const QuantizedTensorInfo>& info, QuantizedChunk chunk,
            uint64_t bytes) {
    auto owned = std::make_shared<QuantizedChunk>(std::move(chunk));
    queue_.push(bytes, [this, info, owned] { sink_(*info, std::move(*owned)); });
  }

  const ModelIndex& component_;
  const RunContext& context_;
  const ChunkSink& sink_;
  const BytesDone& bytes_done_;
  TensorReader reader_;
  ChunkQuantizer quantizer_;
  WriteQueue queue_;
};

}  // namespace

std::vector<TensorReport> run_component(const ModelIndex& component, const ComponentPlan& plan,
                                        const RunContext& context, const ChunkSink& sink,
                                        const BytesDone& bytes_done) {
  return ComponentRun(component, context, sink, bytes_done).run(plan);
}

}  // namespace arrow_quant
