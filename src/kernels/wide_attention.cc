#include "kernels/wide_attention.h"

#include <limits>

#include "kernels/isa.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/wide_attention.cc"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/highway.h"

#include "kernels/exp2.h"
#include "kernels/store_floats.h"

HWY_BEFORE_NAMESPACE();
namespace arrow_quant {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, kWideBlock>;
using VF = hn::Vec<DF>;
constexpr size_t kLanes = hn::MaxLanes(DF());
// Accumulators of a tile: queries times vectors, as many as the registers hold beside one vector of
// the other factor each.
constexpr size_t kTileQueries = kLanes == 16 ? 6 : 4;
constexpr size_t kTileVectors = kLanes == 16 ? 4 : 2;

/// Products of f32.
struct Singles {
  using Number = float;
  static constexpr size_t kNumbers = 1;
  using Factor = VF;

  static HWY_INLINE Factor load(const float* from) { return hn::LoadU(DF(), from); }
  static HWY_INLINE Factor set(const float* from) { return hn::Set(DF(), *from); }
  static HWY_INLINE VF add_product(Factor a, Factor b, VF sum) { return hn::MulAdd(a, b, sum); }
  /// The weights of a query as factors of values.
  static HWY_INLINE void make_weights(const float*, size_t, float*) {}
};

#if HWY_TARGET == HWY_AVX3
/// Products of pairs of bfloat16, two in a lane.
struct Pairs {
  using Number = uint32_t;
  static constexpr size_t kNumbers = 2;
  using Factor = hn::Vec<hn::RebindToUnsigned<DF>>;

  static HWY_INLINE Factor load(const uint32_t* from) {
    return hn::LoadU(hn::RebindToUnsigned<DF>(), from);
  }
  static HWY_INLINE Factor set(const uint32_t* from) {
    return hn::Set(hn::RebindToUnsigned<DF>(), *from);
  }
  // As assembly, since Highway compiles this target for CPUs without it.
  static HWY_INLINE VF add_product(Factor a, Factor b, VF sum) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum.raw) : "v"(a.raw), "v"(b.raw));
    return sum;
  }
  static HWY_INLINE void make_weights(const float* from, size_t count, uint32_t* to) {
    auto* halves = reinterpret_cast<uint16_t*>(to);
    for (size_t k = 0; k < count; k += kLanes) {
      store_floats(DF(), hn::Load(DF(), from + k), halves + k);
    }
  }
};
#endif

/// scores[kWideQueries][kWideKeys] of the keys of whole tiles.
template <class Product, typename Number>
HWY_INLINE void score(const KeyBlock<Number>& block, const Number* HWY_RESTRICT queries,
                      float* HWY_RESTRICT scores) {
  const DF d;
  const size_t depth = (block.width + Product::kNumbers - 1) / Product::kNumbers;
  for (size_t k = 0; k < block.count; k += kTileVectors * kLanes) {
    for (size_t q = 0; q < kWideQueries; q += kTileQueries) {
      VF sums[kTileQueries][kTileVectors];
      for (auto& row : sums) {
        for (auto& sum : row) sum = hn::Zero(d);
      }
      for (size_t i = 0; i < depth; ++i) {
        typename Product::Factor keys[kTileVectors];
        for (size_t v = 0; v < kTileVectors; ++v) {
          keys[v] = Product::load(block.keys + i * kWideKeys + k + v * kLanes);
        }
        for (size_t r = 0; r < kTileQueries; ++r) {
          const auto x = Product::set(queries + i * kWideQueries + q + r);
          for (size_t v = 0; v < kTileVectors; ++v) {
            sums[r][v] = Product::add_product(x, keys[v], sums[r][v]);
          }
        }
      }
      for (size_t r = 0; r < kTileQueries; ++r) {
        for (size_t v = 0; v < kTileVectors; ++v) {
          hn::Store(sums[r][v], d, scores + (q + r) * kWideKeys + k + v * kLanes);
        }
      }
    }
  }
}

/// scores -> 2^(scores - most) of query q, for `count` keys up to whole vectors; what was gathered
/// before is made relative to the new largest score.
HWY_INLINE void weigh(size_t count, size_t value_width, size_t q, float* HWY_RESTRICT scores,
                      Gathered& gathered) {
  const DF d;
  const size_t whole = (count + kLanes - 1) / kLanes * kLanes;
  const auto lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  if (whole != count) {
    float* last = scores + whole - kLanes;
    const auto there = hn::FirstN(d, count % kLanes);
    hn::Store(hn::IfThenElse(there, hn::Load(d, last), lowest), d, last);
  }
  auto highest = lowest;
  for (size_t k = 0; k < whole; k += kLanes) highest = hn::Max(highest, hn::Load(d, scores + k));
  const float before = gathered.max_score[q];
  const float found = hn::GetLane(hn::MaxOfLanes(d, highest));
  const float max_score = found > before ? found : before;
  const auto shift = hn::Set(d, max_score);
  auto sum = hn::Zero(d);
  for (size_t k = 0; k < whole; k += kLanes) {
    const auto weight = exp2_of_negative(d, hn::Sub(hn::Load(d, scores + k), shift));
    hn::Store(weight, d, scores + k);
    sum = hn::Add(sum, weight);
  }
  gathered.max_score[q] = max_score;
  if (max_score != before) {
    const auto factor = exp2_of_negative(d, hn::Set(d, before - max_score));
    gathered.sums[q] *= hn::GetLane(factor);
    float* out = gathered.out + q * value_width;
    for (size_t i = 0; i < value_width; i += kLanes) {
      hn::StoreU(hn::Mul(hn::LoadU(d, out + i), factor), d, out + i);
    }
  }
  gathered.sums[q] += hn::GetLane(hn::SumOfLanes(d, sum));
}

