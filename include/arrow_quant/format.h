// Names and limits of the artefact; docs/reference/format.md explains them. Columns are only ever
// added.
#pragma once

#include <cstdint>

namespace arrow_quant {

/// Version of the format that this library writes, and the newest that it reads.
inline constexpr int kFormatVersion = 1;
/// What manifests and Parquet files name the format.
inline constexpr const char* kFormatName = "arrow_quant_v2";
/// The manifest, in the folder of the artefact.
inline constexpr const char* kManifestFile = "manifest.json";
/// The table of a component, or the folder of its parts.
inline constexpr const char* kWeightsFile = "weights.parquet";

/// Most bytes of codes in one row of the table. Smaller than Parquet's limit of 2^31 - 1 so that a
/// writer or reader holds little more than this in memory.
inline constexpr uint64_t kMaxChunkBytes = 64ULL << 20;

/// A component whose planned size exceeds this becomes a folder of parts.
inline constexpr uint64_t kDefaultPartSize = 1ULL << 30;

}  // namespace arrow_quant
