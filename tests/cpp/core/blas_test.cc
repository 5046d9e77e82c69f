#include "core/blas.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <thread>
#include <vector>

namespace arrow_quant {
namespace {

std::vector<float> random_values(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& v : values) v = normal(random);
  return values;
}

/// x^T x + n I, full, for x[2n][n].
std::vector<float> positive_definite(size_t n) {
  const std::vector<float> x = random_values(2 * n * n, 3);
  std::vector<float> a(n * n, 0.0F);
  blas::gemm(n, n, 2 * n, 1.0F, {x.data(), n, blas::Op::kTransposed}, {x.data(), n}, 0.0F, a.data(),
             n);
  for (size_t i = 0; i < n; ++i) a[i * n + i] += static_cast<float>(n);
  return a;
}

TEST(Blas, GemmMultipliesRowMajorMatricesWithStrides) {
  const size_t m = 5, n = 7, k = 3, stride = 9;
  const std::vector<float> a = random_values(k * stride, 1), b = random_values(n * stride, 2);
  std::vector<float> c(m * stride, 2.0F);
  blas::gemm(m, n, k, 0.5F, {a.data(), stride, blas::Op::kTransposed},
             {b.data(), stride, blas::Op::kTransposed}, -1.0F, c.data(), stride);
  for (size_t i = 0; i < m; ++i) {
    for (size_t j = 0; j < n; ++j) {
      double sum = 0;
      for (size_t p = 0; p < k; ++p) {
        sum += double{a[p * stride + i]} * double{b[j * stride + p]};
      }
      EXPECT_NEAR(c[i * stride + j], 0.5 * sum - 2.0, 1e-5);
    }
    EXPECT_EQ(c[i * stride + n], 2.0F);
  }
}

TEST(Blas, AddGramAddsToTheUpperTriangleOnly) {
  const size_t n = 6, k = 10;
  const std::vector<float> x = random_values(k * n, 4);
  std::vector<float> c(n * n, 1.0F);
  blas::add_gram(n, k, 2.0F, x.data(), n, c.data(), n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      double sum = 0;
      for (size_t p = 0; p < k; ++p) sum += double{x[p * n + i]} * double{x[p * n + j]};
      EXPECT_NEAR(c[i * n + j], j < i ? 1.0 : 1.0 + 2.0 * sum, 1e-4) << i << ", " << j;
    }
  }
}

TEST(Blas, CholeskyAndInverseGiveTheLowerFactorAndItsInverse) {
  const size_t n = 40;
  const std::vector<float> a = positive_definite(n);
  std::vector<float> lower = a;
  ASSERT_TRUE(blas::cholesky(n, lower.data(), n));
  std::vector<float> inverse = lower;
  blas::invert_lower(n, inverse.data(), n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j <= i; ++j) {
      double product = 0, identity = 0;
      for (size_t k = 0; k <= j; ++k) product += double{lower[i * n + k]} * lower[j * n + k];
      for (size_t k = j; k <= i; ++k) identity += double{inverse[i * n + k]} * lower[k * n + j];
      EXPECT_NEAR(product, a[i * n + j], 1e-3);
      EXPECT_NEAR(identity, i == j ? 1.0 : 0.0, 1e-4);
    }
  }
}

TEST(Blas, SolvesWithTheTransposedLowerTriangleOnTheRight) {
  const size_t m = 4, n = 20;
  std::vector<float> lower = positive_definite(n);
  ASSERT_TRUE(blas::cholesky(n, lower.data(), n));
  const std::vector<float> b = random_values(m * n, 5);
  std::vector<float> x = b;
  blas::solve_right_transposed(m, n, lower.data(), n, x.data(), n);
  for (size_t i = 0; i < m; ++i) {
    for (size_t j = 0; j < n; ++j) {
      double sum = 0;
      for (size_t k = 0; k <= j; ++k) sum += double{x[i * n + k]} * lower[j * n + k];
      EXPECT_NEAR(sum, b[i * n + j], 1e-4);
    }
  }
}

TEST(Blas, CholeskyRefusesWhatIsNotPositiveDefinite) {
  std::vector<float> a = {1.0F, 0.0F, 2.0F, 1.0F};
  EXPECT_FALSE(blas::cholesky(2, a.data(), 2));
  a = {std::nanf(""), 0.0F, 0.0F, 1.0F};
  EXPECT_FALSE(blas::cholesky(2, a.data(), 2));
}

TEST(Blas, GivesTheSameBitsFromManyThreadsAtOnce) {
  const blas::Serial serial;
  const size_t n = 200;
  const std::vector<float> a = random_values(n * n, 6), b = random_values(n * n, 7);
  std::vector<std::vector<float>> results(4, std::vector<float>(n * n));
  std::vector<std::thread> threads;
  for (auto& c : results) {
    threads.emplace_back([&] {
      for (int repeat = 0; repeat < 20; ++repeat) {
        blas::gemm(n, n, n, 1.0F, {a.data(), n}, {b.data(), n}, 0.0F, c.data(), n);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& c : results) EXPECT_EQ(c, results[0]);
}

}  // namespace
}  // namespace arrow_quant