/// out += weights * values for kTileQueries queries and kVectors vectors of the values.
template <class Product, size_t kVectors, typename Number>
HWY_INLINE void mix(const KeyBlock<Number>& block, const Number* HWY_RESTRICT weights,
                    const Number* HWY_RESTRICT values, float* HWY_RESTRICT out) {
  const DF d;
  VF sums[kTileQueries][kVectors];
  for (size_t r = 0; r < kTileQueries; ++r) {
    for (size_t v = 0; v < kVectors; ++v) {
      sums[r][v] = hn::LoadU(d, out + r * block.value_width + v * kLanes);
    }
  }
  const size_t depth = (block.count + Product::kNumbers - 1) / Product::kNumbers;
  for (size_t k = 0; k < depth; ++k) {
    typename Product::Factor row[kVectors];
    for (size_t v = 0; v < kVectors; ++v) {
      row[v] = Product::load(values + k * block.value_width + v * kLanes);
    }
    for (size_t r = 0; r < kTileQueries; ++r) {
      const auto w = Product::set(weights + r * kWideKeys / Product::kNumbers + k);
      for (size_t v = 0; v < kVectors; ++v) {
        sums[r][v] = Product::add_product(w, row[v], sums[r][v]);
      }
    }
  }
  for (size_t r = 0; r < kTileQueries; ++r) {
    for (size_t v = 0; v < kVectors; ++v) {
      hn::StoreU(sums[r][v], d, out + r * block.value_width + v * kLanes);
    }
  }
}

/// `weights` are the scores themselves if products are of f32.
template <class Product, typename Number>
HWY_INLINE void attend(const KeyBlock<Number>& block, const Number* queries, float* scores,
                       Number* weights, Gathered& gathered) {
  constexpr size_t kRow = kWideKeys / Product::kNumbers;
  score<Product>(block, queries, scores);
  for (size_t q = 0; q < kWideQueries; ++q) {
    weigh(block.count, block.value_width, q, scores + q * kWideKeys, gathered);
    Product::make_weights(scores + q * kWideKeys, block.count, weights + q * kRow);
  }
  for (size_t q = 0; q < kWideQueries; q += kTileQueries) {
    const Number* own = weights + q * kRow;
    float* out = gathered.out + q * block.value_width;
    size_t i = 0;
    for (; i + kTileVectors * kLanes <= block.value_width; i += kTileVectors * kLanes) {
      mix<Product, kTileVectors>(block, own, block.values + i, out + i);
    }
    for (; i < block.value_width; i += kLanes) {
      mix<Product, 1>(block, own, block.values + i, out + i);
    }
  }
}

void AttendSingles(const KeyBlock<float>& block, const float* queries, Gathered& gathered) {
  HWY_ALIGN float scores[kWideQueries * kWideKeys];
  attend<Singles>(block, queries, scores, scores, gathered);
}

#if HWY_TARGET == HWY_AVX3
void AttendPairs(const KeyBlock<uint32_t>& block, const uint32_t* queries, Gathered& gathered) {
  HWY_ALIGN float scores[kWideQueries * kWideKeys];
  HWY_ALIGN uint32_t weights[kWideQueries * kWideKeys / 2];
  attend<Pairs>(block, queries, scores, weights, gathered);
}

AttendBlock<uint32_t> PairsKernel() { return &AttendPairs; }
#else
AttendBlock<uint32_t> PairsKernel() { return nullptr; }
#endif

AttendBlock<float> SinglesKernel() { return &AttendSingles; }

}  // namespace HWY_NAMESPACE
}  // namespace arrow_quant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace arrow_quant {
HWY_EXPORT(SinglesKernel);
HWY_EXPORT(PairsKernel);

AttendBlock<float> attend_singles() noexcept { return ARROW_QUANT_DISPATCH(SinglesKernel)(); }

AttendBlock<uint32_t> attend_pairs() noexcept {
  return has_bf16_products() ? ARROW_QUANT_DISPATCH(PairsKernel)() : nullptr;
}

}  // namespace arrow_quant
#endif  // HWY_ONCE
