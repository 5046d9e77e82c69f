// No byte of memory that was used before reaches a file. This program has allocators of its own in
// place of core/pages.cc and core/byte_buffer.cc, which fill every block with a poison; the heap
// does so too.
#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <string>
#include <vector>

#include "arrow_quant/byte_buffer.h"
#include "arrow_quant/calibration.h"
#include "arrow_quant/page_reuse.h"
#include "arrow_quant/pipeline.h"
#include "calibrate/statistics_fixture.h"
#include "core/pages.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

namespace arrow_quant {
namespace {

std::atomic<int> poison = 0;

void* poisoned(size_t size) noexcept {
  void* block = std::aligned_alloc(64, (size + 64) / 64 * 64);
  if (block != nullptr) std::memset(block, poison, size);
  return block;
}

}  // namespace

void* map_pages(size_t size) noexcept { return poisoned(size); }

void* remap_pages(void* block, size_t old_size, size_t new_size) noexcept {
  void* other = poisoned(new_size);
  if (other == nullptr) return nullptr;
  std::memcpy(other, block, std::min(old_size, new_size));
  std::free(block);
  return other;
}

void unmap_pages(void* block, size_t size) noexcept {
  std::memset(block, poison, size);
  std::free(block);
}

PageReuse::PageReuse() noexcept = default;
PageReuse::~PageReuse() = default;

void* allocate_block(size_t size) {
  void* block = poisoned(size);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}

void free_block(void* block, size_t size) noexcept { unmap_pages(block, size); }

namespace {

using testing::f32_tensor;
using testing::QuietProgress;
using testing::read_tree;
using testing::TempFolder;
using testing::TinyTensor;

std::vector<TinyTensor> tensors() {
  std::vector<TinyTensor> all = testing::tiny_tensors();
  all.push_back(f32_tensor("block.large.weight", {700, 400}, 6));  // several blocks of rows
  all.push_back(f32_tensor("block.odd.weight", {7, 131}, 7));      // rows that end within a byte
  all.push_back(f32_tensor("block.none.weight", {0, 16}, 8));
  all.push_back(testing::raw_tensor("block.ids", DType::kI64, {3000}));
  return all;
}

/// Statistics of the inputs of all weights at three times.
void calibrate(const std::string& path) {
  CalibrationStatistics statistics({.num_threads = 1});
  QuietProgress progress;
  for (const TinyTensor& tensor : tensors()) {
    if (tensor.shape.size() < 2 || tensor.bytes.empty()) continue;
    std::vector<float> weights(tensor.bytes.size() / sizeof(float));
    std::memcpy(weights.data(), tensor.bytes.data(), tensor.bytes.size());
    std::vector<float> sample;
    for (const uint64_t at : weight_sample_positions(weights.size())) {
      sample.push_back(weights[at]);
    }
    const uint64_t channels = weights.size() / tensor.shape[0];
    const size_t input = statistics.add_input({{tensor.name, tensor.shape, sample}}, channels);
    for (const double time : {0.0, 500.0, 900.0}) {
      std::vector<float> x = testing::random_activations(40, channels, static_cast<unsigned>(time));
      for (size_t i = 0; i < x.size(); i += channels) x[i] *= 50;  // a channel to equalize
      statistics.add(input, {x, time, 1.0F, time == 500.0}, progress);
    }
  }
  statistics.save(path, false);
}

/// Every file of artefacts of all widths and methods, made with blocks full of `fill`.
std::map<std::string, std::string> files_with(int fill) {
  poison = fill;
  ::mallopt(M_PERTURB, fill);
  const TempFolder temp;
  testing::write_tiny_model(temp.path() / "model", tensors());
  calibrate(temp / "statistics");
  QuantizeOptions options;
  options.num_threads = 2;
  options.plan.modality = "image";
  QuietProgress progress;
  const auto quantize = [&](const std::string& name) {
    (void)quantize_model(temp / "model", temp / ("out/" + name), options, progress);
  };
  for (const int bits : {2, 4, 8}) {
    for (const Method method : {Method::kRtn, Method::kSearch}) {
      for (const auto encoding : {ParamEncodingChoice::kAuto, ParamEncodingChoice::kFp16}) {
        options.plan.bit_width = bits;
        options.plan.method = method;
        options.plan.param_encoding = encoding;
        quantize(std::to_string(bits) + std::string(to_string(method)) +
                 std::to_string(static_cast<int>(encoding)));
      }
    }
  }
  options.plan.param_encoding = ParamEncodingChoice::kAuto;
  options.statistics_path = temp / "statistics";
  options.plan.choose_method = true;
  options.activation_bits = 8;
  for (const int bits : {2, 4, 8}) {
    options.plan.bit_width = bits;
    quantize("calibrated" + std::to_string(bits));
  }
  auto files = read_tree(temp / "out");
  files["statistics"] = testing::read_file(temp / "statistics");
  return files;
}

TEST(OldBytes, NeverReachAFile) {
  const std::map<std::string, std::string> clean = files_with(0);
  ASSERT_GT(clean.size(), 30U);
  for (const int fill : {0xFF, 0x5A}) {
    for (const auto& [name, bytes] : files_with(fill)) {
      EXPECT_TRUE(bytes == clean.at(name)) << name << " holds bytes of unused memory";
    }
  }
}

}  // namespace
}  // namespace arrow_quant
