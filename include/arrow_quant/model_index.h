// What the read stage hands on: every tensor of one component and where its bytes lie.
//
// Nothing here owns weight data. Offsets are absolute and already checked against the file size.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "arrow_quant/dtype.h"

namespace arrow_quant {

/// One tensor of a weight file.
struct TensorInfo {
  std::string name;             ///< as in the file
  DType dtype = DType::kF32;    ///< of its elements
  std::vector<uint64_t> shape;  ///< empty for a scalar
  uint32_t file = 0;            ///< index into ModelIndex::files
  uint64_t offset = 0;  ///< absolute byte offset of the first element in that file; in an old
                        ///< Parquet layout the number of the tensor in ModelIndex::legacy
  uint64_t nbytes = 0;  ///< bytes of its elements

  /// Number of elements; the read stage has checked that it fits.
  uint64_t elements() const noexcept {
    uint64_t n = 1;
    for (uint64_t dim : shape) n *= dim;
    return n;
  }
};

/// A weight file as it was when its header was validated; reading fails if it changes later.
struct SourceFile {
  std::string path;         ///< as it is opened
  uint64_t size = 0;        ///< bytes
  int64_t mtime_ns = 0;     ///< time of the last change, nanoseconds since 1970
  uint64_t inode = 0;       ///< number of the file in its file system
  std::string header_hash;  ///< XXH3-128 of the header (Parquet: footer) bytes
};

/// Which of four packed 2-bit values comes first in the old layouts that have them: the one in the
/// lowest bits, or the one in the highest (a reader of that time took them so).
enum class Int2Order : uint8_t { kLsb, kMsb };

/// How the rows of an old Parquet layout are decoded; private to the read stage.
struct LegacyIndex;

/// One component (a directory with config.json and weights, or a single weight file).
struct ModelIndex {
  std::string component;          ///< "unet"; empty when the model is itself one component
  std::string path;               ///< directory of the component, or the weight file
  std::string config_json;        ///< text of config.json; empty when there is none
  std::string index_path;         ///< shard index beside the weights; empty when there is one file
  std::vector<SourceFile> files;  ///< the weight files
  std::vector<TensorInfo> tensors;              ///< in source order: by file, then by offset
  std::map<std::string, std::string> metadata;  ///< of the weight files, merged over files
  std::string layout;                           ///< name of an old Parquet layout; else empty
  std::shared_ptr<const LegacyIndex> legacy;    ///< set for an old Parquet layout

  /// Bytes of all weight files.
  uint64_t total_bytes() const noexcept {
    uint64_t n = 0;
    for (const SourceFile& file : files) n += file.size;
    return n;
  }
};

/// Names in place of those of the files, by component: source name -> name, or "" to leave the
/// tensor out. Tensors that are not in it keep their names.
using TensorNames = std::map<std::string, std::map<std::string, std::string>>;

/// A model as a user names it: a pipeline directory, one component, or one file.
struct ModelDirectory {
  enum class Kind { kFile, kComponent, kPipeline };  ///< what `path` is
  Kind kind = Kind::kComponent;                      ///< the kind that was found
  std::string path;                                  ///< as the user named it
  std::string model_index_json;                      ///< text of model_index.json for a pipeline
  std::string metadata_json;           ///< text of metadata.json; empty when there is none
  std::vector<ModelIndex> components;  ///< those that have weights, by name
  /// Every other regular file to carry over, relative to `path` (configs, scheduler, tokenizer,
  /// README), sorted; weight files and shard indexes of `components` are not in it.
  std::vector<std::string> other_files;
  std::vector<std::string> warnings;  ///< for the user, one line each
};

}  // namespace arrow_quant
