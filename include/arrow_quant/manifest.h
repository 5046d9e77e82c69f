// What manifest.json says: the last file of an artefact to be written and the first to be read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace arrow_quant {

/// One file of the artefact, by its path relative to the artefact's folder, with '/'.
struct FileRecord {
  std::string path;
  uint64_t size = 0;
  std::string hash;         ///< XXH3-128 of the whole file
  std::string footer_hash;  ///< of the Parquet footer; empty for other files
};

/// One quantized component.
struct ManifestComponent {
  std::string name;                ///< "unet"; empty when the model is itself one component
  std::vector<std::string> parts;  ///< its Parquet files, in order
  uint64_t tensors = 0;
};

struct Manifest {
  std::string tool_version;
  std::string modality;
  std::string source_fingerprint;
  std::string config_json = "{}";
  std::string report_json = "{}";  ///< what was measured: cosine, attempts, bits per weight
  std::string machine_json;        ///< what rounded the last bits; empty: they do not depend on it
  std::vector<ManifestComponent> components;
  std::vector<FileRecord> files;  ///< all files but the manifest itself, by path
};

}  // namespace arrow_quant
