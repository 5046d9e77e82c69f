#include "quantize/chunk_quantizer.h"

#include <algorithm>
#include <atomic>
#include <iterator>
#include <limits>
#include <utility>

#include "arrow_quant/error.h"
#include "arrow_quant/format.h"
#include "kernels/convert.h"
#include "quantize/error_sums.h"
#include "quantize/mean_errors.h"
#include "quantize/output_error.h"

namespace arrow_quant {
namespace {

constexpr uint64_t kBlockElements = 128ULL * 1024;  // 512 KiB of f32: half of a usual L2 cache
constexpr uint64_t kSampleRows = 32;
constexpr uint64_t kSlabElements = 4ULL << 20;  // whose outputs are measured at a time
constexpr uint64_t kNone = std::numeric_limits<uint64_t>::max();

uint64_t rows_per_block(uint64_t cols) noexcept {
  return std::max<uint64_t>(1, kBlockElements / std::max<uint64_t>(1, cols));
}

// Keep the smallest of the values offered by all threads.
void keep_min(std::atomic<uint64_t>& smallest, uint64_t value) noexcept {
  uint64_t seen = smallest.load();
  while (value < seen && !smallest.compare_exchange_weak(seen, value)) {
  }
}

/// Storage for the errors of a chunk of so many rows.
ErrorSums sums_of(const OutputSums& outputs, uint64_t rows) noexcept {
  return {
      .ww = outputs.yy, .vv = outputs.zz(), .wv = outputs.yz(), .err = outputs.err, .count = rows};
}

}  // namespace

struct ChunkQuantizer::Job {
  const QuantizedTensorInfo& info;
  const RowSource& source;
  uint64_t row_begin;
  uint64_t rows;
  uint64_t cols;
  const ChunkInput& input;
  const std::string& path;

