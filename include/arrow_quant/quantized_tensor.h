// The packed form of one weight, as quantized, written and read back.
//
// A weight of any rank is a matrix [rows, cols]: rows = shape[0], cols = the product of the rest,
// which is the input dimension. A stack of experts [experts, outputs, inputs] has two dimensions of
// rows. Groups of `group_size` run along a row; the last may be short.
// How a code becomes a weight is described in docs/reference/format.md.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "arrow_quant/api.h"
#include "arrow_quant/byte_buffer.h"
#include "arrow_quant/dtype.h"

namespace arrow_quant {

/// How a tensor is stored.
enum class Encoding : uint8_t { kCopy, kAffine, kResidualBinary };

/// How the parameters of a group are stored.
enum class ParamEncoding : uint8_t { kTwoLevel, kFp16, kRow, kResidualBinary };

/// How the parameters of a group are found.
enum class Method : uint8_t {
  kRtn,      ///< min-max range, round to nearest
  kSearch,   ///< weighted least-squares search of scale and offset with re-rounding
  kGptq,     ///< the same, and the error of a column is made good by those after it
  kR2q,      ///< as kGptq with the levels of residual binary codes
  kLearned,  ///< changed after one of the others, by gradient descent on the model's predictions
};

/// The name in artefacts and settings.
ARROW_QUANT_API std::string_view to_string(Encoding encoding) noexcept;
/// The name in artefacts and settings.
ARROW_QUANT_API std::string_view to_string(ParamEncoding encoding) noexcept;
/// The name in artefacts and settings.
ARROW_QUANT_API std::string_view to_string(Method method) noexcept;

/// What one weight is quantized to. Valid: bit_width 2, 4 or 8; group_size a multiple of 8 from 8
/// to 65536; two_level only with 2 and 4 bits and group_size a multiple of 32; residual_binary only
/// with 2 bits and the same; row only with 8 bits. Other combinations raise kConfiguration.
struct AffineSpec {
  int bit_width = 4;                                        ///< bits of a code
  int group_size = 128;                                     ///< weights of a row in a group
  ParamEncoding param_encoding = ParamEncoding::kTwoLevel;  ///< how parameters are stored
  Method method = Method::kSearch;                          ///< how they are found
};

/// What the artefact calls tensors of this spec.
constexpr Encoding encoding_of(const AffineSpec& spec) noexcept {
  return spec.param_encoding == ParamEncoding::kResidualBinary ? Encoding::kResidualBinary
                                                               : Encoding::kAffine;
}

/// Bytes of one packed row of `cols` codes (padded to a whole byte).
constexpr uint64_t packed_row_bytes(uint64_t cols, int bit_width) noexcept {
  return (cols * static_cast<uint64_t>(bit_width) + 7) / 8;
}

/// Bytes of the parameters of one row: one per sub-group of group_size / 4 weights (two_level,
/// residual_binary), a pair of fp16 per group (fp16), none (row).
constexpr uint64_t param_row_bytes(uint64_t cols, const AffineSpec& spec) noexcept {
  const uint64_t group = static_cast<uint64_t>(spec.group_size);
  switch (spec.param_encoding) {
    case ParamEncoding::kTwoLevel:
    case ParamEncoding::kResidualBinary:
      return (cols + group / 4 - 1) / (group / 4);
    case ParamEncoding::kFp16:
      return (cols + group - 1) / group * 4;
    case ParamEncoding::kRow:
      return 0;
  }
  return 0;
}

/// Sums over weights w and their reconstruction v, from which every weight metric follows.
struct ARROW_QUANT_API ErrorSums {
  double ww = 0;       ///< sum w^2
  double vv = 0;       ///< sum v^2
  double wv = 0;       ///< sum w*v
  double err = 0;      ///< sum (w - v)^2
  uint64_t count = 0;  ///< weights

  /// Add the sums over other weights.
  void add(const ErrorSums& o) noexcept {
    ww += o.ww, vv += o.vv, wv += o.wv, err += o.err, count += o.count;
  }
  double nmse() const noexcept;    ///< err / ww; 0 when both are 0
  double cosine() const noexcept;  ///< 1 when w and v are both all zero
};

/// What applies to activations whose timestep lies in [begin, end).
struct TimeGroup {
  double begin = 0;                 ///< the first timestep
  double end = 0;                   ///< the first timestep after
  float activation_scale = 0;       ///< of static int8 activations, x / scale + zero; 0: none
  float activation_zero = 0;        ///< 0: symmetric
  std::vector<float> output_scale;  ///< per row; empty: 1
  std::vector<float> output_bias;   ///< per row, added to what the layer gives; empty: 0

