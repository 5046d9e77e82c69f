// One chunk of one tensor, from source bytes to packed rows: the unit of work of the whole engine.
//
// A chunk is cut into blocks of rows that fit the second-level cache; workers read, convert and
// quantize blocks independently. The result depends on the rows and the spec only, never on the
// number of threads. Not thread-safe: one chunk at a time per object.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "arrow_quant/gram.h"
#include "arrow_quant/quantized_tensor.h"
#include "core/row_source.h"
#include "core/thread_pool.h"
#include "kernels/dequantize_rows.h"
#include "quantize/affine.h"
#include "quantize/error_feedback.h"
#include "quantize/feedback_factor.h"
#include "quantize/row_gain.h"
#include "quantize/time_correction.h"

namespace arrow_quant {

/// What calibration knows about the input of a tensor; everything may be absent.
struct ChunkInput {
  std::span<const float> importance = {};    ///< of each column, for the search
  bool by_magnitude = false;                 ///< without importance; see RowBlock
  const FeedbackFactor* factor = nullptr;    ///< for methods with error feedback, which need it
  std::span<const float> equalization = {};  ///< factor of each input channel
  const TimeCorrection* time = nullptr;
  const GramMatrix* held_out = nullptr;  ///< of inputs to measure the error of outputs by
  const GramMatrix* fitted = nullptr;    ///< of inputs to fit row gains to
  std::optional<RowGain> row_gain = {};  ///< what each row is multiplied by; needs `fitted`
};

class ChunkQuantizer {
 public:
  ChunkQuantizer(ThreadPool& pool, std::function<void()> poll);

  /// Quantize rows [row_begin, row_begin + rows) of the tensor `info`. `path` is for messages.
  /// Raises kQuantization for NaN, Inf or values beyond f32.
  QuantizedChunk quantize(const QuantizedTensorInfo& info, const RowSource& source,
                          uint64_t row_begin, uint64_t rows, const ChunkInput& input,
                          const std::string& path);

  /// Rescale the rows of a chunk that was quantized without input.row_gain by that, and set its
  /// errors: the same as quantizing it with it.
  void rescale(const QuantizedTensorInfo& info, const RowSource& source, const ChunkInput& input,
               const std::string& path, QuantizedChunk& chunk);

  /// Give a chunk that was quantized without input.time the biases that make up for its mean
  /// errors. Its output error is brought up to date.
  void correct_means(const QuantizedTensorInfo& info, const RowSource& source,
                     const ChunkInput& input, const std::string& path, QuantizedChunk& chunk);

  /// Set the errors of a finished chunk: of its weights against the rows of `source`, and of
  /// outputs as far as `input` knows them. Biases by time that are there already stay as they are.
  void measure(const QuantizedTensorInfo& info, const RowSource& source, const ChunkInput& input,
               const std::string& path, QuantizedChunk& chunk);

  /// Most bytes that `quantize` keeps for itself while it works on rows of `cols` elements, without
  /// or with what it needs to measure outputs and for error feedback.
  static uint64_t scratch_bytes(uint64_t cols, DType dtype, int threads) noexcept;
  static uint64_t calibrated_scratch_bytes(uint64_t cols, DType dtype, int threads) noexcept;

  /// How many of `most` threads keep within `bytes` when they need that; 0: not even one.
  static int calibrated_threads(uint64_t cols, DType dtype, int most, uint64_t bytes) noexcept;

  /// From now on, rows are worked on by at most that many of the pool's threads, at least 1.
  void use_threads(int most) noexcept { threads_ = most; }

 private:
  struct Scratch {
    std::vector<std::byte> source;
    std::vector<float> weights;
  };
  struct Job;
  struct Slab;

  const float* load_source(const Job& job, uint64_t row, uint64_t count, Scratch& scratch) const;
  const float* load(const Job& job, uint64_t row, uint64_t count, Scratch& scratch) const;
  ChunkSettings settings_from_sample(const Job& job);
  bool run_blocks(const Job& job, const ChunkSettings& settings, QuantizedChunk& chunk);
  float absmax(const Job& job);
  void apply_gains(const Job& job, RowGain gain, QuantizedChunk& chunk);
  void measure(const Job& job, QuantizedChunk& chunk);
  /// Call visit(slab) for rows of a chunk after rows, as many as are looked at at a time.
  template <typename Visit>
  void each_slab(const Job& job, const QuantizedChunk& chunk, const Visit& visit);
  void restore(const Job& job, const QuantizedChunk& chunk, Slab& slab);

  ThreadPool& pool_;
  std::function<void()> poll_;
  int threads_;
  std::vector<Scratch> scratch_;  // one per worker
};

/// Rows of `cols` codes that make one chunk: as many as give kMaxChunkBytes, at least one.
uint64_t rows_per_chunk(uint64_t cols, int bit_width) noexcept;

/// Rows [first, first + count) of a chunk, to be read.
PackedRows packed_rows(const QuantizedTensorInfo& info, const QuantizedChunk& chunk, uint64_t first,
                       uint64_t count);

/// Allocate the buffers of a chunk. Codes and parameters hold bytes of any value, of chunks before
/// them too: whoever fills them writes every byte.
QuantizedChunk make_chunk(const QuantizedTensorInfo& info, uint64_t row_begin, uint64_t rows);

}  // namespace arrow_quant
