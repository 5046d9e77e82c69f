#include "read/model_directory.h"

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "arrow_quant/error.h"
#include "core/json.h"
#include "core/text.h"
#include "io/file_reader.h"
#include "read/legacy/model.h"
#include "read/safetensors_header.h"
#include "read/shard_index.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxConfigBytes = 16U << 20;
constexpr size_t kMaxOtherFiles = 100'000;
constexpr const char* kIndexSuffix = ".safetensors.index.json";

[[noreturn]] void not_found(const fs::path& path, const std::string& what,
                            const std::string& hint = {}) {
  throw Error(ErrorCode::kModelNotFound, what, {.path = path.string(), .hint = hint});
}

// Unlike the functions of std::filesystem these never throw: a loop of links does not exist.
bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

bool is_folder(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

bool has_suffix(const fs::path& path, std::string_view suffix) {
  return path.filename().string().ends_with(suffix);
}

// Weights of other frameworks and duplicates of ours; never carried over from a component's folder.
bool is_weight_file(const fs::path& path) {
  static const std::set<std::string> kExtensions = {".safetensors", ".bin",     ".pt",   ".pth",
                                                    ".ckpt",        ".msgpack", ".h5",   ".onnx",
                                                    ".gguf",        ".pb",      ".index"};
  return kExtensions.contains(path.extension().string()) || has_suffix(path, ".index.json");
}

// Names in a directory, sorted, so that nothing depends on the file system's order.
std::vector<fs::path> list(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> entries;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    entries.push_back(it->path());
  }
  if (error) not_found(folder, error.message());
  std::ranges::sort(entries);
  return entries;
}

std::vector<fs::path> files_with_suffix(const fs::path& folder, std::string_view suffix) {
  std::vector<fs::path> found;
  for (const fs::path& path : list(folder)) {
    const bool hidden = path.filename().string().starts_with('.');  // "._model.safetensors"
    if (!hidden && has_suffix(path, suffix)) found.push_back(path);
  }
  return found;
}

std::vector<std::string> names(const std::vector<fs::path>& paths) {
  std::vector<std::string> result;
  for (const fs::path& path : paths) result.push_back(path.filename().string());
  return result;
}

std::string read_if_present(const fs::path& path) {
  return is_there(path) ? read_text_file(path.string(), kMaxConfigBytes) : std::string{};
}

void add_file(ModelIndex& component, const fs::path& path) {
  const FileReader file(path.string());
  SourceFile identity;
  SafetensorsHeader header = read_safetensors_header(file, identity);
  const auto number = static_cast<uint32_t>(component.files.size());
  component.files.push_back(std::move(identity));
  for (TensorInfo& tensor : header.tensors) {
    tensor.file = number;
    component.tensors.push_back(std::move(tensor));
  }
  component.metadata.merge(header.metadata);
}

// Index and shards must agree both ways.
void check_against_index(const ModelIndex& component, const ShardIndex& index,
                         const fs::path& path) {
  std::set<std::string> seen;
  for (const TensorInfo& tensor : component.tensors) {
    const std::string file = fs::path(component.files[tensor.file].path).filename().string();
    const auto entry = index.file_of.find(tensor.name);
    const std::string expected =
        entry == index.file_of.end() ? "no file" : "'" + entry->second + "'";
    if (!seen.insert(tensor.name).second || expected != "'" + file + "'") {
      throw Error(ErrorCode::kMetadata, "the index names " + expected + ", found in '" + file + "'",
                  {.path = path.string(), .tensor = tensor.name});
    }
  }
  for (const auto& [name, file] : index.file_of) {
    if (!seen.contains(name)) {
      throw Error(ErrorCode::kMetadata, "the index names '" + file + "', which does not have it",
                  {.path = path.string(), .tensor = name});
    }
  }
}

