// param_encoding "two_level": w = tensor_scale * row_scale * v,
// v = clamp(q * (code - 2^(bits - 1)) + m * z, -127, 127).
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "codec/spec.h"
#include "codec/two_level.h"
#include "core/half.h"
#include "kernels/encode.h"
#include "kernels/rtn.h"
#include "kernels/search.h"
#include "quantize/encodings.h"
#include "quantize/group_batch.h"
#include "quantize/row_scale.h"

namespace arrow_quant {
namespace {

constexpr float kMaxV = codec::two_level::kMaxV;
constexpr float kMaxQ = codec::two_level::kMaxQ;
constexpr float kUp = codec::two_level::kMaxZ, kDown = -codec::two_level::kMinZ;

/// Integer geometry of the encoding.
struct Geometry {
  int bits;
  float unit;   ///< m
  float cells;  ///< 2^bits
  float up;     ///< the weight farthest up that (16, 7) has within half a step of a level, over s
  float down;   ///< the same downwards with (16, -8)
  bool clamps;  ///< whether v can leave [-127, 127]
};

Geometry geometry(int bits, int offset_unit) {
  const float unit = static_cast<float>(offset_unit);
  const float cells = static_cast<float>(1 << bits);
  // The levels of (q, z) are centred at m z - q / 2 and reach q * cells / 2 to either side.
  const float reach = 0.5F * kMaxQ * cells;
  return {bits,
          unit,
          cells,
          std::min(kMaxV, reach + kUp * unit - 0.5F * kMaxQ),
          std::min(kMaxV, reach + kDown * unit + 0.5F * kMaxQ),
          reach + kDown * unit > kMaxV};
}

struct Scratch {
  GroupBatch batch;
  std::vector<float> step, base, scale, error, low, high;
  std::vector<uint8_t> params, row_params;

  void grow(size_t slots) {
    if (step.size() >= slots) return;
    for (auto* buffer : {&step, &base, &scale, &error}) buffer->resize(slots);
    params.resize(slots);
  }
  void grow_row(size_t groups) {
    if (low.size() >= groups) return;
    low.resize(groups);
    high.resize(groups);
  }
};

/// Encode one row with its final parameters.
void encode_row(const Geometry& geo, float factor, float row_scale, const float* weights,
                size_t cols, size_t group, const uint8_t* params, uint8_t* codes, ErrorSums& sums) {
  constexpr size_t kRun = 64;
  std::array<float, kRun> step, base;
  const TwoLevelRow row{geo.bits, geo.unit, row_scale};
  const float limit = geo.clamps ? kMaxV * row_scale : std::numeric_limits<float>::infinity();
  for (size_t begin = 0; begin < cols; begin += kRun * group) {
    const size_t count = std::min(kRun * group, cols - begin);
    two_level_levels(row, params + begin / group, (count + group - 1) / group, step.data(),
                     base.data());
    encode_groups(geo.bits, weights + begin, count, factor, {step.data(), base.data(), group},
                  limit, codes + packed_row_bytes(begin, geo.bits), sums);
  }
}

// ------------------------------ Rounding to nearest

/// The smallest row scale for which every group can be covered (see two_level_params), as stored.
float covering_scale(const Geometry& geo, const float* low, const float* high, size_t groups,
                     float factor) {
  const RangeSummary all = summarize_ranges(low, high, groups, factor);
  // z moves the levels in steps of m, so that up to m / 2 is lost at either end.
  const float wanted = std::max(
      {all.width / (geo.cells * kMaxQ - geo.unit), all.high / geo.up, -all.low / geo.down});
  const float stored = usable_row_scale(wanted);
  if (stored >= wanted || !std::isfinite(stored)) return stored;
  return f16_to_f32(static_cast<uint16_t>(f32_to_f16(stored) + 1));
}

bool rtn_row(const Geometry& geo, float factor, const float* weights, size_t cols, size_t group,
             Scratch& scratch, uint16_t& row_scale, uint8_t* params, uint8_t* codes,
             ErrorSums& sums) {
  const size_t groups = (cols + group - 1) / group;
  scratch.grow_row(groups);
  float* low = scratch.low.data();
  float* high = scratch.high.data();
  group_ranges(weights, cols, group, low, high);
  const float scale = covering_scale(geo, low, high, groups, factor);
  if (!std::isfinite(scale)) return false;
  row_scale = f32_to_f16(scale);
  two_level_params({geo.bits, geo.unit, scale}, low, high, groups, factor, params);
  encode_row(geo, factor, scale, weights, cols, group, params, codes, sums);
  return true;
}

// ------------------------------ Search

/// Search for the row scale of one row: from the largest sensible one downwards.
struct RowSearch {
  float next = 0;  ///< candidate to try next
  float best = 0;  ///< best so far
  double min_error = HUGE_VAL;
  bool open = true;
};

constexpr float kFirstScale = 1.35F;  // times the smallest scale that needs no clipping
constexpr float kScaleRatio = 0.86F;  // from one candidate to the next
constexpr int kMaxScales = 24;

// A row of many groups averages out how the levels of each happen to fall, so a quick look tells
// one scale from another; a row of few groups has to try everything.
constexpr size_t kManyGroups = 8;
constexpr TwoLevelWindow kQuickLook{0, 0, 3};

/// Stop when the error is this many times the least so far.
double hopeless(size_t groups) { return 1.05 + 1.0 / static_cast<double>(groups); }

TwoLevelWindow final_window(int bits) {
  return bits == 2 ? TwoLevelWindow{-2, 2, 3} : TwoLevelWindow{-1, 3, 6};
}

class BatchSearch {
 public:
  BatchSearch(const Geometry& geo, Scratch& scratch) : geo_(geo), scratch_(scratch) {}

