// Streams the tensors of one component into weights.parquet, or into a folder of parts.
//
// Chunks are written as they come; the writer holds at most the small ones of one row group and
// what Parquet needs for one large chunk. Same chunks and metadata, same bytes. Not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "arrow_quant/quantized_tensor.h"
#include "io/staging.h"

namespace arrow_quant {

struct ComponentWriterOptions {
  std::string directory;  ///< of the component in the artefact; "" is the root
  std::map<std::string, std::string> metadata;  ///< key-values of every part's schema
  uint64_t planned_bytes = 0;                   ///< decides between one file and parts
  uint64_t part_size = 1ULL << 30;
};

class ComponentWriter {
 public:
  ComponentWriter(Staging& staging, ComponentWriterOptions options);
  ~ComponentWriter();

  /// Append one chunk. Chunks of a tensor come in order, tensors in source order.
  void append(const QuantizedTensorInfo& info, QuantizedChunk chunk);

  /// Write what is pending, add `metadata` to the key-values of every part, and close; one record
  /// per file, in order.
  std::vector<FileRecord> finish(const std::map<std::string, std::string>& metadata = {});

 private:
  class Part;
  struct Row;

  void flush();

  Staging& staging_;
  ComponentWriterOptions options_;
  bool parts_;
  std::vector<Row> pending_;
  uint64_t pending_bytes_ = 0;
  std::vector<std::unique_ptr<Part>> parts_done_;  ///< open until all metadata is known
  std::unique_ptr<Part> part_;
};

}  // namespace arrow_quant
