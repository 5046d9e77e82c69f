#include "arrow_quant/linear.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "arrow_quant/error.h"
#include "codec/spec.h"
#include "core/parallel.h"
#include "kernels/activations.h"
#include "kernels/convert.h"
#include "kernels/epilogue.h"
#include "kernels/gemm_int8.h"
#include "kernels/isa.h"
#include "run/integer_tokens.h"
#include "run/packed_view.h"
#include "run/panel_source.h"
#include "run/reused_buffer.h"

namespace arrow_quant {
namespace {

// Tokens that share a panel once it is expanded: enough to make the expansion cheap, few enough
// that their sums stay in the second-level cache.
constexpr size_t kTokensPerTask = 512;

// Up to so many tokens, codes are multiplied as they come from memory, without expanding them.
constexpr size_t kFewTokens = 4;
constexpr size_t kRowsPerTask = 64;

void check(size_t inputs, const LinearCall& call) {
  if (call.planes < 1 || call.planes > kMaxPlanes) {
    throw Error(ErrorCode::kConfiguration,
                "Invalid planes: " + std::to_string(call.planes) + ". Must be 1, 2, or 3.");
  }
  if (inputs > kMaxReduction) {
    throw Error(ErrorCode::kConfiguration,
                "a layer of " + std::to_string(inputs) + " inputs: expected at most " +
                    std::to_string(kMaxReduction),
                {.hint = "Run this layer on its dequantized weight."});
  }
}

/// Tokens [first, first + count) by one panel of outputs.
struct Task {
  size_t first_output = 0, outputs = 0;
  size_t first = 0, count = 0;
};

/// The inputs [begin, begin + count) of a task's tokens times a panel of them.
void multiply(const IntegerTokens& x, const Task& task, size_t begin, size_t count,
              const uint8_t* panel, bool accumulate, int32_t* sums) {
  const auto offset = static_cast<ptrdiff_t>(begin);
  multiply_panel({x.rows(task.first),
                  task.count * static_cast<size_t>(x.planes()),
                  {&offset, 1},
                  (count + 3) / 4},
                 panel, accumulate, sums);
}

PanelSums sums_of(const IntegerTokens& x, const Task& task, const int32_t* sums) {
  return {sums, x.tokens() + task.first, task.count, x.planes()};
}

void write_row(const float* values, size_t count, const OutputNumbers& y) {
  if (y.f32 != nullptr) {
    std::copy_n(values, count, y.f32);
  } else {
    convert_f32_to_bf16(values, count, y.bf16);
  }
}

template <typename Fn>
void run_tasks(const LinearCall& call, size_t outputs, const Fn& fn) {
  const size_t panels = (outputs + kPanelColumns - 1) / kPanelColumns;
  const size_t blocks = (call.tokens + kTokensPerTask - 1) / kTokensPerTask;
  // All outputs of some tokens before the next ones: weights are often the smaller of the two.
  parallel_blocks(call.threads, panels * blocks, [&](size_t i) {
    const size_t first_output = i % panels * kPanelColumns;
    const size_t first = i / panels * kTokensPerTask;
    fn(Task{first_output, std::min(kPanelColumns, outputs - first_output), first,
            std::min(kTokensPerTask, call.tokens - first)});
  });
}

void finish(const LinearCall& call, const IntegerTokens& x, const Task& task, const int32_t* sums,
            const float* row_scales) {
  finish_sums(sums_of(x, task, sums), row_scales + task.first_output,
              call.bias == nullptr ? nullptr : call.bias + task.first_output, task.outputs,
              call.y.from(task.first * call.y_stride + task.first_output), call.y_stride);
}

void run_integer(const PackedWeightView& weight, const float* row_scales, const LinearCall& call,
                 const IntegerTokens& x, const Task& task) {
  thread_local PanelScratch scratch;
  ReusedBuffer<int32_t> sums(task.count * static_cast<size_t>(x.planes()) * kPanelColumns);
  const size_t length = stretch_length(weight);
  for (size_t begin = 0; begin < weight.cols; begin += length) {
    const size_t count = std::min(length, weight.cols - begin);
    expand_stretch(weight, {task.first_output, begin, count}, scratch);
    multiply(x, task, begin, count, scratch.panel.data(), begin > 0, sums.data());
  }
  finish(call, x, task, sums.data(), row_scales);
}

/// Sums of the activations of one group, in place of those of all inputs.
std::vector<TokenSums> group_tokens(const IntegerTokens& x, const Task& task, size_t begin,
                                    size_t count) {
  std::vector<TokenSums> tokens(x.tokens() + task.first, x.tokens() + task.first + task.count);
  const auto planes = static_cast<size_t>(x.planes());
  for (size_t t = 0; t < task.count; ++t) {
    for (size_t p = 0; p < planes; ++p) {
      tokens[t].sums[p] = sum_bytes(x.rows(task.first + t)[p] + begin, count);
    }
  }
  return tokens;
}

void run_groups(const PackedWeightView& weight, const LinearCall& call, const IntegerTokens& x,
                const Task& task) {
  thread_local PanelScratch scratch;
  ReusedBuffer<int32_t> sums(task.count * static_cast<size_t>(x.planes()) * kPanelColumns);
  std::vector<float> out(task.count * kPanelColumns, 0.0F);
  const size_t length = stretch_length(weight);
  for (size_t begin = 0; begin < weight.cols; begin += length) {
    const size_t count = std::min(length, weight.cols - begin);
    unpack_group(weight, {task.first_output, begin, count}, scratch);
    multiply(x, task, begin, count, scratch.panel.data(), false, sums.data());
    const auto tokens = group_tokens(x, task, begin, count);
    add_group_sums({sums.data(), tokens.data(), task.count, x.planes()}, scratch.scales.data(),
                   scratch.offsets.data(), out.data());
  }
  for (size_t t = 0; t < task.count; ++t) {
    float* own = out.data() + t * kPanelColumns;
    if (call.bias != nullptr) {
      for (size_t c = 0; c < task.outputs; ++c) own[c] += call.bias[task.first_output + c];
    }
    write_row(own, task.outputs, call.y.from((task.first + t) * call.y_stride + task.first_output));
  }
}

bool takes_few_tokens(const PackedWeightView& weight) noexcept {
  const AffineSpec& spec = weight.spec;
  if (spec.param_encoding == ParamEncoding::kRow) return true;
  return spec.param_encoding == ParamEncoding::kTwoLevel &&
         gemv_takes_group(spec.bit_width, codec::weights_per_param(spec));
}

void run_few_tokens(const PackedWeightView& weight, const float* row_scales, const LinearCall& call,
                    const IntegerTokens& x) {
  const bool row = weight.spec.param_encoding == ParamEncoding::kRow;
  const size_t group = row ? 0 : codec::weights_per_param(weight.spec);
  std::vector<ArrangedToken> tokens;
  for (size_t t = 0; t < call.tokens; ++t) {
    tokens.emplace_back(x, t, weight.spec.bit_width, group);
  }
  const size_t tasks = (weight.rows + kRowsPerTask - 1) / kRowsPerTask;
  parallel_blocks(call.threads, tasks, [&](size_t task) {
    const size_t end = std::min<size_t>(weight.rows, (task + 1) * kRowsPerTask);
    for (size_t first = task * kRowsPerTask, next; first < end; first = next) {
      next = std::min<size_t>(end, end_of_chunk(weight, first));
      const PackedRows rows = rows_of(weight, first, next - first);
      const GemvRows gemv{rows.codes,      row ? nullptr : rows.params, rows.rows,
                          rows.cols,       weight.spec.bit_width,       group,
                          rows.offset_unit};
      float sums[kRowsPerTask];
      for (size_t t = 0; t < call.tokens; ++t) {
        gemv_packed(gemv, tokens[t].view(), x.planes(), sums);
        for (size_t r = first; r < next; ++r) {
          const float bias = call.bias == nullptr ? 0.0F : call.bias[r];
          sums[r - first] = sums[r - first] * (x.tokens()[t].scale * row_scales[r]) + bias;
        }
        write_row(sums, next - first, call.y.from(t * call.y_stride + first));
      }
    }
  });
}

}  // namespace

void linear(const PackedWeightView& weight, const LinearCall& call) {
  check_isa_override();
  check(weight.cols, call);
  check_view(weight);
  const IntegerTokens x(call, weight.cols);
  const bool groups = weight.spec.param_encoding == ParamEncoding::kFp16;
  const std::vector<float> row_scales = row_scales_of(weight);
  if (call.tokens <= kFewTokens && takes_few_tokens(weight)) {
    run_few_tokens(weight, row_scales.data(), call, x);
    return;
  }
  run_tasks(call, weight.rows, [&](const Task& task) {
    groups ? run_groups(weight, call, x, task)
           : run_integer(weight, row_scales.data(), call, x, task);
  });
}

void linear(const PanelWeight& weight, const LinearCall& call) {
  check_isa_override();
  check(weight.inputs, call);
  const IntegerTokens x(call, weight.inputs);
  run_tasks(call, weight.outputs, [&](const Task& task) {
    ReusedBuffer<int32_t> sums(task.count * static_cast<size_t>(x.planes()) * kPanelColumns);
    const uint8_t* panel =
        weight.panels + task.first_output / kPanelColumns * panel_bytes(weight.inputs);
    for (size_t begin = 0; begin < weight.inputs; begin += kStretch) {
      const size_t count = std::min(kStretch, weight.inputs - begin);
      multiply(x, task, begin, count, panel + panel_bytes(begin), begin > 0, sums.data());
    }
    finish(call, x, task, sums.data(), weight.row_scales);
  });
}

size_t panels_bytes(size_t outputs, size_t inputs) noexcept {
  return (outputs + kPanelColumns - 1) / kPanelColumns * panel_bytes(inputs);
}

void make_panels(const PackedWeightView& weight, int threads, std::span<uint8_t> panels) {
  check_isa_override();
  if (weight.spec.param_encoding == ParamEncoding::kFp16) {
    throw Error(ErrorCode::kConfiguration, "fp16 parameters do not expand to int8",
                {.hint = "Use two_level, residual_binary or row parameters."});
  }
  check_view(weight);
  check_size(panels.size(), panels_bytes(weight.rows, weight.cols), "panels");
  const size_t count = (weight.rows + kPanelColumns - 1) / kPanelColumns;
  parallel_blocks(threads, count, [&](size_t i) {
    PanelScratch scratch;
    expand_stretch(weight, {i * kPanelColumns, 0, weight.cols}, scratch);
    const size_t size = panel_bytes(weight.cols);
    std::copy_n(scratch.panel.data(), size, panels.data() + i * size);
  });
}

}  // namespace arrow_quant
