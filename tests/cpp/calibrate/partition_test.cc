#include "calibrate/partition.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace arrow_quant {
namespace {

double total(const std::vector<size_t>& begins, size_t points,
             const std::function<double(size_t, size_t)>& cost) {
  double sum = 0;
  for (size_t i = 0; i < begins.size(); ++i) {
    sum += cost(begins[i], i + 1 < begins.size() ? begins[i + 1] : points);
  }
  return sum;
}

/// The least sum over all partitions into at most `most` runs, one bit mask of cuts after the
/// other.
double least_by_trial(size_t points, size_t most,
                      const std::function<double(size_t, size_t)>& cost) {
  double least = HUGE_VAL;
  for (unsigned cuts = 0; cuts < 1U << (points - 1); ++cuts) {
    std::vector<size_t> begins = {0};
    for (size_t i = 1; i < points; ++i) {
      if ((cuts >> (i - 1) & 1) != 0) begins.push_back(i);
    }
    if (begins.size() <= most) least = std::min(least, total(begins, points, cost));
  }
  return least;
}

TEST(Partition, IsTheBestOfAllPartitions) {
  std::mt19937 random(5);
  for (size_t points = 1; points <= 10; ++points) {
    std::vector<double> range(points);
    for (double& value : range) value = static_cast<double>(random() % 1000);
    const auto cost = [&](size_t begin, size_t end) {
      const double top = *std::max_element(range.begin() + static_cast<ptrdiff_t>(begin),
                                           range.begin() + static_cast<ptrdiff_t>(end));
      return top * top * static_cast<double>(end - begin);
    };
    for (size_t most = 1; most <= points + 2; ++most) {
      const std::vector<size_t> begins = best_partition(points, most, cost);
      ASSERT_EQ(begins[0], 0U);
      ASSERT_LE(begins.size(), most);
      ASSERT_TRUE(std::ranges::is_sorted(begins));
      EXPECT_EQ(total(begins, points, cost), least_by_trial(points, most, cost))
          << points << " points, at most " << most << " runs";
    }
  }
}

TEST(Partition, HasNoMoreRunsThanPay) {
  const auto constant = [](size_t begin, size_t end) { return static_cast<double>(end - begin); };
  EXPECT_EQ(best_partition(20, 10, constant).size(), 1U);
  const auto step = [](size_t begin, size_t end) { return begin < 7 && end > 7 ? 1.0 : 0.0; };
  EXPECT_EQ(best_partition(20, 10, step), (std::vector<size_t>{0, 7}));
}

}  // namespace
}  // namespace arrow_quant
