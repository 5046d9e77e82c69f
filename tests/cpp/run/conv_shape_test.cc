// Shapes of convolutions that cannot be are refused before anything is computed from them.
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "arrow_quant/conv.h"
#include "run/packed_layer.h"
#include "support/expect_error.h"

namespace arrow_quant {
namespace {

using testing::PackedLayer;

constexpr size_t kHuge = size_t{1} << 62;
constexpr size_t kMost = std::numeric_limits<size_t>::max();

ConvShape sound() { return {1, 4, 6, {3, 3}, {3, 3}, {1, 1}, {1, 1}, {1, 1}}; }

/// What makes a sound shape impossible.
const std::vector<std::function<void(ConvShape&)>>& mistakes() {
  static const std::vector<std::function<void(ConvShape&)>> all = {
      [](ConvShape& s) { s.stride[0] = 0; },
      [](ConvShape& s) { s.stride[1] = 0; },
      [](ConvShape& s) { s.kernel[0] = 0; },
      [](ConvShape& s) { s.kernel[1] = 0; },
      [](ConvShape& s) { s.dilation[0] = 0; },
      [](ConvShape& s) { s.kernel = {kHuge, 8}; },
      [](ConvShape& s) { s.kernel = {size_t{1} << 32, size_t{1} << 32}; },
      [](ConvShape& s) { s.channels = kHuge; },
      [](ConvShape& s) { s.channels = kMost; },
      [](ConvShape& s) { s.outputs = kMost; },
      [](ConvShape& s) { s.padding[0] = kMost / 2 + 2; },
      [](ConvShape& s) { s.dilation[1] = kMost / 2 + 2; },
      [](ConvShape& s) { s.size = {size_t{1} << 32, size_t{1} << 32}; },
      [](ConvShape& s) { s.batch = kHuge; },
  };
  return all;
}

TEST(ConvShapes, ThatCannotBeAreRefused) {
  EXPECT_NO_THROW(sound().validate());
  for (size_t i = 0; i < mistakes().size(); ++i) {
    ConvShape shape = sound();
    mistakes()[i](shape);
    SCOPED_TRACE(i);
    testing::expect_error(ErrorCode::kConfiguration, {}, [&] { shape.validate(); });
    testing::expect_error(ErrorCode::kConfiguration, {}, [&] { (void)shape.output_size(); });
    testing::expect_error(ErrorCode::kConfiguration, {}, [&] { (void)conv_panels_bytes(shape); });
  }
}

TEST(ConvShapes, ThatCannotBeNeverReachAKernel) {
  const PackedLayer layer({8, 64, ParamEncoding::kRow, Method::kRtn}, 6, 36);
  for (size_t i = 0; i < mistakes().size(); ++i) {
    ConvShape shape = sound();
    mistakes()[i](shape);
    SCOPED_TRACE(i);
    testing::expect_error(ErrorCode::kConfiguration, {},
                          [&] { conv2d(layer.weight, {.shape = shape}); });
    testing::expect_error(ErrorCode::kConfiguration, {},
                          [&] { conv2d(ConvPanels{}, {.shape = shape}); });
    testing::expect_error(ErrorCode::kConfiguration, {},
                          [&] { make_conv_panels(layer.weight, shape, 1, {}); });
  }
}

}  // namespace
}  // namespace arrow_quant
