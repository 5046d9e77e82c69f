// Names and limits of the artefact; docs/format.md explains them. Columns are only ever added.
#pragma once

#include <cstdint>

namespace arrow_quant {

inline constexpr int kFormatVersion = 1;
inline constexpr const char* kFormatName = "arrow_quant_v2";
inline constexpr const char* kManifestFile = "manifest.json";
inline constexpr const char* kWeightsFile = "weights.parquet";

/// Most bytes of codes in one row of the table. Smaller than Parquet's limit of 2^31 - 1 so that a
/// writer or reader holds little more than this in memory.
inline constexpr uint64_t kMaxChunkBytes = 64ULL << 20;

/// A component whose planned size exceeds this becomes a folder of parts.
inline constexpr uint64_t kDefaultPartSize = 1ULL << 30;

}  // namespace arrow_quant
