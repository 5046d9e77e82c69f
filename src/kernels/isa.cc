#include "kernels/isa.h"

#include <algorithm>
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

/// Our name of a Highway target.
std::string isa_name(int64_t target) {
  std::string name = lower(hwy::TargetName(target));
  if (name == "avx3") return "avx512";
  if (name == "emu128") return "scalar";
  return name;
}

/// Compiled and supported targets, best first, whatever has been forced.
const std::vector<int64_t>& available_targets() {
  static const std::vector<int64_t> targets = hwy::SupportedAndGeneratedTargets();
  return targets;
}

std::vector<std::string> available_names() {
  std::vector<std::string> names;
  for (int64_t target : available_targets()) names.push_back(isa_name(target));
  return names;
}

// Guards the choice below; 0 means "the best one".
std::mutex choice_mutex;
int64_t forced_target = 0;

void use_target(int64_t target) {
  forced_target = target;
  hwy::SetSupportedTargetsForTest(target);
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
  int64_t chosen = 0;
  for (int64_t target : available_targets()) {
    if (isa_name(target) == lower(name)) chosen = target;
  }
  if (chosen == 0 && !name.empty()) throw_unsupported(name);
  use_target(chosen);
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
  const int64_t best = available_targets().front();
  return isa_name(forced_target != 0 ? forced_target : best);
}

std::vector<std::string> supported_isas() {
  const std::lock_guard lock(choice_mutex);
  return available_names();
}

}  // namespace arrow_quant
