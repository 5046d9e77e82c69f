// Which instruction set the kernels use.
//
// By default the best one that the CPU has, chosen at the first kernel call. The environment
// variable ARROW_QUANT_FORCE_ISA overrides the choice and never falls back silently. Thread-safe,
// but a change of the instruction set must not race with running kernels.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace arrow_quant {

/// Apply ARROW_QUANT_FORCE_ISA (scalar, sse4, avx2, avxvnni, avx512, avx512vnni, avx512bf16, neon,
/// neondot, neoni8mm, ...; case does not matter), once per process. Call at every entry point
/// before the first kernel. Throws Error(kConfiguration) when the value is unknown or this CPU
/// lacks it.
void apply_isa_override();

/// Use the instruction set `name` from now on; an empty name returns to the best one.
/// Throws Error(kConfiguration) as above.
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

/// Names that force_isa accepts on this CPU, best first.
std::vector<std::string> supported_isas();

}  // namespace arrow_quant
