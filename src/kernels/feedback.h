// The sequential part of error feedback: a few columns of many rows, one after the other.
//
// Rows are lanes here: element (column, row) lies at column * stride + row, so that columns follow
// one another while rows never meet. Pure functions, safe from many threads on different rows.
#pragma once

#include <cstddef>
#include <cstdint>

namespace arrow_quant {

inline constexpr size_t kFeedbackLanes = 16;
/// Most columns of a call.
inline constexpr size_t kFeedbackColumns = 128;

/// How a rounded value v follows from a code, per group and row: [groups][stride].
struct LaneLevels {
  enum class Rule : uint8_t {
    kAffine,          ///< v = first * code + second, code in [low_code, high_code], |v| <= limit
    kResidualBinary,  ///< v = first * b1 + second * b2, code bits 0 and 1, 0 meaning -1
  };
  Rule rule = Rule::kAffine;
  const float* first = nullptr;
  const float* second = nullptr;
  const float* limit = nullptr;  ///< [stride], or null for none
  float low_code = 0, high_code = 3;
};

/// Columns to round, from the last to the first.
struct FeedbackColumns {
  size_t count = 0;  ///< at most kFeedbackColumns
  /// [count][count]: mix[k * count + s] is how much of the error of s > k is added to k.
  const float* mix = nullptr;
  const float* cost = nullptr;        ///< [count] of a squared error of the rounded value
  const uint32_t* groups = nullptr;   ///< [count] of each column
  const uint32_t* places = nullptr;   ///< [count] where the codes of each column go
  const float* correction = nullptr;  ///< [count][stride] from columns rounded before
  float* weights = nullptr;           ///< [count][stride] weights; on return weight - v
  uint8_t* codes = nullptr;           ///< [places][stride]
};

/// Sums over the lanes' columns, per row.
struct FeedbackSums {
  double* ww = nullptr;    ///< w^2
  double* we = nullptr;    ///< w (w - v)
  double* ee = nullptr;    ///< (w - v)^2
  double* cost = nullptr;  ///< cost * (rounded value - v)^2
};

/// Round `rows` rows, a multiple of kFeedbackLanes, and add to `sums`.
void feedback_columns(const FeedbackColumns& columns, const LaneLevels& levels, size_t rows,
                      size_t stride, const FeedbackSums& sums) noexcept;

/// Pack `count` codes, one per byte, `stride` bytes apart, to `bits` each, element 0 in the lowest
/// bits, the last byte padded with zeros.
void pack_strided_codes(int bits, const uint8_t* codes, size_t count, size_t stride,
                        uint8_t* out) noexcept;

}  // namespace arrow_quant
