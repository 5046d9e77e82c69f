// Attention against double precision.
#include "arrow_quant/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "arrow_quant/error.h"
#include "core/half.h"
#include "kernels/isa.h"
#include "kernels/isa_fixture.h"
#include "run/packed_layer.h"

namespace arrow_quant {
namespace {

using testing::gaussian;

ARROW_QUANT_TEST_EVERY_ISA(Attention);

struct Shape {
  size_t batch, heads, queries, keys, width;
};

/// Random heads, interleaved as a projection leaves them: [batch][tokens][heads][width].
struct Problem {
  explicit Problem(const Shape& s, float size = 1)
      : shape(s),
        q(gaussian(s.batch * s.queries * s.heads * s.width, 1)),
        k(gaussian(s.batch * s.keys * s.heads * s.width, 2)),
        v(gaussian(s.batch * s.keys * s.heads * s.width, 3)),
        out(q.size(), -9.0F) {
    for (float& x : q) x *= size;
  }

  template <typename Numbers>
  Heads<Numbers> view(Numbers data, size_t tokens) const {
    const size_t token = shape.heads * shape.width;
    return {data, tokens * token, shape.width, token};
  }
  AttentionCall call(int threads = 1) {
    return {.queries = view<InputNumbers>(q.data(), shape.queries),
            .keys = view<InputNumbers>(k.data(), shape.keys),
            .values = view<InputNumbers>(v.data(), shape.keys),
            .out = view<OutputNumbers>(out.data(), shape.queries),
            .batch = shape.batch,
            .heads = shape.heads,
            .query_count = shape.queries,
            .key_count = shape.keys,
            .width = shape.width,
            .scale = 0.3F,
            .threads = threads};
  }

  Shape shape;
  std::vector<float> q, k, v, out;
};

/// Compares one query of one head with double precision.
void expect_close(const AttentionCall& call, size_t b, size_t h, size_t t) {
  std::vector<double> p(call.key_count);
  double most = -std::numeric_limits<double>::infinity(), largest = 0, sum = 0;
  for (size_t j = 0; j < call.key_count; ++j) {
    double magnitudes = 0;
    for (size_t i = 0; i < call.width; ++i) {
      const double part = static_cast<double>(call.queries.at(b, h, t).f32[i]) *
                          static_cast<double>(call.keys.at(b, h, j).f32[i]) *
                          static_cast<double>(call.scale);
      p[j] += part;
      magnitudes += std::abs(part);
    }
    most = std::max(most, p[j]);
    largest = std::max(largest, call.width <= 16 ? std::abs(p[j]) : magnitudes);
  }
  for (double& x : p) sum += x = std::exp(x - most);
  for (size_t i = 0; i < call.width; ++i) {
    double value = 0, size = 0;
    for (size_t j = 0; j < call.key_count; ++j) {
      const double part = p[j] / sum * static_cast<double>(call.values.at(b, h, j).f32[i]);
      value += part;
      size += std::abs(part);
    }
    ASSERT_NEAR(call.out.at(b, h, t).f32[i], value, (1e-6 + 2.5e-7 * largest) * size + 1e-30)
        << "query " << t << " of " << call.query_count << ", " << call.key_count
        << " keys of width " << call.width;
  }
}

constexpr Shape kShapes[] = {{1, 1, 1, 1, 1},     {2, 3, 5, 31, 8},    {1, 2, 4, 32, 8},
                             {1, 1, 7, 33, 5},    {2, 1, 130, 64, 3},  {1, 2, 9, 200, 16},
                             {1, 1, 3, 100, 15},  {1, 1, 6, 1000, 7},  {1, 1, 1, 1, 17},
                             {2, 3, 30, 257, 64}, {1, 2, 97, 128, 40}, {1, 1, 13, 65, 72},
                             {1, 1, 2, 300, 256}, {1, 1, 12, 127, 80}};

TEST_P(Attention, AgreesWithDoublePrecision) {
  for (const Shape& shape : kShapes) {
    for (const float size : {1.0F, 30.0F}) {  // even weights, and one key that takes all
      Problem problem(shape, size);
      const AttentionCall call = problem.call();
      attention(call);
      for (size_t b = 0; b < shape.batch; ++b) {
        for (size_t h = 0; h < shape.heads; ++h) {
          for (size_t t = 0; t < shape.queries; ++t) expect_close(call, b, h, t);
        }
      }
    }
  }
}

TEST_P(Attention, ABadNumberSpoilsWhatItTouchesAndNothingElse) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Problem problem({1, 2, 6, 40, 8});
    problem.q[2 * 16 + 3] = bad;  // query 2 of head 0
    AttentionCall call = problem.call();
    attention(call);
    for (size_t t = 0; t < 6; ++t) {
      EXPECT_EQ(std::isfinite(call.out.at(0, 0, t).f32[0]), t != 2);
      EXPECT_TRUE(std::isfinite(call.out.at(0, 1, t).f32[0]));
    }
    Problem other({1, 2, 6, 40, 8});
    other.k[39 * 16 + 8] = bad;                                     // the last key of head 1
    other.v[7 * 16 + 5] = std::numeric_limits<float>::quiet_NaN();  // a value of head 0
    call = other.call();
    attention(call);
    for (size_t t = 0; t < 6; ++t) {
      EXPECT_TRUE(std::isnan(call.out.at(0, 1, t).f32[0]));
      EXPECT_TRUE(std::isnan(call.out.at(0, 0, t).f32[5]));
      EXPECT_TRUE(std::isfinite(call.out.at(0, 0, t).f32[4]));
    }
  }
}

