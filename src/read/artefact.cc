#include "arrow_quant/artefact.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <set>
#include <utility>

#include "arrow_quant/error.h"
#include "arrow_quant/format.h"
#include "core/hash.h"
#include "core/thread_pool.h"
#include "io/equalization_factors.h"
#include "io/file_reader.h"
#include "io/time_params.h"
#include "kernels/isa.h"
#include "read/artefact_damage.h"
#include "read/artefact_tensors.h"
#include "read/manifest_reader.h"
#include "read/parquet_part.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxManifestBytes = 64U << 20;
constexpr uint64_t kVerifyBlock = 2U << 20;  // fits the caches
constexpr size_t kMaxVerifyThreads = 4;

void check_length(uint64_t found, uint64_t expected, const char* what, const std::string& path,
                  const std::string& tensor) {
  if (found == expected) return;
  fail_damaged(path,
               std::string(what) + ": expected " + std::to_string(expected) + " bytes, found " +
                   std::to_string(found),
               tensor);
}

void check_finite_halves(std::span<const uint16_t> values, const std::string& path,
                         const std::string& tensor) {
  constexpr uint16_t kExponent = 0x7C00;
  uint16_t found = 0;  // without a branch per value
  for (const uint16_t value : values) found |= (value & kExponent) == kExponent ? 1 : 0;
  if (found != 0) fail_damaged(path, "a scale or offset is NaN or infinite", tensor);
}

// Numbers in a page have no alignment.
std::vector<uint16_t> to_halves(std::span<const uint8_t> bytes) {
  std::vector<uint16_t> values(bytes.size() / sizeof(uint16_t));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(uint16_t));
  return values;
}

// Factors of the input channels; a column that is absent is none.
std::vector<float> to_factors(std::span<const uint8_t> bytes, const QuantizedTensorInfo& info,
                              const std::string& path) {
  if (bytes.empty()) return {};
  const uint64_t channels = info.channels();
  if (bytes.size() != channels) {
    check_length(bytes.size(), channels * sizeof(float), "equalization", path, info.name);
  }
  auto factors = unpack_factors(bytes, channels);
  if (!factors) fail_damaged(path, "an equalization factor is not a positive number", info.name);
  return std::move(*factors);
}

std::vector<TimeGroup> to_time_groups(std::span<const uint8_t> bytes, uint64_t rows,
                                      const std::string& path, const std::string& tensor) {
  if (bytes.empty()) return {};
  auto groups = unpack_time_groups(bytes, rows);
  if (!groups) fail_damaged(path, "time_params are not what the format says", tensor);
  return std::move(*groups);
}

fs::path find_root(const std::string& path) {
  std::error_code error;
  const fs::path start = path;
  if (path.find('\0') != std::string::npos || !fs::exists(start, error)) return {};
  fs::path folder = start;
  for (int up = 0; up < 4 && !folder.empty(); ++up) {
    if (fs::is_regular_file(folder / kManifestFile, error)) return folder;
    folder = folder.has_filename() ? folder.parent_path() : folder.parent_path().parent_path();
  }
  return {};
}

// All files that the manifest names must be there and have their size.
std::map<std::string, const FileRecord*> check_files(const fs::path& root,
                                                     const Manifest& manifest) {
  std::map<std::string, const FileRecord*> records;
  for (const FileRecord& record : manifest.files) {
    records[record.path] = &record;
    const std::string path = (root / record.path).string();
    std::error_code error;
    const uint64_t size = fs::file_size(path, error);
    if (error) fail_damaged(path, "the manifest names this file: " + error.message());
    if (size != record.size) {
      fail_damaged(path, "expected " + std::to_string(record.size) + " bytes, found " +
                             std::to_string(size));
    }
  }
  return records;
}

// Other readers take every file in the folder of parts as a part, but not hidden ones.
void check_part_folder(const fs::path& root, const ManifestComponent& component) {
  const std::set<std::string> parts(component.parts.begin(), component.parts.end());
  for (const std::string& part : parts) {
    const fs::path folder = fs::path(part).parent_path();
    if (folder.filename() != kWeightsFile) continue;
    std::error_code error;
    fs::directory_iterator entry(root / folder, error);
    for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
      const std::string name = entry->path().filename().string();
      const bool hidden = name.starts_with('.') || name.starts_with('_');
      if (hidden || parts.contains((folder / name).generic_string())) continue;
      fail_damaged(entry->path().string(), "the manifest names no such part");
    }
    if (error) fail_damaged((root / folder).string(), error.message());
    return;  // all parts lie in one folder
  }
}

