#include "arrow_quant/conv.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "arrow_quant/error.h"
#include "core/checked.h"
#include "core/parallel.h"
#include "kernels/epilogue.h"
#include "kernels/gemm_int8.h"
#include "kernels/isa.h"
#include "run/integer_image.h"
#include "run/packed_view.h"
#include "run/panel_source.h"
#include "run/reused_buffer.h"

namespace arrow_quant {
namespace {

constexpr size_t kPixelsPerTask = 384;

/// A product or sum of sizes that must not wrap; tensors' bytes are counted in signed numbers too.
class Size {
 public:
  explicit Size(uint64_t value) : value_(value) {}

  Size times(uint64_t factor) const { return checked(checked_mul(value_, factor)); }
  Size plus(uint64_t other) const { return checked(checked_add(value_, other)); }
  uint64_t value() const noexcept { return value_; }

 private:
  static Size checked(std::optional<uint64_t> value) {
    if (value && *value <= std::numeric_limits<int64_t>::max()) return Size(*value);
    throw Error(ErrorCode::kConfiguration, "the sizes of a convolution overflow",
                {.hint = "Check its channels, kernel, padding and dilation."});
  }

  uint64_t value_;
};

void check_positive(const std::array<size_t, 2>& both, const char* what) {
  if (both[0] != 0 && both[1] != 0) return;
  throw Error(ErrorCode::kConfiguration,
              "Invalid " + std::string(what) + " of a convolution: " + std::to_string(both[0]) +
                  " x " + std::to_string(both[1]) + ". Must be at least 1.");
}

/// From the first to past the last pixel that a kernel reads.
Size reach_of(const ConvShape& shape, size_t d) {
  return Size(shape.dilation[d]).times(shape.kernel[d] - 1).plus(1);
}

Size padded(const ConvShape& shape, size_t d) {
  return Size(shape.padding[d]).times(2).plus(shape.size[d]);
}

size_t quads_of(const ConvShape& shape) noexcept { return (shape.channels + 3) / 4; }

size_t panel_size(const ConvShape& shape) noexcept {
  return panel_bytes(4 * quads_of(shape) * shape.taps());
}

void check(const ConvShape& shape) {
  shape.validate();
  if (shape.channels * shape.taps() > kMaxReduction) {
    throw Error(ErrorCode::kConfiguration,
                "a convolution of " + std::to_string(shape.channels * shape.taps()) +
                    " inputs: expected at most " + std::to_string(kMaxReduction),
                {.hint = "Run this layer on its dequantized weight."});
  }
}

void check(const PackedWeightView& weight, const ConvShape& shape) {
  check(shape);
  check_view(weight);
  check_size(weight.rows, shape.outputs, "rows of the weight");
  check_size(weight.cols, shape.channels * shape.taps(), "columns of the weight");
  if (weight.spec.param_encoding == ParamEncoding::kFp16) {
    throw Error(ErrorCode::kConfiguration, "fp16 parameters do not expand to int8",
                {.hint = "Use two_level, residual_binary or row parameters."});
  }
}

/// Expand outputs from `first` on, taps outermost, into a panel.
void make_panel(const PackedWeightView& weight, const ConvShape& shape, size_t first,
                PanelScratch& scratch, uint8_t* panel) {
  const size_t outputs = std::min(kPanelColumns, weight.rows - first);
  const size_t taps = shape.taps(), channels = 4 * quads_of(shape);
  const int8_t* rows = expand_rows(weight, {first, 0, weight.cols}, scratch);
  ReusedBuffer<int8_t> by_tap(outputs * taps * channels);
  for (size_t o = 0; o < outputs; ++o) {
    const int8_t* from = rows + o * weight.cols;
    int8_t* to = by_tap.data() + o * taps * channels;
    // Only what fills channels up to whole quads is not written below.
    if (channels != shape.channels) std::fill_n(to, taps * channels, int8_t{0});
    for (size_t c = 0; c < shape.channels; ++c) {
      for (size_t t = 0; t < taps; ++t) to[t * channels + c] = from[c * taps + t];
    }
  }
  fill_panel(by_tap.data(), taps * channels, outputs, taps * channels, panel);
}

/// Output pixels [first, first + count) by one panel.
void run_task(const ConvCall& call, const IntegerImage& image, const uint8_t* panel,
              size_t first_output, size_t first, size_t count, const float* row_scales) {
  const ConvShape& shape = call.shape;
  const auto planes = static_cast<size_t>(image.planes());
  std::vector<const int8_t*> rows(count * planes);
  auto row = rows.begin();
  for (size_t n = 0; n < count; ++n) {
    for (int p = 0; p < image.planes(); ++p) *row++ = image.first_tap(first + n, p);
  }
  ReusedBuffer<int32_t> sums(count * planes * kPanelColumns);
  multiply_panel({rows.data(), rows.size(), image.taps(), image.quads()}, panel, false,
                 sums.data());
  finish_sums({sums.data(), image.sums() + first, count, image.planes()}, row_scales + first_output,
              call.bias == nullptr ? nullptr : call.bias + first_output,
              std::min(kPanelColumns, shape.outputs - first_output),
              call.y.from(first * shape.outputs + first_output), shape.outputs);
}

}  // namespace

void ConvShape::validate() const {
  check_positive(kernel, "kernel");
  check_positive(stride, "stride");
  check_positive(dilation, "dilation");
  (void)reach_of(*this, 0).times(reach_of(*this, 1).value());
  const uint64_t whole = Size(channels).plus(3).value();  // channels in whole quads, at most
  const Size columns = Size(whole).times(kernel[0]).times(kernel[1]);
  (void)columns.times(Size(outputs).plus(kPanelColumns).value()).times(2);  // of the panels
  // Integers of three planes and sums of four bytes, as IntegerImage keeps them, and the output.
  const Size pixels = padded(*this, 0).times(padded(*this, 1).value()).times(batch);
  (void)pixels.times(whole).times(3 * sizeof(int32_t));
  (void)pixels.times(outputs).times(sizeof(float));
}

std::array<size_t, 2> ConvShape::output_size() const {
  validate();
  std::array<size_t, 2> out{};
  for (size_t d = 0; d < 2; ++d) {
    const size_t reach = reach_of(*this, d).value(), room = padded(*this, d).value();
    out[d] = room < reach ? 0 : (room - reach) / stride[d] + 1;
  }
  return out;
}

size_t conv_panels_bytes(const ConvShape& shape) {
  shape.validate();
  return (shape.outputs + kPanelColumns - 1) / kPanelColumns * panel_size(shape);
}

void make_conv_panels(const PackedWeightView& weight, const ConvShape& shape, int threads,
                      std::span<uint8_t> panels) {
  check_isa_override();
  check(weight, shape);
  check_size(panels.size(), conv_panels_bytes(shape), "panels");
  const size_t count = (shape.outputs + kPanelColumns - 1) / kPanelColumns;
  parallel_blocks(threads, count, [&](size_t i) {
    thread_local PanelScratch scratch;
    make_panel(weight, shape, i * kPanelColumns, scratch, panels.data() + i * panel_size(shape));
  });
}

void conv2d(const PackedWeightView& weight, const ConvCall& call) {
  check(weight, call.shape);
  const size_t bytes = conv_panels_bytes(call.shape);
  ReusedBuffer<uint8_t> panels(bytes);  // all of it is written next
  make_conv_panels(weight, call.shape, call.threads, {panels.data(), bytes});
  conv2d({{panels.data(), bytes}, row_scales_of(weight)}, call);
}

void conv2d(const ConvPanels& weight, const ConvCall& call) {
  check_isa_override();
  const ConvShape& shape = call.shape;
  check(shape);
  check_size(weight.panels.size(), conv_panels_bytes(shape), "panels");
  check_size(weight.row_scales.size(), shape.outputs, "row scales");
  const auto out = shape.output_size();
  const size_t pixels = shape.batch * out[0] * out[1];
  if (pixels == 0 || shape.outputs == 0) return;
  const IntegerImage image(call);
  const size_t blocks = (pixels + kPixelsPerTask - 1) / kPixelsPerTask;
  const size_t panels = (shape.outputs + kPanelColumns - 1) / kPanelColumns;
  parallel_blocks(call.threads, panels * blocks, [&](size_t i) {
    const size_t panel = i / blocks, first = i % blocks * kPixelsPerTask;
    run_task(call, image, weight.panels.data() + panel * panel_size(shape), panel * kPanelColumns,
             first, std::min(kPixelsPerTask, pixels - first), weight.row_scales.data());
  });
}

}  // namespace arrow_quant