TEST_P(Attention, ABadNumberInAWideHeadSpoilsWhatItTouchesAndNothingElse) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Problem problem({1, 3, 6, 140, 40});
  problem.q[2 * 120 + 3] = nan;        // query 2 of head 0
  problem.k[139 * 120 + 50] = nan;     // the last key of head 1
  problem.v[7 * 120 + 80 + 5] = -nan;  // a value of head 2
  const AttentionCall call = problem.call();
  attention(call);
  for (size_t t = 0; t < 6; ++t) {
    for (size_t i = 0; i < 40; ++i) {
      EXPECT_EQ(std::isfinite(call.out.at(0, 0, t).f32[i]), t != 2);
      EXPECT_TRUE(std::isnan(call.out.at(0, 1, t).f32[i]));
      EXPECT_EQ(std::isfinite(call.out.at(0, 2, t).f32[i]), i != 5);
    }
  }
}

TEST_P(Attention, HalfPrecisionIsReadAndWrittenRounded) {
  for (const size_t width : {8, 64}) {
    Problem problem({1, 2, 5, 33, width});
    const auto round = [](std::vector<float>& values) {
      std::vector<uint16_t> bits;
      for (float& v : values) v = bf16_to_f32(bits.emplace_back(f32_to_bf16(v)));
      return bits;
    };
    const auto q = round(problem.q), k = round(problem.k), v = round(problem.v);
    std::vector<uint16_t> out(problem.out.size());
    attention(problem.call());
    AttentionCall call = problem.call();
    call.queries.data = q.data(), call.keys.data = k.data(), call.values.data = v.data();
    call.out.data = out.data();
    attention(call);
    for (size_t i = 0; i < out.size(); ++i) {
      if (width == 8 || !has_bf16_products()) {
        EXPECT_EQ(out[i], f32_to_bf16(problem.out[i]));
      } else {
        // Weights and the scaled queries are rounded to 8 bits too; values are about 1.
        EXPECT_NEAR(bf16_to_f32(out[i]), problem.out[i], 0x1p-7);
      }
    }
  }
}

TEST(AttentionCalls, ThreadsDoNotChangeABit) {
  for (const size_t width : {8, 64}) {
    Problem one({2, 3, 300, 77, width}), many({2, 3, 300, 77, width});
    attention(one.call());
    attention(many.call(5));
    EXPECT_EQ(one.out, many.out);
  }
}

TEST(AttentionCalls, RefusesWideHeadsAndNoKeys) {
  EXPECT_THROW(attention({.batch = 1, .heads = 1, .key_count = 1, .width = kWidestHead + 1}),
               Error);
  EXPECT_THROW(attention({.batch = 1, .heads = 1, .key_count = 0, .width = 8}), Error);
  EXPECT_NO_THROW(attention({.batch = 0, .heads = 1, .key_count = 1, .width = 8}));
}

}  // namespace
}  // namespace arrow_quant