  bool operator==(const TimeGroup&) const = default;
};

/// Rows [row_begin, row_begin + rows) of a tensor: one row of the Parquet table.
/// For a copy, `codes` holds the raw source bytes and everything after it is empty.
struct QuantizedChunk {
  int32_t chunk = 0;                 ///< its number within the tensor
  uint64_t row_begin = 0;            ///< the first row
  uint64_t rows = 0;                 ///< how many rows
  ByteBuffer codes;                  ///< rows * packed_row_bytes
  ByteBuffer params;                 ///< rows * param_row_bytes
  std::vector<uint16_t> row_scales;  ///< fp16 bits, one per row; empty for fp16 parameters
  float tensor_scale = 1.0F;         ///< a power of two
  int8_t offset_unit = 0;            ///< m of two_level
  /// Factors s of the input channels, as many as the first dimension of the columns has; the codes
  /// are those of the columns times s.
  /// Empty: all 1. The same for every chunk of a tensor.
  std::vector<float> equalization;
  std::vector<TimeGroup> time_groups;  ///< by time, apart; of these rows
  ErrorSums error;                     ///< of the weights
  /// Of outputs W x and V x over inputs x that were held out; count 0 when there were none.
  ErrorSums output_error;
};

/// Everything about a stored tensor but its data.
struct ARROW_QUANT_API QuantizedTensorInfo {
  std::string name;                  ///< as in the weight file
  std::vector<uint64_t> shape;       ///< of the weight
  int row_dimensions = 1;            ///< how many dimensions make the rows: 2 for stacked experts
  DType source_dtype = DType::kF32;  ///< of the elements in the weight file
  Encoding encoding = Encoding::kCopy;  ///< kCopy: not quantized
  AffineSpec spec;      ///< bit_width, group_size and param_encoding; meaningless for copies
  double cosine = 1.0;  ///< similarity of the weights, before and after
  double nmse = 0.0;    ///< sum (w - v)^2 / sum w^2
  std::optional<double> output_cosine;  ///< of outputs over held-out inputs
  std::optional<double> output_nmse;    ///< the same for their errors
  std::string method;      ///< how the codes were found, as recorded; empty when nobody says
  std::string candidates;  ///< JSON of the candidates that it was chosen from; empty without choice

  uint64_t elements() const noexcept;  ///< product of the shape
  uint64_t rows() const noexcept;      ///< product of the dimensions of rows; 1 for rank 0
  uint64_t cols() const noexcept;      ///< product of the others; 1 without any
  uint64_t channels() const noexcept;  ///< of the input: the first dimension of columns; 0 without

  /// Describe only `count` of the rows. Several dimensions of rows become one, and those of the
  /// columns too.
  void keep_rows(uint64_t count);
};

/// Columns that one of `factors` equalization factors belongs to: the positions of a kernel.
inline uint64_t columns_per_factor(const QuantizedTensorInfo& info, uint64_t factors) noexcept {
  return factors == 0 ? 1 : info.cols() / factors;
}

/// A stored tensor in memory.
struct QuantizedTensor {
  QuantizedTensorInfo info;            ///< everything but the data
  std::vector<QuantizedChunk> chunks;  ///< in row order, together all rows
};

/// A packed weight in memory that somebody else owns, such as the buffers of a torch module. The
/// sizes of the spans are those of QuantizedChunk, over all rows.
struct PackedWeightView {
  /// Rows from row_begin to the next chunk's share these numbers.
  struct Chunk {
    uint64_t row_begin = 0;     ///< the first of these rows
    float tensor_scale = 1.0F;  ///< a power of two
    int8_t offset_unit = 0;     ///< m of two_level
  };

  AffineSpec spec;                       ///< a valid one
  uint64_t rows = 0;                     ///< outputs
  uint64_t cols = 0;                     ///< inputs, times the positions of a kernel
  std::span<const uint8_t> codes;        ///< rows * packed_row_bytes
  std::span<const uint8_t> params;       ///< rows * param_row_bytes
  std::span<const uint16_t> row_scales;  ///< fp16 bits; empty for fp16 parameters
  std::span<const Chunk> chunks;         ///< in row order, the first at row 0
};

}  // namespace arrow_quant