void add_shards(ModelIndex& component, const fs::path& index_path,
                std::vector<std::string>& warnings) {
  const ShardIndex index =
      parse_shard_index(read_text_file(index_path.string(), 100'000'000), index_path.string());
  std::set<std::string> shards;
  for (const auto& [name, file] : index.file_of) shards.insert(file);
  std::vector<std::string> missing;
  for (const std::string& shard : shards) {
    if (!is_there(index_path.parent_path() / shard)) missing.push_back(shard);
  }
  if (!missing.empty()) {
    not_found(index_path, "missing shards: " + join(missing),
              "Download them into the same folder.");
  }
  for (const std::string& shard : shards) add_file(component, index_path.parent_path() / shard);
  component.index_path = index_path.string();
  check_against_index(component, index, index_path);
  uint64_t total = 0;
  for (const TensorInfo& tensor : component.tensors) total += tensor.nbytes;
  if (index.total_size && *index.total_size != total) {
    warnings.push_back(index_path.string() + ": total_size says " +
                       std::to_string(*index.total_size) + ", the tensors have " +
                       std::to_string(total) + " bytes");
  }
}

bool add_old_weights(ModelIndex& component, const fs::path& folder, Int2Order int2_order) {
  std::vector<fs::path> files;
  for (const fs::path& path : files_with_suffix(folder, ".parquet")) {
    if (is_folder(path)) {  // a table in several parts
      std::ranges::copy(files_with_suffix(path, ".parquet"), std::back_inserter(files));
    } else {
      files.push_back(path);
    }
  }
  if (files.empty()) return false;
  add_legacy_files(component, choose_legacy_files(files), int2_order);
  return true;
}

// The weights of a component folder: an index, else the usual names, else the only safetensors file
// there is, else Parquet files of an old layout. Returns false when the folder has none.
bool add_weights(ModelIndex& component, const fs::path& folder, Int2Order int2_order,
                 std::vector<std::string>& warnings) {
  const std::vector<fs::path> indexes = files_with_suffix(folder, kIndexSuffix);
  const std::vector<fs::path> files = files_with_suffix(folder, ".safetensors");
  std::error_code error;
  for (const char* stem : {"diffusion_pytorch_model", "model"}) {
    const fs::path index = folder / (std::string(stem) + kIndexSuffix);
    if (is_there(index)) {
      add_shards(component, index, warnings);
      return true;
    }
    const fs::path file = folder / (std::string(stem) + ".safetensors");
    if (fs::exists(fs::symlink_status(file, error))) {
      add_file(component, file);
      return true;
    }
  }
  if (indexes.size() == 1) {
    add_shards(component, indexes[0], warnings);
    return true;
  }
  if (files.size() > 1) {
    const bool shards = files[0].filename().string().find("-of-") != std::string::npos;
    not_found(folder,
              shards ? "several shards but no " + std::string("*") + kIndexSuffix
                     : "several weight files: " + join(names(files)),
              shards ? "Download the index file too." : "Pass the path of one of them.");
  }
  if (files.empty()) return add_old_weights(component, folder, int2_order);
  add_file(component, files[0]);
  return true;
}

void rename_tensors(ModelIndex& component, const std::map<std::string, std::string>& names) {
  for (TensorInfo& tensor : component.tensors) {
    const auto found = names.find(tensor.name);
    if (found != names.end()) tensor.name = found->second;
  }
  std::erase_if(component.tensors, [](const TensorInfo& tensor) { return tensor.name.empty(); });
  std::set<std::string> seen;
  for (const TensorInfo& tensor : component.tensors) {
    if (seen.insert(tensor.name).second) continue;
    throw Error(ErrorCode::kMetadata, "two tensors get this name",
                {.path = component.path, .tensor = tensor.name});
  }
  if (seen.empty()) {
    throw Error(ErrorCode::kMetadata, "no tensor is left of the model", {.path = component.path});
  }
}

ModelIndex make_component(const std::string& name, const fs::path& folder) {
  ModelIndex component;
  component.component = name;
  component.path = folder.string();
  component.config_json = read_if_present(folder / "config.json");
  return component;
}

