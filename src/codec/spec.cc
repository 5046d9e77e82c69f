#include "codec/spec.h"

#include "codec/residual_binary.h"
#include "codec/row.h"

namespace arrow_quant::codec {
namespace {

static_assert(two_level::kSubGroups == residual_binary::kSubGroups);
static_assert(two_level::kGroupMultiple == residual_binary::kGroupMultiple);

int group_multiple(ParamEncoding encoding) noexcept {
  switch (encoding) {
    case ParamEncoding::kTwoLevel:
      return two_level::kGroupMultiple;
    case ParamEncoding::kFp16:
      return fp16::kGroupMultiple;
    case ParamEncoding::kRow:
      return row::kGroupMultiple;
    case ParamEncoding::kResidualBinary:
      return residual_binary::kGroupMultiple;
  }
  return kMaxGroupSize;
}

}  // namespace

uint64_t stored_bytes(const AffineSpec& spec, uint64_t rows, uint64_t cols) noexcept {
  const uint64_t scale = spec.param_encoding == ParamEncoding::kFp16 ? 0 : sizeof(uint16_t);
  return rows * (packed_row_bytes(cols, spec.bit_width) + param_row_bytes(cols, spec) + scale);
}

std::string bit_width_problem(int bit_width) {
  if (fp16::fits_bit_width(bit_width)) return "";
  return "Invalid bit_width: " + std::to_string(bit_width) + ". Must be 2, 4, or 8.";
}

std::string bit_width_problem(int bit_width, ParamEncoding encoding) {
  std::string any = bit_width_problem(bit_width);
  if (!any.empty()) return any;
  const auto needs = [&](const char* widths) {
    return "param_encoding '" + std::string(to_string(encoding)) + "' needs bit_width " + widths +
           ", found " + std::to_string(bit_width);
  };
  switch (encoding) {
    case ParamEncoding::kTwoLevel:
      return two_level::fits_bit_width(bit_width) ? "" : needs("2 or 4");
    case ParamEncoding::kFp16:
      return "";
    case ParamEncoding::kRow:
      return row::fits_bit_width(bit_width) ? "" : needs("8");
    case ParamEncoding::kResidualBinary:
      return residual_binary::fits_bit_width(bit_width) ? "" : needs("2");
  }
  return "unknown param_encoding";
}

std::string group_size_problem(int group_size, ParamEncoding encoding) {
  const std::string start = "Invalid group_size: " + std::to_string(group_size) + ". ";
  if (group_size < kMinGroupSize || group_size > kMaxGroupSize || group_size % 8 != 0) {
    return start + "Must be a multiple of 8 from 8 to 65536.";
  }
  const int multiple = group_multiple(encoding);
  if (group_size % multiple == 0) return "";
  return start + "Must be a multiple of " + std::to_string(multiple) + " for " +
         std::string(to_string(encoding)) + ".";
}

bool can_have_sub_groups(int group_size) noexcept {
  return group_size % two_level::kGroupMultiple == 0;
}

std::string spec_problem(const AffineSpec& spec) {
  std::string width = bit_width_problem(spec.bit_width, spec.param_encoding);
  return width.empty() ? group_size_problem(spec.group_size, spec.param_encoding) : width;
}

void check_spec(const AffineSpec& spec, const ErrorContext& context) {
  const std::string problem = spec_problem(spec);
  if (!problem.empty()) throw Error(ErrorCode::kConfiguration, problem, context);
}

}  // namespace arrow_quant::codec
