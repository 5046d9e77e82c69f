// Small safetensors files with reproducible weights.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "arrow_quant/dtype.h"
#include "arrow_quant/progress.h"
#include "support/temp_folder.h"

namespace arrow_quant::testing {

struct TinyTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<uint64_t> shape;
  std::string bytes;
};

inline uint64_t count_of(const std::vector<uint64_t>& shape) {
  uint64_t n = 1;
  for (const uint64_t dim : shape) n *= dim;
  return n;
}

/// Normal weights with a different scale per row, as real layers have.
inline std::vector<float> random_weights(const std::vector<uint64_t>& shape, uint32_t seed) {
  std::mt19937 generator(seed);
  const uint64_t rows = shape.empty() ? 1 : shape[0];
  const uint64_t cols = rows == 0 ? 0 : count_of(shape) / rows;
  std::vector<float> weights;
  for (uint64_t row = 0; row < rows; ++row) {
    const double scale = 0.02 * std::exp2(static_cast<double>(generator() % 64) / 16 - 2);
    for (uint64_t col = 0; col < cols; ++col) {
      double sum = 0;  // of twelve uniforms: the same on every platform
      for (int i = 0; i < 12; ++i) sum += static_cast<double>(generator()) / 4294967296.0;
      weights.push_back(static_cast<float>(scale * (sum - 6)));
    }
  }
  return weights;
}

inline TinyTensor f32_tensor(std::string name, std::vector<uint64_t> shape,
                             const std::vector<float>& weights) {
  TinyTensor tensor{std::move(name), DType::kF32, std::move(shape), {}};
  tensor.bytes.resize(weights.size() * sizeof(float));
  if (!weights.empty()) std::memcpy(tensor.bytes.data(), weights.data(), tensor.bytes.size());
  return tensor;
}

inline TinyTensor f32_tensor(const std::string& name, const std::vector<uint64_t>& shape,
                             uint32_t seed) {
  return f32_tensor(name, shape, random_weights(shape, seed));
}

/// Any dtype, any bytes: what a copy must carry over.
inline TinyTensor raw_tensor(std::string name, DType dtype, std::vector<uint64_t> shape) {
  TinyTensor tensor{std::move(name), dtype, std::move(shape), {}};
  tensor.bytes.resize(count_of(tensor.shape) * dtype_info(dtype).bits / 8);
  for (size_t i = 0; i < tensor.bytes.size(); ++i) tensor.bytes[i] = static_cast<char>(i * 37 + 11);
  return tensor;
}

inline void write_safetensors(const fs::path& path, const std::vector<TinyTensor>& tensors) {
  std::string header = "{";
  std::string data;
  for (const TinyTensor& tensor : tensors) {
    if (header.size() > 1) header += ",";
    header += "\"" + tensor.name + "\":{\"dtype\":\"" + std::string(dtype_info(tensor.dtype).name) +
              "\",\"shape\":[";
    for (size_t i = 0; i < tensor.shape.size(); ++i) {
      header += (i == 0 ? "" : ",") + std::to_string(tensor.shape[i]);
    }
    header += "],\"data_offsets\":[" + std::to_string(data.size()) + ",";
    data += tensor.bytes;
    header += std::to_string(data.size()) + "]}";
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const uint64_t length = header.size();
  std::string file(sizeof(length), '\0');
  std::memcpy(file.data(), &length, sizeof(length));
  write_file(path, file + header + data);
}

/// Quantized by default: two_level (w1, conv), fp16 (short); kept: bias, norm.
inline std::vector<TinyTensor> tiny_tensors() {
  return {f32_tensor("block.w1.weight", {24, 160}, 1), f32_tensor("block.w1.bias", {24}, 2),
          f32_tensor("block.norm.weight", {24}, 3), f32_tensor("block.short.weight", {40, 36}, 4),
          f32_tensor("block.conv.weight", {8, 16, 3, 3}, 5)};
}

/// A component folder that says nothing but its weights.
inline std::string write_tiny_model(const fs::path& folder,
                                    const std::vector<TinyTensor>& tensors = tiny_tensors()) {
  write_safetensors(folder / "diffusion_pytorch_model.safetensors", tensors);
  write_file(folder / "config.json", R"({"_class_name": "UNet2DModel", "sample_size": 8})");
  return folder.string();
}

/// A pipeline with a denoiser and a kept component.
inline std::string write_tiny_pipeline(const fs::path& folder) {
  write_file(folder / "model_index.json",
             R"({"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"],)"
             R"( "vae": ["diffusers", "AutoencoderKL"],)"
             R"( "scheduler": ["diffusers", "DDPMScheduler"]})");
  write_tiny_model(folder / "unet");
  write_safetensors(folder / "vae" / "diffusion_pytorch_model.safetensors",
                    {f32_tensor("decoder.weight", {16, 64}, 9), raw_tensor("n", DType::kI64, {})});
  write_file(folder / "vae" / "config.json", R"({"_class_name": "AutoencoderKL"})");
  write_file(folder / "scheduler" / "scheduler_config.json", R"({"num_train_timesteps": 100})");
  write_file(folder / "README.md", "tiny\n");
  return folder.string();
}

/// Hears everything and never stops the job.
class QuietProgress : public Progress {
 public:
  void report(std::string_view /*message*/, double fraction) override {
    fractions.push_back(fraction);
  }
  void poll() override {}
  std::vector<double> fractions;
};

}  // namespace arrow_quant::testing
