#include "read/legacy/reader.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <utility>

#include "arrow_quant/error.h"
#include "io/file_reader.h"
#include "read/legacy/decode.h"
#include "read/legacy/file.h"
#include "read/legacy/model.h"

namespace arrow_quant {
namespace {

constexpr size_t kBlock = 4096;

void check_identity(const SourceFile& expected, uint64_t size, int64_t mtime_ns, uint64_t inode) {
  if (size == expected.size && mtime_ns == expected.mtime_ns && inode == expected.inode) return;
  throw Error(ErrorCode::kMetadata, "the file changed since its header was read",
              {.path = expected.path, .hint = "Wait until whatever writes it has finished."});
}

FileReader open_unchanged(const SourceFile& expected) {
  FileReader file(expected.path);
  check_identity(expected, file.size(), file.mtime_ns(), file.inode());
  return file;
}

// Through a block of floats, so that neither offset nor target need be aligned.
void decode_bytes(const LegacyTensor& tensor, const LegacyValue& value, Int2Order order,
                  uint64_t offset, std::span<std::byte> out) {
  std::array<float, kBlock> block{};
  while (!out.empty()) {
    const uint64_t first = offset / sizeof(float);
    const uint64_t skipped = offset % sizeof(float);
    const uint64_t bytes = std::min<uint64_t>(out.size(), sizeof(block) - skipped);
    const uint64_t count = (skipped + bytes + sizeof(float) - 1) / sizeof(float);
    decode_legacy_weights(tensor, value, order, first, std::span(block).first(count));
    std::memcpy(out.data(), std::as_bytes(std::span(block)).data() + skipped, bytes);
    out = out.subspan(bytes);
    offset += bytes;
  }
}

}  // namespace

struct LegacyReader::State {
  explicit State(const ModelIndex& component) : files(component.files), index(component.legacy) {}

  using Use = std::function<void(const LegacyTensor&, const LegacyValue&)>;

  // Run `use` on the row of `tensor` while no other thread can move on to the next row.
  void with_value(const TensorInfo& tensor, const Use& use) {
    const LegacyTensor& facts = index->tensors[tensor.offset];
    {
      const std::shared_lock lock(mutex);
      if (current == tensor.offset) return use(facts, *value);
    }
    // Whoever moves on to the row also uses it: others may move on again before a shared lock.
    const std::unique_lock lock(mutex);
    if (current != tensor.offset) load(tensor, facts);
    use(facts, *value);
  }

  void load(const TensorInfo& tensor, const LegacyTensor& facts) {
    current.reset();
    if (!file || file_number != tensor.file) {
      file.reset();
      const SourceFile& expected = files[tensor.file];
      file.emplace(expected.path);
      const SourceFile found = file->identity();
      check_identity(expected, found.size, found.mtime_ns, found.inode);
      file_number = tensor.file;
    }
    value = &file->value(facts, tensor.name);
    current = tensor.offset;
  }

  std::vector<SourceFile> files;
  std::shared_ptr<const LegacyIndex> index;
  std::shared_mutex mutex;
  std::optional<LegacyFile> file;
  uint32_t file_number = 0;
  std::optional<uint64_t> current;  // number of the tensor that `value` is
  const LegacyValue* value = nullptr;
};

LegacyReader::LegacyReader(const ModelIndex& component)
    : state_(std::make_unique<State>(component)) {}

LegacyReader::~LegacyReader() = default;
LegacyReader::LegacyReader(LegacyReader&&) noexcept = default;

void LegacyReader::read(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const {
  if (out.empty()) return;
  if (state_->index->tensors[tensor.offset].in_companion) {
    open_unchanged(state_->files[tensor.file]).read_exact(offset, out);
    return;
  }
  state_->with_value(tensor, [&](const LegacyTensor& facts, const LegacyValue& value) {
    if (facts.codes != LegacyCodes::kValues) {
      decode_bytes(facts, value, state_->index->int2_order, offset, out);
      return;
    }
    std::ranges::copy(std::as_bytes(value.data.subspan(offset, out.size())), out.begin());
  });
}

void LegacyReader::read_stored(const TensorInfo& tensor, std::span<std::byte> out) const {
  state_->with_value(tensor, [&](const LegacyTensor&, const LegacyValue& value) {
    const std::span<const uint8_t> data = value.data.first(out.size());
    std::ranges::copy(std::as_bytes(data), out.begin());
  });
}

void LegacyReader::read_codes(const TensorInfo& tensor, uint64_t first,
                              std::span<int16_t> out) const {
  state_->with_value(tensor, [&](const LegacyTensor& facts, const LegacyValue& value) {
    decode_legacy_codes(facts, value.data, state_->index->int2_order, first, out);
  });
}

LegacyParameters LegacyReader::parameters(const TensorInfo& tensor) const {
  LegacyParameters result;
  state_->with_value(tensor, [&](const LegacyTensor& facts, const LegacyValue& value) {
    const auto count = static_cast<ptrdiff_t>(facts.groups.count);
    result.scales.assign(value.scales.begin(), value.scales.begin() + count);
    result.zero_points.assign(static_cast<size_t>(count), 0.0F);
    if (facts.zero_points != 0) {
      std::copy_n(value.zero_points.begin(), count, result.zero_points.begin());
    }
  });
  return result;
}

void LegacyReader::check_unchanged() const {
  for (const SourceFile& expected : state_->files) open_unchanged(expected);
}

}  // namespace arrow_quant
