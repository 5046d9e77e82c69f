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
#include <string>

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

/// The best one for an empty name, null for one that there is not.
const Isa* find(std::string_view name) {
  if (name.empty()) return &available().front();
  const auto found = std::ranges::find(available(), lower(name), &Isa::name);
  return found == available().end() ? nullptr : &*found;
}

/// What is in use: at first what the environment says, the best one without.
class Choice {
 public:
  Choice() {
    // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing in the library changes the environment
    const char* value = std::getenv("ARROW_QUANT_FORCE_ISA");
    const std::string name = value == nullptr ? "" : value;
    const Isa* named = find(name);
    if (named == nullptr) refused_ = name;
    set(named == nullptr ? available().front() : *named);
  }

  const Isa& get() const noexcept { return *isa_.load(); }

  void set(const Isa& isa) {
    isa_ = &isa;
    const bool best = &isa == &available().front();
    hwy::SetSupportedTargetsForTest(best ? 0 : isa.target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }

  /// What the environment says if there is no such instruction set here; else empty.
  const std::string& refused() const noexcept { return refused_; }

 private:
  std::atomic<const Isa*> isa_;
  std::string refused_;
};

Choice& in_use() noexcept {
  static Choice choice;
  return choice;
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

}  // namespace

void choose_isa() noexcept { (void)in_use(); }

void check_isa_override() {
  if (!in_use().refused().empty()) throw_unsupported(in_use().refused());
}

void force_isa(std::string_view name) {
  const Isa* isa = find(name);
  if (isa == nullptr) throw_unsupported(name);
  in_use().set(*isa);
}

std::string active_isa() { return in_use().get().name; }

ByteProducts byte_products() noexcept { return in_use().get().byte_products; }

bool has_bf16_products() noexcept { return in_use().get().bf16_products; }

std::vector<std::string> supported_isas() { return available_names(); }

}  // namespace arrow_quant