  uint64_t blocks() const noexcept { return (rows + block_rows() - 1) / block_rows(); }
  uint64_t block_rows() const noexcept {
    return input.factor != nullptr ? kFeedbackRows : rows_per_block(cols);
  }
  size_t columns_per_factor() const noexcept {
    return arrow_quant::columns_per_factor(info, input.equalization.size());
  }
};

ChunkQuantizer::ChunkQuantizer(ThreadPool& pool, std::function<void()> poll)
    : pool_(pool),
      poll_(std::move(poll)),
      threads_(pool.size()),
      scratch_(static_cast<size_t>(pool.size())) {}

uint64_t ChunkQuantizer::scratch_bytes(uint64_t cols, DType dtype, int threads) noexcept {
  // Source bytes and f32 weights of a block, and what quantize_rows keeps: three times a tile.
  const uint64_t block =
      std::max(kBlockElements, cols) * (sizeof(float) + dtype_info(dtype).bits / 8);
  const uint64_t tile = std::max<uint64_t>(32ULL * 1024, cols) * 3 * sizeof(float);
  return (block + tile) * static_cast<uint64_t>(threads);
}

uint64_t ChunkQuantizer::calibrated_scratch_bytes(uint64_t cols, DType dtype,
                                                  int threads) noexcept {
  const uint64_t row = cols * (sizeof(float) + dtype_info(dtype).bits / 8 + 5);
  return scratch_bytes(cols, dtype, threads) +
         std::max(kFeedbackRows, rows_per_block(cols)) * row * static_cast<uint64_t>(threads) +
         4 * std::max(kSlabElements, cols) * sizeof(float);
}

int ChunkQuantizer::calibrated_threads(uint64_t cols, DType dtype, int most,
                                       uint64_t bytes) noexcept {
  while (most > 0 && calibrated_scratch_bytes(cols, dtype, most) > bytes) --most;
  return most;
}

// f32 rows [row, row + count) of the chunk: the source itself when it is f32 in memory.
const float* ChunkQuantizer::load_source(const Job& job, uint64_t row, uint64_t count,
                                         Scratch& scratch) const {
  const std::span<const std::byte> bytes =
      job.source.rows(job.row_begin + row, count, scratch.source);
  const bool aligned = reinterpret_cast<uintptr_t>(bytes.data()) % alignof(float) == 0;
  if (job.info.source_dtype == DType::kF32 && aligned) {
    return reinterpret_cast<const float*>(bytes.data());
  }
  const size_t n = count * job.cols;
  if (scratch.weights.size() < n) scratch.weights.resize(n);
  convert_to_f32(job.info.source_dtype, bytes.data(), n, scratch.weights.data());
  return scratch.weights.data();
}

// The same times the equalization.
const float* ChunkQuantizer::load(const Job& job, uint64_t row, uint64_t count,
                                  Scratch& scratch) const {
  const float* source = load_source(job, row, count, scratch);
  if (job.input.equalization.empty()) return source;
  const size_t n = count * job.cols;
  if (scratch.weights.size() < n) scratch.weights.resize(n);
  const std::span<const float> factors = job.input.equalization;
  const size_t span = job.columns_per_factor();
  float* to = scratch.weights.data();
  for (uint64_t r = 0; r < count; ++r, source += job.cols, to += job.cols) {
    for (size_t channel = 0, column = 0; channel < factors.size(); ++channel) {
      const float factor = factors[channel];
      for (const size_t end = column + span; column < end; ++column) {
        to[column] = source[column] * factor;
      }
    }
  }
  return scratch.weights.data();
}

ChunkSettings ChunkQuantizer::settings_from_sample(const Job& job) {
  const uint64_t count = std::min(job.rows, kSampleRows);
  std::vector<float> sample(count * job.cols);
  for (uint64_t i = 0; i < count; ++i) {
    const float* row = load(job, i * job.rows / count, 1, scratch_[0]);
    // A row with NaN or Inf cannot guide anything; the main pass names it.
    if (find_non_finite(row, job.cols) != job.cols) continue;
    std::copy_n(row, job.cols, sample.data() + i * job.cols);
  }
  return choose_chunk_settings(job.info.spec, {.weights = sample.data(),
                                               .rows = count,
                                               .cols = job.cols,
                                               .importance = job.input.importance.data(),
                                               .by_magnitude = job.input.by_magnitude});
}

float ChunkQuantizer::absmax(const Job& job) {
  std::vector<float> largest(scratch_.size(), 0.0F);
  pool_.parallel_for(
      job.blocks(),
      [&](size_t block, int worker) {
        const uint64_t row = block * job.block_rows();
        const uint64_t count = std::min(job.block_rows(), job.rows - row);
        auto& mine = largest[static_cast<size_t>(worker)];
        const float* w = load(job, row, count, scratch_[static_cast<size_t>(worker)]);
        mine = std::max(mine, arrow_quant::absmax(w, count * job.cols));
      },
      poll_, threads_);
  return *std::max_element(largest.begin(), largest.end());
}

// Returns false when an fp16 parameter overflowed under `settings`.
bool ChunkQuantizer::run_blocks(const Job& job, const ChunkSettings& settings,
                                QuantizedChunk& chunk) {
  const AffineSpec& spec = job.info.spec;
  const uint64_t code_row = packed_row_bytes(job.cols, spec.bit_width);
  const uint64_t param_row = param_row_bytes(job.cols, spec);
  std::vector<ErrorSums> sums(job.blocks());
  std::atomic<uint64_t> first_bad{kNone};
  std::atomic<bool> overflow{false};

  pool_.parallel_for(
      job.blocks(),
      [&](size_t block, int worker) {
        const uint64_t row = block * job.block_rows();
        const uint64_t count = std::min(job.block_rows(), job.rows - row);
        const float* w = load(job, row, count, scratch_[static_cast<size_t>(worker)]);
        const size_t bad = find_non_finite(w, count * job.cols);
        if (bad != count * job.cols) {
          keep_min(first_bad, (job.row_begin + row) * job.cols + bad);
          return;
        }
        const PackedRowsOut out{
            .codes = chunk.codes.data() + row * code_row,
            .params = chunk.params.data() + row * param_row,
            .row_scales = chunk.row_scales.empty() ? nullptr : chunk.row_scales.data() + row};
        const RowBlock rows{.weights = w,
                            .rows = count,
                            .cols = job.cols,
                            .importance = job.input.importance.data(),
                            .by_magnitude = job.input.by_magnitude};
        const bool fits = job.input.factor != nullptr
                              ? quantize_rows_with_feedback(spec, settings, rows, *job.input.factor,
                                                            out, sums[block])
                              : quantize_rows(spec, settings, rows, out, sums[block]);
        if (!fits) overflow = true;
      },
      poll_, threads_);

  if (first_bad != kNone) {
    throw Error(ErrorCode::kQuantization,
                "expected finite weights, found NaN, Inf or a value beyond f32 at element " +
                    std::to_string(first_bad.load()),
                {.path = job.path,
                 .tensor = job.info.name,
                 .hint = "Repair the checkpoint, or keep the tensor as it is: --layer-rule '" +
                         job.info.name + "=keep'."});
  }
  chunk.error = {};
  for (const ErrorSums& block : sums) chunk.error.add(block);
  return !overflow;
}

QuantizedChunk ChunkQuantizer::quantize(const QuantizedTensorInfo& info, const RowSource& source,
                                        uint64_t row_begin, uint64_t rows, const ChunkInput& input,
                                        const std::string& path) {
  const Job job{info, source, row_begin, rows, info.cols(), input, path};
  QuantizedChunk chunk = make_chunk(info, row_begin, rows);
  if (rows == 0 || job.cols == 0) return chunk;
  ChunkSettings settings = settings_from_sample(job);
  if (!run_blocks(job, settings, chunk)) {
    // The sample missed the largest rows: repeat once with a scale that holds all of them.
    settings.tensor_scale = tensor_scale_for(info.spec, absmax(job));
    if (!run_blocks(job, settings, chunk)) {
      throw Error(
          ErrorCode::kQuantization, "the range of the weights does not fit any scale",
          {.path = path, .tensor = info.name, .hint = "Keep this tensor: layer rule 'keep'."});
    }
  }
  chunk.tensor_scale = settings.tensor_scale;
  chunk.offset_unit = settings.offset_unit;
  chunk.equalization.assign(input.equalization.begin(), input.equalization.end());
  if (input.row_gain && input.fitted != nullptr) apply_gains(job, *input.row_gain, chunk);
  if (input.held_out != nullptr || input.row_gain || input.time != nullptr ||
      !input.equalization.empty()) {
    measure(job, chunk);
  }
  return chunk;
}

/// Some rows of a chunk, as the source has them and as the codes stand for.
struct ChunkQuantizer::Slab {
  uint64_t first = 0, count = 0;
  std::vector<float> original, restored;
  ErrorSums error;
};

template <typename Visit>
void ChunkQuantizer::each_slab(const Job& job, const QuantizedChunk& chunk, const Visit& visit) {
  const uint64_t max_rows = std::max<uint64_t>(1, kSlabElements / job.cols);
  Slab slab;
  for (; slab.first < job.rows; slab.first += max_rows) {
    slab.count = std::min(max_rows, job.rows - slab.first);
    slab.original.resize(slab.count * job.cols);
    slab.restored.resize(slab.count * job.cols);
    restore(job, chunk, slab);
    visit(std::as_const(slab));
  }
}

// Multiply each row by what its outputs over the fitted inputs ask for.
void ChunkQuantizer::apply_gains(const Job& job, RowGain gain, QuantizedChunk& chunk) {
  std::vector<OutputSums> rows;
  each_slab(job, chunk, [&](const Slab& slab) {
    std::ranges::copy(output_sums(*job.input.fitted, slab.original, slab.restored, pool_, poll_),
                      std::back_inserter(rows));
  });
  (void)apply_row_gains(job.info.spec, job.cols, row_gains(gain, rows), chunk);
}

void ChunkQuantizer::rescale(const QuantizedTensorInfo& info, const RowSource& source,
                             const ChunkInput& input, const std::string& path,
                             QuantizedChunk& chunk) {
  if (chunk.rows == 0 || info.cols() == 0 || !input.row_gain) return;
  const Job job{info, source, chunk.row_begin, chunk.rows, info.cols(), input, path};
  apply_gains(job, *input.row_gain, chunk);
  measure(job, chunk);
}

void ChunkQuantizer::correct_means(const QuantizedTensorInfo& info, const RowSource& source,
                                   const ChunkInput& input, const std::string& path,
                                   QuantizedChunk& chunk) {
  if (chunk.rows == 0 || info.cols() == 0) return;
  const Job job{info, source, chunk.row_begin, chunk.rows, info.cols(), input, path};
  const ErrorSums& before = chunk.output_error;
  OutputSums outputs{.yy = before.ww, .ye = before.ww - before.wv, .err = before.err};
  MeanErrors means(input.time, job.rows, job.cols);
  each_slab(job, chunk, [&](const Slab& slab) {
    means.add(slab.first, slab.count, slab.original, slab.restored);
  });
  chunk.time_groups = input.time->groups;
  means.correct(chunk.time_groups, outputs);
  chunk.output_error = sums_of(outputs, job.rows);
}

void ChunkQuantizer::measure(const QuantizedTensorInfo& info, const RowSource& source,
                             const ChunkInput& input, const std::string& path,
                             QuantizedChunk& chunk) {
  if (chunk.rows == 0 || info.cols() == 0) return;
  measure(Job{info, source, chunk.row_begin, chunk.rows, info.cols(), input, path}, chunk);
}

// The errors of a finished chunk, of weights as the source has them and of outputs, and what makes
// up for the mean of the latter.
void ChunkQuantizer::measure(const Job& job, QuantizedChunk& chunk) {
  OutputSums outputs;
  MeanErrors means(job.input.time, job.rows, job.cols);
  chunk.error = {};
  each_slab(job, chunk, [&](const Slab& slab) {
    chunk.error.add(slab.error);
    if (job.input.held_out != nullptr) {
      outputs.add(
          total(output_sums(*job.input.held_out, slab.original, slab.restored, pool_, poll_)));
    }
    means.add(slab.first, slab.count, slab.original, slab.restored);
  });
  if (job.input.time != nullptr) chunk.time_groups = job.input.time->groups;
  means.correct(chunk.time_groups, outputs);
  if (job.input.held_out == nullptr) return;
  chunk.output_error = sums_of(outputs, job.rows);
}

// Fill in the rows of a slab and their errors.
void ChunkQuantizer::restore(const Job& job, const QuantizedChunk& chunk, Slab& slab) {
  const uint64_t step = rows_per_block(job.cols);
  std::vector<ErrorSums> sums((slab.count + step - 1) / step);
  pool_.parallel_for(
      sums.size(),
      [&](size_t block, int worker) {
        const uint64_t row = block * step;
        const uint64_t rows = std::min(step, slab.count - row);
        const size_t at = row * job.cols, n = rows * job.cols;
        const float* w =
            load_source(job, slab.first + row, rows, scratch_[static_cast<size_t>(worker)]);
        std::copy_n(w, n, slab.original.data() + at);
        dequantize_rows(job.info.spec, packed_rows(job.info, chunk, slab.first + row, rows),
                        slab.restored.data() + at);
        sums[block] = error_sums({slab.original.data() + at, n}, {slab.restored.data() + at, n});
      },
      poll_, threads_);
  slab.error = {};
  for (const ErrorSums& block : sums) slab.error.add(block);
}

PackedRows packed_rows(const QuantizedTensorInfo& info, const QuantizedChunk& chunk, uint64_t first,
                       uint64_t count) {
  const uint64_t cols = info.cols();
  return {.codes = chunk.codes.data() + first * packed_row_bytes(cols, info.spec.bit_width),
          .params = chunk.params.data() + first * param_row_bytes(cols, info.spec),
          .row_scales = chunk.row_scales.empty() ? nullptr : chunk.row_scales.data() + first,
          .tensor_scale = chunk.tensor_scale,
          .offset_unit = chunk.offset_unit,
          .rows = count,
          .cols = cols,
          .equalization = chunk.equalization.empty() ? nullptr : chunk.equalization.data(),
          .columns_per_factor = columns_per_factor(info, chunk.equalization.size())};
}

uint64_t rows_per_chunk(uint64_t cols, int bit_width) noexcept {
  const uint64_t row_bytes = packed_row_bytes(cols, bit_width);
  return std::max<uint64_t>(1, kMaxChunkBytes / std::max<uint64_t>(1, row_bytes));
}

QuantizedChunk make_chunk(const QuantizedTensorInfo& info, uint64_t row_begin, uint64_t rows) {
  QuantizedChunk chunk;
  chunk.row_begin = row_begin;
  chunk.rows = rows;
  chunk.codes.resize(rows * packed_row_bytes(info.cols(), info.spec.bit_width));
  chunk.params.resize(rows * param_row_bytes(info.cols(), info.spec));
  if (info.spec.param_encoding != ParamEncoding::kFp16) chunk.row_scales.resize(rows);
  return chunk;
}

}  // namespace arrow_quant