void verify_file(const std::string& root, const FileRecord& record, std::span<std::byte> block,
                 const std::function<void()>& poll) {
  const FileReader file(root + "/" + record.path);
  Hasher hasher;
  for (uint64_t offset = 0; offset < file.size(); offset += block.size()) {
    const auto part = block.first(std::min<uint64_t>(block.size(), file.size() - offset));
    file.read_exact(offset, part);
    hasher.update(part);
    poll();
  }
  if (hasher.hex() != record.hash) fail_damaged(file.path(), "the file does not match its hash");
}

[[noreturn]] void no_artefact(const std::string& path) {
  std::error_code error;
  const bool is_model = fs::exists(fs::path(path) / "model_index.json", error) ||
                        fs::exists(fs::path(path) / "config.json", error) ||
                        path.ends_with(".safetensors");
  const fs::file_status status = fs::status(path, error);
  std::string what = "no manifest.json: not an artefact";
  if (status.type() == fs::file_type::not_found) what = "no such file or directory";
  if (status.type() == fs::file_type::none) what = error.message();  // too long, not permitted
  throw Error(ErrorCode::kModelNotFound, what,
              {.path = path,
               .hint = is_model ? "This is a model that is not quantized yet: "
                                  "arrow-quant quantize " +
                                      path + " OUT"
                                : "Pass the folder that arrow-quant quantize wrote."});
}

}  // namespace

struct Artefact::State {
  std::string path;
  std::string manifest_json;
  Manifest manifest;
  std::vector<std::vector<ParquetPart>> parts;  // by component
  std::vector<ComponentTensors> tensors;
  std::vector<std::once_flag> loaded;

  const ComponentTensors& component(size_t number) {
    std::call_once(loaded.at(number), [&] {
      tensors[number] = load_tensors(parts[number], manifest.components[number].tensors);
    });
    return tensors[number];
  }
};

Artefact::Artefact(std::unique_ptr<State> state) : state_(std::move(state)) {}
Artefact::~Artefact() = default;
Artefact::Artefact(Artefact&&) noexcept = default;
Artefact& Artefact::operator=(Artefact&&) noexcept = default;

Artefact Artefact::open(const std::string& path) {
  check_isa_override();
  const fs::path root = find_root(path);
  if (root.empty()) no_artefact(path);
  auto state = std::make_unique<State>();
  state->path = root.string();
  const std::string manifest_path = (root / kManifestFile).string();
  state->manifest_json = read_text_file(manifest_path, kMaxManifestBytes);
  state->manifest = parse_manifest(state->manifest_json, manifest_path);
  const std::map<std::string, const FileRecord*> records = check_files(root, state->manifest);
  for (const ManifestComponent& component : state->manifest.components) {
    check_part_folder(root, component);
    auto& parts = state->parts.emplace_back();
    for (const std::string& part : component.parts) {
      parts.emplace_back(state->path, *records.at(part));
    }
  }
  state->tensors.resize(state->parts.size());
  state->loaded = std::vector<std::once_flag>(state->parts.size());
  return Artefact(std::move(state));
}

const std::string& Artefact::path() const noexcept { return state_->path; }
const Manifest& Artefact::manifest() const noexcept { return state_->manifest; }
const std::string& Artefact::manifest_json() const noexcept { return state_->manifest_json; }

std::map<std::string, std::string> Artefact::metadata(size_t component) const {
  const auto& parts = state_->parts.at(component);
  return parts.empty() ? std::map<std::string, std::string>{} : parts[0].metadata();
}

const std::vector<QuantizedTensorInfo>& Artefact::tensors(size_t component) const {
  return state_->component(component).infos;
}

const std::vector<uint64_t>& Artefact::stored_bytes(size_t component) const {
  return state_->component(component).stored_bytes;
}

size_t Artefact::chunks(size_t component, size_t tensor) const {
  return state_->component(component).entries.at(tensor).chunks.size();
}

