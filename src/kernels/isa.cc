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

bool has_vnni() noexcept {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512vnni") != 0;
#else
  return false;
#endif
}

bool has_avx512_bf16() noexcept {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

/// The byte products of VNNI in 256 bits, on CPUs without AVX-512.
bool has_avx_vnni() noexcept {
#if defined(__x86_64__)
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & (1U << 4)) != 0;
#else
  return false;
#endif
}

bool has_arm_dot() noexcept {
#if defined(HWCAP_ASIMDDP)
  return (::getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
  return false;
#endif
}

bool has_arm_i8mm() noexcept {
#if defined(HWCAP2_I8MM)
  return (::getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
#else
  return false;
#endif
}

/// Compiled and supported targets, best first, whatever has been forced.
const std::vector<Isa>& available() {
  static const std::vector<Isa> isas = [] {
    std::vector<Isa> found;
    for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
      std::string name = lower(hwy::TargetName(target));
      if (name == "emu128") name = "scalar";
      if (name == "avx3") {
        name = "avx512";
        if (has_vnni() && has_avx512_bf16())
          found.push_back({"avx512bf16", target, ByteProducts::kMixed, true});
        if (has_vnni()) found.push_back({"avx512vnni", target, ByteProducts::kMixed});
      }
      if (name == "avx2" && has_avx_vnni()) {
        found.push_back({"avxvnni", target, ByteProducts::kMixed});
      }
      if (name == "neon") {
        if (has_arm_i8mm()) found.push_back({"neoni8mm", target, ByteProducts::kMixed});
        if (has_arm_dot()) found.push_back({"neondot", target, ByteProducts::kSigned});
      }
      found.push_back({name, target});
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
