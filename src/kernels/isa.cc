#include "kernels/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <mutex>

#include "arrow_quant/error.h"
#include "kernels/targets.h"

#include "hwy/highway.h"

namespace arrow_quant {
namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

/// A choice that can be forced.
struct Isa {
  std::string name;
  int64_t target = 0;                                ///< of Highway
  ByteProducts byte_products = ByteProducts::kNone;  ///< that an extension adds to it
  bool bf16_products = false;                        ///< and those of bfloat16
};

/// What CPUs of one target have and others lack.
struct Extensions {
  bool avx512_vnni = false, avx512_bf16 = false;
  bool avx_vnni = false;  ///< the byte products of VNNI in 256 bits, on CPUs without AVX-512
  bool arm_dot = false, arm_i8mm = false;
};

Extensions extensions() noexcept {
  Extensions found;
#if defined(__x86_64__)
  found.avx512_vnni = __builtin_cpu_supports("avx512vnni") != 0;
  found.avx512_bf16 = __builtin_cpu_supports("avx512bf16") != 0;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  found.avx_vnni = __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & (1U << 4)) != 0;
#elif defined(__aarch64__) && defined(__linux__)
  found.arm_dot = (::getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
  found.arm_i8mm = (::getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
#endif
  return found;
}

/// Choices of a target, best first.
std::vector<Isa> choices_of(int64_t target, const Extensions& cpu) {
  const std::string name = lower(hwy::TargetName(target));
  std::vector<Isa> found;
  if (name == "avx3") {
    if (cpu.avx512_vnni && cpu.avx512_bf16) {
      found.push_back({"avx512bf16", target, ByteProducts::kMixed, true});
    }
    if (cpu.avx512_vnni) found.push_back({"avx512vnni", target, ByteProducts::kMixed});
    found.push_back({"avx512", target});
    return found;
  }
  if (name == "avx2" && cpu.avx_vnni) {
    found.push_back({"avxvnni", target, ByteProducts::kMixed});
  }
  if (name == "neon" && cpu.arm_i8mm) {
    found.push_back({"neoni8mm", target, ByteProducts::kMixed});
  }
  if (name == "neon" && cpu.arm_dot) found.push_back({"neondot", target, ByteProducts::kSigned});
  found.push_back({name == "emu128" ? "scalar" : name, target});
  return found;
}

/// Compiled and supported targets, best first, whatever has been forced.
const std::vector<Isa>& available() {
  static const std::vector<Isa> isas = [] {
    const Extensions cpu = extensions();
    std::vector<Isa> found;
    for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
      std::ranges::copy(choices_of(target, cpu), std::back_inserter(found));
    }
    return found;
  }();
  return isas;
}

std::vector<std::string> available_names() {
  std::vector<std::string> names;
  for (const Isa& isa : available()) names.push_back(isa.name);
  return names;
}

// Guards the choice below; none means "the best one".
std::mutex choice_mutex;
const Isa* forced = nullptr;
std::atomic<const Isa*>& in_use() {
  static std::atomic<const Isa*> isa = &available().front();
  return isa;
}

void use(const Isa* isa) {
  forced = isa;
  in_use() = isa != nullptr ? isa : &available().front();
  hwy::SetSupportedTargetsForTest(isa != nullptr ? isa->target : 0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

[[noreturn]] void throw_unsupported(std::string_view name) {
  std::string list;
  for (const std::string& isa : available_names()) list += (list.empty() ? "" : ", ") + isa;
  throw Error(ErrorCode::kConfiguration,
              "instruction set '" + std::string(name) + "' is unknown or not supported here",
              {"", "",
               "This CPU and build support: " + list +
                   ". Set ARROW_QUANT_FORCE_ISA to one of them or unset it."});
}

void force_locked(std::string_view name) {
  const auto is_meant = [&](const Isa& isa) { return isa.name == lower(name); };
  const auto found = std::ranges::find_if(available(), is_meant);
  if (found == available().end() && !name.empty()) throw_unsupported(name);
  use(name.empty() ? nullptr : &*found);
}

}  // namespace

void force_isa(std::string_view name) {
  const std::lock_guard lock(choice_mutex);
  force_locked(name);
}

void apply_isa_override() {
  static bool applied = false;
  const std::lock_guard lock(choice_mutex);
  if (applied) return;
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing in the library changes the environment
  const char* value = std::getenv("ARROW_QUANT_FORCE_ISA");
  if (value != nullptr && *value != '\0') force_locked(value);
  applied = true;
}

std::string active_isa() {
  const std::lock_guard lock(choice_mutex);
  return (forced != nullptr ? *forced : available().front()).name;
}

ByteProducts byte_products() noexcept { return in_use().load()->byte_products; }

bool has_bf16_products() noexcept { return in_use().load()->bf16_products; }

std::vector<std::string> supported_isas() {
  const std::lock_guard lock(choice_mutex);
  return available_names();
}

}  // namespace arrow_quant
