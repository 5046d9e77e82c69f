// Min-max parameters of consecutive groups, at memory speed.
//
// Pure functions, safe from many threads. NaN weights give unspecified parameters, never a crash.
#pragma once

#include <cstddef>
#include <cstdint>

namespace arrow_quant {

/// Find the smallest and the largest weight of each group of `group` (the last may be short).
void group_ranges(const float* weights, size_t count, size_t group, float* low,
                  float* high) noexcept;

/// The widest group and the extremes of all groups, never inside zero, times `factor`.
struct RangeSummary {
  float width = 0, high = 0, low = 0;
};
RangeSummary summarize_ranges(const float* low, const float* high, size_t groups,
                              float factor) noexcept;

/// Step and base that span [low, high] * factor with codes in [0, 2^bits).
void range_levels(int bits, const float* low, const float* high, size_t groups, float factor,
                  float* step, float* base) noexcept;

/// What the sub-groups of one row share.
struct TwoLevelRow {
  int bits = 4;
  float offset_unit = 1.0F;  ///< m
  float row_scale = 1.0F;    ///< s, above 0
};

/// The smallest q, with its z, for which every weight in [low, high] * factor lies within half a
/// step of a level, as parameter bytes; q = 1 and z = 0 for a group of zeros.
void two_level_params(const TwoLevelRow& row, const float* low, const float* high, size_t groups,
                      float factor, uint8_t* params) noexcept;

/// Levels of two_level parameter bytes: step = s q, base = s (m z - 2^(bits - 1) q).
void two_level_levels(const TwoLevelRow& row, const uint8_t* params, size_t groups, float* step,
                      float* base) noexcept;

}  // namespace arrow_quant
