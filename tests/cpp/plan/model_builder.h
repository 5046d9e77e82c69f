// Models in memory for the plan stage, which reads headers only.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "arrow_quant/model_index.h"

namespace arrow_quant::testing {

inline TensorInfo tensor_of(std::string name, std::vector<uint64_t> shape,
                            DType dtype = DType::kF32) {
  TensorInfo tensor{.name = std::move(name), .dtype = dtype, .shape = std::move(shape)};
  tensor.nbytes = tensor.elements() * dtype_info(dtype).bits / 8;
  return tensor;
}

/// A folder with one component that has these tensors.
inline ModelDirectory component_of(std::vector<TensorInfo> tensors, std::string config_json = {}) {
  ModelDirectory model;
  model.path = "/models/some";
  ModelIndex& component = model.components.emplace_back();
  component.path = model.path;
  component.config_json = std::move(config_json);
  component.tensors = std::move(tensors);
  return model;
}

/// A pipeline of the given class whose components have one linear weight each.
inline ModelDirectory pipeline_of(const std::string& pipeline_class,
                                  const std::vector<std::pair<std::string, std::string>>& parts) {
  ModelDirectory model;
  model.kind = ModelDirectory::Kind::kPipeline;
  model.path = "/models/pipeline";
  model.model_index_json = "{\"_class_name\":\"" + pipeline_class + "\"}";
  for (const auto& [name, config] : parts) {
    ModelIndex& component = model.components.emplace_back();
    component.component = name;
    component.path = model.path + "/" + name;
    component.config_json = config;
    component.tensors.push_back(tensor_of("block.0.to_q.weight", {64, 128}));
  }
  return model;
}

}  // namespace arrow_quant::testing