void Artefact::visit_chunk(size_t component, size_t tensor, size_t chunk,
                           const std::function<void(const ChunkView&)>& visit) const {
  const ComponentTensors& all = state_->component(component);
  const QuantizedTensorInfo& info = all.infos.at(tensor);
  const TensorEntry& entry = all.entries.at(tensor);
  const auto& [part_number, row] = entry.chunks.at(chunk);
  const ParquetPart& part = state_->parts[component][part_number];
  const uint64_t rows = chunk_end(entry, chunk, info) - row.row_begin;
  part.visit(row, [&](const PartBytes& bytes) {
    const std::string& path = part.path();
    if (info.encoding == Encoding::kCopy) {
      const uint64_t whole = tensor_bytes(info);
      const uint64_t expected = rows == info.rows() ? whole : whole / info.rows() * rows;
      check_length(bytes.codes.size(), expected, "source bytes", path, info.name);
      visit({.row_begin = row.row_begin, .rows = rows, .codes = bytes.codes});
      return;
    }
    const AffineSpec& spec = info.spec;
    check_length(bytes.codes.size(), rows * packed_row_bytes(info.cols(), spec.bit_width), "codes",
                 path, info.name);
    check_length(bytes.params.size(), rows * param_row_bytes(info.cols(), spec), "params", path,
                 info.name);
    check_length(bytes.row_scales.size(), rows * row_scale_bytes(spec), "row_scales", path,
                 info.name);
    const std::vector<uint16_t> row_scales = to_halves(bytes.row_scales);
    check_finite_halves(row_scales, path, info.name);
    if (spec.param_encoding == ParamEncoding::kFp16) {
      check_finite_halves(to_halves(bytes.params), path, info.name);
    }
    const std::vector<float> equalization = to_factors(bytes.equalization, info, path);
    const std::vector<TimeGroup> time_groups =
        to_time_groups(bytes.time_params, rows, path, info.name);
    visit({.row_begin = row.row_begin,
           .rows = rows,
           .codes = bytes.codes,
           .params = bytes.params,
           .row_scales = row_scales,
           .tensor_scale = row.tensor_scale,
           .offset_unit = row.offset_unit,
           .equalization = equalization,
           .time_groups = time_groups});
  });
}

QuantizedTensor Artefact::read(size_t component, size_t tensor) const {
  QuantizedTensor result{.info = tensors(component).at(tensor), .chunks = {}};
  for (size_t i = 0; i < chunks(component, tensor); ++i) {
    visit_chunk(component, tensor, i, [&](const ChunkView& view) {
      result.chunks.push_back({.chunk = static_cast<int32_t>(i),
                               .row_begin = view.row_begin,
                               .rows = view.rows,
                               .codes = {view.codes.begin(), view.codes.end()},
                               .params = {view.params.begin(), view.params.end()},
                               .row_scales = {view.row_scales.begin(), view.row_scales.end()},
                               .tensor_scale = view.tensor_scale,
                               .offset_unit = view.offset_unit,
                               .equalization = {view.equalization.begin(), view.equalization.end()},
                               .time_groups = {view.time_groups.begin(), view.time_groups.end()},
                               .error = {},
                               .output_error = {}});
    });
  }
  return result;
}

void Artefact::verify(const std::function<void()>& poll) const {
  const std::vector<FileRecord>& files = state_->manifest.files;
  uint64_t largest = 1;
  for (const FileRecord& record : files) largest = std::max(largest, record.size);
  ThreadPool pool(static_cast<int>(std::clamp<size_t>(files.size(), 1, kMaxVerifyThreads)));
  std::vector<std::vector<std::byte>> blocks(static_cast<size_t>(pool.size()));
  const std::function<void()> none = [] {};
  poll();  // at least once, however little there is to do
  pool.parallel_for(
      files.size(),
      [&](size_t i, int worker) {
        auto& block = blocks[static_cast<size_t>(worker)];
        block.resize(std::min(largest, kVerifyBlock));
        // Only the calling thread, which is worker 0, may poll.
        verify_file(state_->path, files[i], block, worker == 0 ? poll : none);
      },
      poll);
}

}  // namespace arrow_quant
