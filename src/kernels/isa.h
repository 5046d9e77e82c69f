// Which instruction set the kernels use.
//
// By default the best one that the CPU has; the environment variable ARROW_QUANT_FORCE_ISA (scalar,
// sse4, avx2, avxvnni, avx512, avx512vnni, avx512bf16, neon, neondot, neoni8mm, ...; case does not
// matter) names another. The choice is made once, by whichever kernel is called first: no caller
// has to see to it. Thread-safe, but a change must not race with running kernels.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace arrow_quant {

/// Raise Error(kConfiguration) when ARROW_QUANT_FORCE_ISA is set to a name that is unknown or that
/// this CPU lacks. Kernels are noexcept and use the best one then, so entry points call this.
void check_isa_override();

/// Use the instruction set `name` from now on; an empty name returns to the best one.
/// Throws Error(kConfiguration) when the name is unknown or this CPU lacks it.
void force_isa(std::string_view name);

/// Name of the instruction set in use.
std::string active_isa();

/// Instructions that add four products of bytes to each 32-bit lane.
enum class ByteProducts {
  kNone,
  kMixed,   ///< of unsigned with signed bytes: AVX-512 VNNI, AVX-VNNI, Arm's 8-bit matrix extension
  kSigned,  ///< of signed bytes: Arm's dot products
};

/// Those of the instruction set in use.
ByteProducts byte_products() noexcept;

/// Whether it has the dot products of AVX-512 BF16.
bool has_bf16_products() noexcept;

/// Make the choice, unless it was made.
void choose_isa() noexcept;

/// The function `name`, exported by HWY_EXPORT, of the instruction set in use. Kernels are called
/// through this alone.
#define ARROW_QUANT_DISPATCH(name) (arrow_quant::choose_isa(), HWY_DYNAMIC_DISPATCH(name))

/// Names that force_isa accepts on this CPU, best first.
std::vector<std::string> supported_isas();

}  // namespace arrow_quant