// Whether a Parquet file lies where the weights of a model or of its components would.
bool has_parquet(const fs::path& path) {
  if (!is_folder(path)) return is_there(path) && path.extension() == ".parquet";
  if (!files_with_suffix(path, ".parquet").empty()) return true;
  return std::ranges::any_of(list(path), [](const fs::path& inner) {
    return is_folder(inner) && !files_with_suffix(inner, ".parquet").empty();
  });
}

[[noreturn]] void no_weights(const fs::path& folder) {
  std::vector<std::string> foreign;
  std::vector<std::string> models;
  for (const fs::path& path : list(folder)) {
    if (is_folder(path)) {
      const bool is_model =
          is_there(path / "model_index.json") || !files_with_suffix(path, ".safetensors").empty();
      if (is_model) models.push_back(path.filename().string());
      for (const fs::path& file : files_with_suffix(path, ".bin")) {
        foreign.push_back(file.lexically_relative(folder).string());
      }
    } else if (is_weight_file(path)) {
      foreign.push_back(path.filename().string());
    }
  }
  std::string hint =
      "Looked for model_index.json, *.safetensors, *.safetensors.index.json and *.parquet.";
  if (!foreign.empty()) {
    hint = "Found " + join(foreign) +
           ". Only safetensors is read: save the model with safe_serialization=True.";
  }
  if (!models.empty()) hint = "Models lie in its subfolders: " + join(models) + ".";
  not_found(folder, "no model in this folder", hint);
}

// Every regular file below `root` that is not a weight file of a component. Links to folders are
// followed as links to files are; the limits stop a loop.
std::vector<std::string> other_files(const fs::path& root, ModelDirectory& model) {
  std::set<fs::path> component_folders;
  std::set<fs::path> old_weights;  // their extension is not enough: a data set has it too
  for (const ModelIndex& component : model.components) {
    component_folders.insert(component.path);
    if (!component.legacy) continue;
    for (const SourceFile& file : component.files) old_weights.insert(file.path);
  }
  std::vector<std::string> result;
  std::error_code error;
  fs::recursive_directory_iterator it(root, fs::directory_options::follow_directory_symlink, error);
  for (; !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    const fs::path& path = it->path();
    const bool hidden = path.filename().string().starts_with('.');
    if (hidden && is_folder(path)) it.disable_recursion_pending();
    if (it.depth() > 16) not_found(path, "folders nested deeper than 16");
    std::error_code ignored;
    if (hidden || is_folder(path) || old_weights.contains(path)) continue;
    // It names the old layout, and what it says of the modality is known by now.
    if (!old_weights.empty() && path == root / "metadata.json") continue;
    if (component_folders.contains(path.parent_path()) && is_weight_file(path)) continue;
    if (path.parent_path() == root &&
        is_weight_file(path)) {  // the pipeline once more, in one file
      model.warnings.push_back(path.string() + ": no component of the pipeline, left out");
      continue;
    }
    if (!is_there(path)) not_found(path, "a symbolic link that leads nowhere");
    if (!fs::is_regular_file(path, ignored)) continue;
    result.push_back(path.lexically_relative(root).generic_string());
    if (result.size() > kMaxOtherFiles)
      not_found(root, "more than 100,000 files: not a model folder");
  }
  if (error) not_found(root, error.message());
  std::ranges::sort(result);
  return result;
}

void open_pipeline(ModelDirectory& model, const fs::path& root, Int2Order int2_order) {
  const fs::path index = root / "model_index.json";
  model.kind = ModelDirectory::Kind::kPipeline;
  model.model_index_json = read_text_file(index.string(), kMaxConfigBytes);
  const nlohmann::json document = parse_config(model.model_index_json, index.string());
  if (!document.is_object()) {
    throw Error(ErrorCode::kMetadata, "expected an object", {.path = index.string()});
  }
  for (const auto& [name, value] : document.items()) {
    const bool plain = name.find_first_of("/\\") == std::string::npos && !name.starts_with('.');
    if (!value.is_array() || !plain || !is_folder(root / name)) continue;
    ModelIndex component = make_component(name, root / name);
    if (add_weights(component, root / name, int2_order, model.warnings)) {
      model.components.push_back(std::move(component));
    }
  }
  if (model.components.empty()) no_weights(root);
}

