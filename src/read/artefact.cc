#include "arrow_quant/artefact.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <set>
#include <string_view>
#include <utility>

#include "arrow_quant/error.h"
#include "arrow_quant/format.h"
#include "core/checked.h"
#include "core/hash.h"
#include "io/file_reader.h"
#include "read/manifest_reader.h"
#include "read/parquet_part.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxManifestBytes = 64U << 20;
constexpr uint64_t kVerifyBlock = 8U << 20;

[[noreturn]] void fail(const std::string& path, const std::string& what,
                       const std::string& tensor = {}) {
  throw Error(ErrorCode::kValidation, what,
              {.path = path, .tensor = tensor, .hint = "The artefact is damaged: quantize again."});
}

struct TensorEntry {
  std::vector<std::pair<size_t, PartRow>> chunks;  // part number, row
};

/// The tensors of one component, read from the small columns at first use.
struct ComponentTensors {
  std::vector<QuantizedTensorInfo> infos;
  std::vector<uint64_t> stored_bytes;
  std::vector<TensorEntry> entries;
};

bool same_tensor(const QuantizedTensorInfo& a, const QuantizedTensorInfo& b) {
  return a.name == b.name && a.shape == b.shape && a.source_dtype == b.source_dtype &&
         a.encoding == b.encoding && a.spec.bit_width == b.spec.bit_width &&
         a.spec.group_size == b.spec.group_size && a.spec.param_encoding == b.spec.param_encoding;
}

// The product of the shape must fit before anything is computed from it.
void check_shape(const QuantizedTensorInfo& info, const std::string& path) {
  uint64_t elements = 64;  // bits of the widest dtype: sizes in bits must fit as well
  for (const uint64_t dim : info.shape) {
    const auto product = checked_mul(elements, std::max<uint64_t>(1, dim));
    if (!product) fail(path, "a shape whose size overflows", info.name);
    elements = *product;
  }
  if (info.encoding != Encoding::kCopy && info.shape.empty()) {
    fail(path, "a quantized scalar", info.name);
  }
}

uint64_t row_scale_bytes(const AffineSpec& spec) noexcept {
  return spec.param_encoding == ParamEncoding::kFp16 ? 0 : sizeof(uint16_t);
}

uint64_t tensor_bytes(const QuantizedTensorInfo& info) {
  if (info.encoding == Encoding::kCopy) {
    return info.elements() * dtype_info(info.source_dtype).bits / 8;
  }
  return info.rows() * (packed_row_bytes(info.cols(), info.spec.bit_width) +
                        param_row_bytes(info.cols(), info.spec) + row_scale_bytes(info.spec));
}

uint64_t chunk_end(const TensorEntry& entry, size_t chunk, const QuantizedTensorInfo& info) {
  return chunk + 1 < entry.chunks.size() ? entry.chunks[chunk + 1].second.row_begin : info.rows();
}

// Chunks must follow one another and cover the rows of the tensor; quality is the mean over rows.
void finish_tensor(QuantizedTensorInfo& info, const TensorEntry& entry, const std::string& path) {
  double cosine = 0;
  double nmse = 0;
  for (size_t i = 0; i < entry.chunks.size(); ++i) {
    const PartRow& row = entry.chunks[i].second;
    const uint64_t end = chunk_end(entry, i, info);
    const bool first_is_zero = i != 0 || row.row_begin == 0;
    if (!first_is_zero || row.chunk != static_cast<int32_t>(i) || end < row.row_begin) {
      fail(path, "the chunks do not cover the rows of the tensor", info.name);
    }
    const auto rows = static_cast<double>(end - row.row_begin);
    cosine += rows * row.info.cosine;
    nmse += rows * row.info.nmse;
  }
  if (entry.chunks.size() > 1) {
    info.cosine = cosine / static_cast<double>(info.rows());
    info.nmse = nmse / static_cast<double>(info.rows());
  }
}

