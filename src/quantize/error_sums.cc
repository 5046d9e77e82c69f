#include "quantize/error_sums.h"

#include <array>

namespace arrow_quant {

ErrorSums error_sums(std::span<const float> original, std::span<const float> restored) noexcept {
  constexpr size_t kLanes = 8;  // independent sums that the compiler keeps in vector registers
  std::array<double, kLanes> ww{};
  std::array<double, kLanes> vv{};
  std::array<double, kLanes> wv{};
  std::array<double, kLanes> err{};
  const auto add = [&](size_t lane, double w, double v) {
    ww[lane] += w * w;
    vv[lane] += v * v;
    wv[lane] += w * v;
    err[lane] += (w - v) * (w - v);
  };
  size_t i = 0;
  for (; i + kLanes <= original.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) add(lane, original[i + lane], restored[i + lane]);
  }
  for (; i < original.size(); ++i) add(0, original[i], restored[i]);
  ErrorSums sums{.count = original.size()};
  for (size_t lane = 0; lane < kLanes; ++lane) {
    sums.add({.ww = ww[lane], .vv = vv[lane], .wv = wv[lane], .err = err[lane]});
  }
  return sums;
}

}  // namespace arrow_quant
