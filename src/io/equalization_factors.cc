#include "io/equalization_factors.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

namespace arrow_quant {
namespace {

constexpr int kSteps = 8;  // in a doubling
constexpr int kMost = 12 * kSteps;
constexpr int kMiddle = 128;  // the byte of a factor of 1

// 2^(i/8), rounded to f32: exp2 differs between libraries.
constexpr std::array<float, kSteps> kRoots = {1.0F,         1.090507733F, 1.189207115F,
                                              1.296839555F, 1.414213562F, 1.542210825F,
                                              1.681792831F, 1.834008086F};

float factor_of(int step) noexcept {
  const int whole = (step + kMost) / kSteps - kMost / kSteps;
  return std::ldexp(kRoots[static_cast<size_t>(step - whole * kSteps)], whole);
}

int step_of(float factor) noexcept {
  const double step = std::round(kSteps * std::log2(static_cast<double>(factor)));
  return static_cast<int>(std::clamp<double>(step, -kMost, kMost));
}

}  // namespace

float byte_factor(float factor) noexcept { return factor_of(step_of(factor)); }

std::vector<uint8_t> pack_factors(std::span<const float> factors) {
  const auto fits = [](float f) { return std::isnormal(f) && f > 0 && byte_factor(f) == f; };
  std::vector<uint8_t> bytes;
  if (std::ranges::all_of(factors, fits)) {
    for (const float factor : factors) {
      bytes.push_back(static_cast<uint8_t>(step_of(factor) + kMiddle));
    }
    return bytes;
  }
  bytes.resize(factors.size_bytes());
  std::memcpy(bytes.data(), factors.data(), bytes.size());
  return bytes;
}

std::optional<std::vector<float>> unpack_factors(std::span<const uint8_t> bytes,
                                                 uint64_t channels) {
  std::vector<float> factors;
  if (bytes.size() == channels) {
    for (const uint8_t byte : bytes) {
      const int step = int{byte} - kMiddle;
      if (step < -kMost || step > kMost) return std::nullopt;
      factors.push_back(factor_of(step));
    }
    return factors;
  }
  if (channels == 0 || bytes.size() / sizeof(float) != channels ||
      bytes.size() % sizeof(float) != 0) {
    return std::nullopt;
  }
  factors.resize(channels);
  std::memcpy(factors.data(), bytes.data(), bytes.size());
  const auto sound = [](float f) { return std::isnormal(f) && f > 0; };
  if (!std::ranges::all_of(factors, sound)) return std::nullopt;
  return factors;
}

}  // namespace arrow_quant