ComponentTensors load_tensors(const std::vector<ParquetPart>& parts, uint64_t expected) {
  ComponentTensors result;
  for (size_t number = 0; number < parts.size(); ++number) {
    const std::string& path = parts[number].path();
    for (PartRow& row : parts[number].rows()) {
      check_shape(row.info, path);
      if (row.chunk == 0) {
        result.infos.push_back(row.info);
        result.entries.emplace_back();
      } else if (result.infos.empty() || !same_tensor(result.infos.back(), row.info)) {
        fail(path, "a chunk without the one before it", row.info.name);
      }
      result.entries.back().chunks.emplace_back(number, std::move(row));
    }
  }
  if (result.infos.size() != expected) {
    fail(parts.empty() ? "" : parts[0].path(), "expected " + std::to_string(expected) +
                                                   " tensors, found " +
                                                   std::to_string(result.infos.size()));
  }
  std::set<std::string_view> names;
  for (size_t i = 0; i < result.infos.size(); ++i) {
    if (!names.insert(result.infos[i].name).second) {
      fail(parts[0].path(), "two tensors of one name", result.infos[i].name);
    }
    finish_tensor(result.infos[i], result.entries[i],
                  parts[result.entries[i].chunks[0].first].path());
    result.stored_bytes.push_back(tensor_bytes(result.infos[i]));
  }
  return result;
}

void check_length(uint64_t found, uint64_t expected, const char* what, const std::string& path,
                  const std::string& tensor) {
  if (found == expected) return;
  fail(path,
       std::string(what) + ": expected " + std::to_string(expected) + " bytes, found " +
           std::to_string(found),
       tensor);
}

void check_finite_halves(std::span<const uint16_t> values, const std::string& path,
                         const std::string& tensor) {
  constexpr uint16_t kExponent = 0x7C00;
  uint16_t found = 0;  // without a branch per value
  for (const uint16_t value : values) found |= (value & kExponent) == kExponent ? 1 : 0;
  if (found != 0) fail(path, "a scale or offset is NaN or infinite", tensor);
}

// Numbers in a page have no alignment.
std::vector<uint16_t> to_halves(std::span<const uint8_t> bytes) {
  std::vector<uint16_t> values(bytes.size() / sizeof(uint16_t));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(uint16_t));
  return values;
}

fs::path find_root(const fs::path& start) {
  std::error_code error;
  if (!fs::exists(start, error)) return {};
  fs::path folder = start;
  for (int up = 0; up < 4 && !folder.empty(); ++up) {
    if (fs::is_regular_file(folder / kManifestFile)) return folder;
    folder = folder.has_filename() ? folder.parent_path() : folder.parent_path().parent_path();
  }
  return {};
}

[[noreturn]] void no_artefact(const std::string& path) {
  const bool is_model = fs::exists(fs::path(path) / "model_index.json") ||
                        fs::exists(fs::path(path) / "config.json") ||
                        path.ends_with(".safetensors");
  throw Error(ErrorCode::kModelNotFound,
              fs::exists(path) ? "no manifest.json: not an artefact" : "no such file or directory",
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
  const fs::path root = find_root(path);
  if (root.empty()) no_artefact(path);
  auto state = std::make_unique<State>();
  state->path = root.string();
  const std::string manifest_path = (root / kManifestFile).string();
  state->manifest_json = read_text_file(manifest_path, kMaxManifestBytes);
  state->manifest = parse_manifest(state->manifest_json, manifest_path);
  std::map<std::string, const FileRecord*> records;
  for (const FileRecord& record : state->manifest.files) {
    records[record.path] = &record;
    std::error_code error;
    const uint64_t size = fs::file_size(root / record.path, error);
    if (error)
      fail((root / record.path).string(), "the manifest names this file: " + error.message());
    if (size != record.size) {
      fail((root / record.path).string(),
           "expected " + std::to_string(record.size) + " bytes, found " + std::to_string(size));
    }
  }
  for (const ManifestComponent& component : state->manifest.components) {
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
    visit({.row_begin = row.row_begin,
           .rows = rows,
           .codes = bytes.codes,
           .params = bytes.params,
           .row_scales = row_scales,
           .tensor_scale = row.tensor_scale,
           .offset_unit = row.offset_unit});
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
                               .error = {}});
    });
  }
  return result;
}

void Artefact::verify(const std::function<void()>& poll) const {
  uint64_t largest = 1;
  for (const FileRecord& record : state_->manifest.files) largest = std::max(largest, record.size);
  std::vector<std::byte> block(std::min(largest, kVerifyBlock));
  for (const FileRecord& record : state_->manifest.files) {
    const FileReader file(state_->path + "/" + record.path);
    Hasher hasher;
    for (uint64_t offset = 0; offset < file.size(); offset += block.size()) {
      const auto part =
          std::span(block).first(std::min<uint64_t>(block.size(), file.size() - offset));
      file.read_exact(offset, part);
      hasher.update(part);
      poll();
    }
    if (hasher.hex() != record.hash) fail(file.path(), "the file does not match its hash");
  }
}

}  // namespace arrow_quant