  /// Find row scales and parameters of all rows of the batch. Scales are in scratch.scale,
  /// parameters in scratch.params, by slot. Return false when a scale does not fit fp16.
  bool run();

 private:
  float first_scale(size_t row) const;
  void set_scale(size_t row, float scale);
  void evaluate(const TwoLevelWindow& window);
  double row_error(size_t row) const;
  void screen(std::vector<RowSearch>& rows);

  const Geometry& geo_;
  Scratch& scratch_;
};

float BatchSearch::first_scale(size_t row) const {
  const GroupBatch& batch = scratch_.batch;
  const float top = geo_.cells - 1.0F;
  float need = 0;
  for (size_t k = 0; k < batch.groups_per_row(); ++k) {
    const size_t slot = batch.slot(row, k);
    const float step = scratch_.step[slot];
    const float center = scratch_.base[slot] + 0.5F * top * step;
    need = std::max({need, step / kMaxQ, std::abs(center) / (kDown * geo_.unit),
                     batch.high()[slot] / geo_.up, -batch.low()[slot] / geo_.down});
  }
  return need;
}

void BatchSearch::set_scale(size_t row, float scale) {
  const GroupBatch& batch = scratch_.batch;
  for (size_t k = 0; k < batch.groups_per_row(); ++k) {
    scratch_.scale[batch.slot(row, k)] = scale;
  }
}

void BatchSearch::evaluate(const TwoLevelWindow& window) {
  TwoLevelStart start;
  start.bits = geo_.bits;
  start.offset_unit = geo_.unit;
  for (size_t i = 0; i < scratch_.batch.tiles(); ++i) {
    const size_t slot = i * kTileLanes;
    start.row_scale = scratch_.scale.data() + slot;
    start.step = scratch_.step.data() + slot;
    start.base = scratch_.base.data() + slot;
    search_two_level(scratch_.batch.tile(i), start, window, scratch_.params.data() + slot,
                     scratch_.error.data() + slot);
  }
}

double BatchSearch::row_error(size_t row) const {
  double error = 0;
  for (size_t k = 0; k < scratch_.batch.groups_per_row(); ++k) {
    error += static_cast<double>(scratch_.error[scratch_.batch.slot(row, k)]);
  }
  return error;
}

void BatchSearch::screen(std::vector<RowSearch>& rows) {
  const size_t groups = scratch_.batch.groups_per_row();
  const TwoLevelWindow window = groups < kManyGroups ? final_window(geo_.bits) : kQuickLook;
  for (int round = 0; round < kMaxScales; ++round) {
    bool any = false;
    for (size_t r = 0; r < rows.size(); ++r) {
      set_scale(r, usable_row_scale(rows[r].next));
      any |= rows[r].open;
    }
    if (!any) return;
    evaluate(window);
    for (size_t r = 0; r < rows.size(); ++r) {
      RowSearch& row = rows[r];
      if (!row.open) continue;
      const double error = row_error(r);
      if (error < row.min_error) row.min_error = error, row.best = usable_row_scale(row.next);
      row.open = error <= hopeless(groups) * row.min_error && error > 0;
      row.next *= kScaleRatio;
    }
  }
}

bool BatchSearch::run() {
  const GroupBatch& batch = scratch_.batch;
  scratch_.grow(batch.slots());
  for (size_t i = 0; i < batch.tiles(); ++i) {
    search_affine(batch.tile(i), geo_.bits, SearchEffort::kStart,
                  scratch_.step.data() + i * kTileLanes, scratch_.base.data() + i * kTileLanes);
  }
  std::fill_n(scratch_.scale.begin(), batch.slots(), 1.0F);
  std::vector<RowSearch> rows(batch.rows());
  for (size_t r = 0; r < rows.size(); ++r) {
    const float first = first_scale(r);
    if (!std::isfinite(usable_row_scale(kFirstScale * first))) return false;
    rows[r].next = first == 0.0F ? 1.0F : kFirstScale * first;
    rows[r].best = usable_row_scale(rows[r].next);
  }
  screen(rows);
  for (size_t r = 0; r < rows.size(); ++r) set_scale(r, rows[r].best);
  evaluate(final_window(geo_.bits));
  return true;
}

bool search_rows(const Geometry& geo, const AffineSpec& spec, float factor, const RowBlock& block,
                 size_t row_begin, size_t rows, Scratch& scratch, const PackedRowsOut& out,
                 ErrorSums& sums) {
  const size_t group = codec::weights_per_param(spec);
  GroupBatch& batch = scratch.batch;
  batch.load(block, row_begin, rows, group, factor);
  if (!BatchSearch(geo, scratch).run()) return false;
  for (size_t r = 0; r < rows; ++r) {
    const size_t row = row_begin + r;
    uint8_t* params = out.params + row * batch.groups_per_row();
    for (size_t k = 0; k < batch.groups_per_row(); ++k) {
      params[k] = scratch.params[batch.slot(r, k)];
    }
    const float scale = scratch.scale[batch.slot(r, 0)];
    out.row_scales[row] = f32_to_f16(scale);
    encode_row(geo, factor, scale, block.weights + row * block.cols, block.cols, group, params,
               out.codes + row * packed_row_bytes(block.cols, spec.bit_width), sums);
  }
  return true;
}

}  // namespace

bool quantize_two_level(const AffineSpec& spec, float factor, int offset_unit,
                        const RowBlock& block, const PackedRowsOut& out, ErrorSums& sums) {
  static thread_local Scratch scratch;
  const Geometry geo = geometry(spec.bit_width, offset_unit);
  const size_t group = codec::weights_per_param(spec);
  if (spec.method != Method::kRtn) {
    const size_t batch = GroupBatch::rows_for(block.cols, group);
    for (size_t row = 0; row < block.rows; row += batch) {
      const size_t rows = std::min(batch, block.rows - row);
      if (!search_rows(geo, spec, factor, block, row, rows, scratch, out, sums)) return false;
    }
    return true;
  }
  for (size_t row = 0; row < block.rows; ++row) {
    if (!rtn_row(geo, factor, block.weights + row * block.cols, block.cols, group, scratch,
                 out.row_scales[row], out.params + row * param_row_bytes(block.cols, spec),
                 out.codes + row * packed_row_bytes(block.cols, spec.bit_width), sums)) {
      return false;
    }
  }
  return true;
}

}  // namespace arrow_quant