[[noreturn]] void missing_path(const fs::path& path) {
  fs::path parent = path.parent_path().empty() ? fs::path(".") : path.parent_path();
  if (!path.has_filename()) parent = path.parent_path().parent_path();  // "model/"
  const fs::path wanted = path.has_filename() ? path.filename() : path.parent_path().filename();
  std::string hint = "Pass a model folder or a .safetensors file.";
  if (is_folder(parent.empty() ? "." : parent)) {
    const std::string near =
        nearest(wanted.string(), names(list(parent.empty() ? fs::path(".") : parent)));
    if (!near.empty()) hint = "Did you mean '" + near + "'?";
  }
  not_found(path, "no such file or directory", hint);
}

void open_file(ModelDirectory& model, const fs::path& path, Int2Order int2_order) {
  model.kind = ModelDirectory::Kind::kFile;
  static const std::set<std::string> kPickles = {".bin", ".pt", ".pth", ".ckpt"};
  if (kPickles.contains(path.extension().string())) {
    not_found(path, "a torch pickle is not read: it could run code",
              "Save the model as safetensors (safe_serialization=True).");
  }
  ModelIndex component;
  component.path = path.string();
  if (path.extension() == ".parquet") {
    add_legacy_files(component, {path}, int2_order);
  } else {
    add_file(component, path);
  }
  model.components.push_back(std::move(component));
}

}  // namespace

ModelDirectory open_model(const std::string& path_text, Int2Order int2_order) {
  const fs::path path(path_text);
  ModelDirectory model;
  model.path = path_text;
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) {
    if (fs::is_symlink(fs::symlink_status(path, error))) {
      not_found(path, "a symbolic link that leads nowhere");
    }
    missing_path(path);
  }
  if (status.type() != fs::file_type::directory) {
    open_file(model, path, int2_order);  // FileReader names what is not a regular file
    return model;
  }
  const fs::path root = path.has_filename() ? path : path.parent_path();
  if (is_there(root / "model_index.json")) {
    open_pipeline(model, root, int2_order);
  } else {
    ModelIndex component = make_component("", root);
    if (!add_weights(component, root, int2_order, model.warnings)) no_weights(root);
    model.components.push_back(std::move(component));
  }
  model.metadata_json = read_if_present(root / "metadata.json");
  model.other_files = other_files(root, model);
  return model;
}

ModelDirectory open_model(const std::string& path, const TensorNames& names) {
  ModelDirectory model = open_model(path);
  for (ModelIndex& component : model.components) {
    const auto own = names.find(component.component);
    if (own != names.end()) rename_tensors(component, own->second);
  }
  return model;
}

std::optional<ModelDirectory> open_old_model(const std::string& path, Int2Order int2_order) {
  if (!has_parquet(path)) return std::nullopt;
  try {
    ModelDirectory model = open_model(path, int2_order);
    const auto is_kept = [](const ModelIndex& c) { return c.layout.empty(); };
    for (const ModelIndex& component : model.components) {
      if (!is_kept(component)) continue;
      for (const SourceFile& file : component.files) {
        model.other_files.push_back(fs::path(file.path).lexically_relative(path).generic_string());
      }
      if (component.index_path.empty()) continue;
      const fs::path index = component.index_path;
      model.other_files.push_back(index.lexically_relative(path).generic_string());
    }
    std::erase_if(model.components, is_kept);
    if (model.components.empty()) return std::nullopt;
    return model;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kModelNotFound) throw;
    return std::nullopt;  // Parquet files of something else
  }
}

}  // namespace arrow_quant
