// What manifest.json says: the last file of an artefact to be written and the first to be read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace arrow_quant {

/// One file of the artefact, by its path relative to the artefact's folder, with '/'.
struct FileRecord {
  std::string path;         ///< relative to the folder of the artefact, with '/'
  uint64_t size = 0;        ///< bytes
  std::string hash;         ///< XXH3-128 of the whole file
  std::string footer_hash;  ///< of the Parquet footer; empty for other files
};

/// One quantized component.
struct ManifestComponent {
  std::string name;                ///< "unet"; empty when the model is itself one component
  std::vector<std::string> parts;  ///< its Parquet files, in order
  uint64_t tensors = 0;            ///< how many it holds
};

/// The fields of manifest.json.
struct Manifest {
  std::string tool_version;        ///< of the library that wrote the artefact
  std::string modality;            ///< as Plan::modality
  std::string source_fingerprint;  ///< hash of configurations, headers and samples of the weights
  std::string config_json = "{}";  ///< the settings of the run
  std::string report_json = "{}";  ///< what was measured: cosine, attempts, bits per weight
  std::string machine_json;        ///< what rounded the last bits; empty: they do not depend on it
  std::vector<ManifestComponent> components;  ///< the quantized ones
  std::vector<FileRecord> files;              ///< all files but the manifest itself, by path
};

}  // namespace arrow_quant
