#include "read/legacy/model.h"

#include <memory>
#include <set>
#include <string>
#include <utility>

#include "arrow_quant/error.h"
#include "io/file_reader.h"
#include "read/legacy/columns.h"
#include "read/legacy/file.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxTensors = 1'000'000;

bool is_weights_name(const fs::path& path) {
  return path.filename().string().starts_with("weights");
}

/// Gathers the tensors of one component.
class LegacyModelBuilder {
 public:
  LegacyModelBuilder(ModelIndex& component, Int2Order int2_order)
      : component_(component), index_(std::make_shared<LegacyIndex>()) {
    index_->int2_order = int2_order;
  }

  void add(const fs::path& path) {
    LegacyFile file(path.string());
    check_layout(file.layout(), path.string());
    const auto number = static_cast<uint32_t>(component_.files.size());
    component_.files.push_back(file.identity());
    const std::vector<LegacyRecord> records = file.records();
    const bool one_row = index_->layout == LegacyLayout::kTensorFiles ||
                         index_->layout == LegacyLayout::kDiffusionFiles;
    if (one_row && records.size() != 1) {
      fail_legacy(path.string(), "expected one row, found " + std::to_string(records.size()));
    }
    for (const LegacyRecord& record : records) add_tensor(record, path, number);
  }

  void finish() {
    if (component_.tensors.empty()) fail_legacy(component_.path, "the model has no tensors");
    component_.layout = std::string(to_string(index_->layout));
    component_.legacy = std::move(index_);
  }

 private:
  void check_layout(LegacyLayout layout, const std::string& path) {
    if (component_.files.empty()) index_->layout = layout;
    if (index_->layout == layout) return;
    fail_legacy(path, "this file has layout " + std::string(to_string(layout)) +
                          ", the ones before it have layout " +
                          std::string(to_string(index_->layout)));
  }

  void add_tensor(const LegacyRecord& record, const fs::path& path, uint32_t file) {
    const std::string where = path.string();
    if (!names_.insert(record.name).second) {
      fail_legacy(where, "a second tensor of this name", record.name);
    }
    if (index_->tensors.size() == kMaxTensors) fail_legacy(where, "more than a million tensors");
    const LegacyTensor tensor = interpret_legacy(index_->layout, record, where);
    if (tensor.in_companion) file = add_companion(record, path);
    component_.tensors.push_back({.name = record.name,
                                  .dtype = tensor.dtype,
                                  .shape = record.shape,
                                  .file = file,
                                  .offset = index_->tensors.size(),
                                  .nbytes = record.elements * (dtype_info(tensor.dtype).bits / 8)});
    index_->tensors.push_back(tensor);
    if (!record.modality.empty()) component_.metadata.emplace("modality", record.modality);
  }

  // `<stem>.bin`, raw f32. The name comes from the directory, never from the file's contents.
  uint32_t add_companion(const LegacyRecord& record, const fs::path& path) {
    const fs::path companion = fs::path(path).replace_extension(".bin");
    std::error_code error;
    if (!fs::exists(companion, error)) fail_legacy_absent(record, path.string());
    const FileReader file(companion.string());
    if (file.size() != record.elements * sizeof(float)) {
      fail_legacy_size("bytes of float32", record.elements * sizeof(float), file.size(), record,
                       companion.string());
    }
    component_.files.push_back({.path = companion.string(),
                                .size = file.size(),
                                .mtime_ns = file.mtime_ns(),
                                .inode = file.inode(),
                                .header_hash = {}});
    return static_cast<uint32_t>(component_.files.size() - 1);
  }

  ModelIndex& component_;
  std::shared_ptr<LegacyIndex> index_;
  std::set<std::string> names_;
};

}  // namespace

std::vector<fs::path> choose_legacy_files(const std::vector<fs::path>& files) {
  std::vector<fs::path> weights;
  for (const fs::path& path : files) {
    if (is_weights_name(path)) weights.push_back(path);
  }
  if (weights.empty()) return files;
  // In a folder of one file per tensor, "weights" may also be how a tensor's name begins.
  const LegacyLayout layout = LegacyFile(weights.front().string()).layout();
  const bool table = layout == LegacyLayout::kFloatTable || layout == LegacyLayout::kQuantizedTable;
  return table ? weights : files;
}

void add_legacy_files(ModelIndex& component, const std::vector<fs::path>& files,
                      Int2Order int2_order) {
  LegacyModelBuilder builder(component, int2_order);
  for (const fs::path& path : files) builder.add(path);
  builder.finish();
}

}  // namespace arrow_quant
