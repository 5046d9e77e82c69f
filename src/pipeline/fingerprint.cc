#include "pipeline/fingerprint.h"

#include <algorithm>
#include <array>
#include <span>

#include "core/hash.h"
#include "io/file_reader.h"

namespace arrow_quant {
namespace {

constexpr uint64_t kPlaces = 64;
constexpr size_t kBytesPerPlace = 4096;

void add_text(Hasher& hasher, const std::string& text) {
  const std::string framed = std::to_string(text.size()) + ":" + text;
  hasher.update(std::as_bytes(std::span(framed)));
}

void add_sample(Hasher& hasher, const SourceFile& file) {
  const FileReader reader(file.path);
  std::array<std::byte, kBytesPerPlace> block{};
  const auto bytes = std::span(block).first(std::min<uint64_t>(block.size(), reader.size()));
  const uint64_t last = reader.size() - bytes.size();
  for (uint64_t place = 0; place < kPlaces; ++place) {
    reader.read_exact(last / (kPlaces - 1) * place, bytes);
    hasher.update(bytes);
  }
}

}  // namespace

std::string source_fingerprint(const ModelDirectory& model) {
  Hasher hasher;
  for (const ModelIndex& component : model.components) {
    add_text(hasher, component.component);
    add_text(hasher, component.config_json);
    for (const SourceFile& file : component.files) {
      add_text(hasher, file.header_hash);
      add_text(hasher, std::to_string(file.size));
      add_sample(hasher, file);
    }
  }
  return hasher.hex();
}

}  // namespace arrow_quant
