// Equalization (smoothing) scales s of a layer's input channels: W diag(s) and diag(1/s) x instead
// of W and x. The layer is the same function, but other numbers are rounded. Pure functions.
//
// With a_j the range of channel j over time and w_j that of its weights,
//   s_j = a_j^alpha / w_j^(1 - alpha)                       (SmoothQuant, arXiv 2211.10438, eq. 4;
// DiTAS, arXiv 2409.07756), divided by the geometric mean so that weights keep their magnitude.
// With roots of mean squares in place of ranges, alpha = 1/2 minimises the output error of a group:
// the squared step is proportional to sum_j s_j^2 w_j^2 and the output error to that times
// sum_j a_j^2 / s_j^2. The product has its minimum where s_j^2 w_j^2 and a_j^2 / s_j^2 are
// proportional (Cauchy and Schwarz).
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

namespace arrow_quant {

/// How large each channel is.
struct ChannelSizes {
  std::vector<float> largest;
  std::vector<float> root_mean_square;
};

/// How the ranges of different times become one.
enum class Pooling : unsigned char {
  kMax,       ///< the largest (DiTAS)
  kSpearman,  ///< mean weighted by softmax(-rank correlation with w) (PTQ4DiT, arXiv 2405.16005)
  kEma,       ///< exponential moving average in the order of sampling (ViDiT-Q, arXiv 2406.02540)
  kEnergy,    ///< root of the mean square over all times, of activations and weights alike
};
inline constexpr std::array kPoolings = {Pooling::kMax, Pooling::kSpearman, Pooling::kEma,
                                         Pooling::kEnergy};

std::string_view to_string(Pooling pooling) noexcept;

/// One range per channel by kMax, kSpearman or kEma from `ranges_by_time`, by rising time, each
/// with one per channel.
std::vector<float> pool_ranges(Pooling pooling, std::span<const std::vector<float>> ranges_by_time,
                               std::span<const float> weight_ranges);

/// The factors for an alpha from 0 to 1. Channels without range or weight get 1. Factors are those
/// that one byte holds (io/equalization_factors.h), within [1/4096, 4096].
std::vector<float> equalization_factors(std::span<const float> ranges,
                                        std::span<const float> weight_ranges, float alpha);

}  // namespace arrow_quant
