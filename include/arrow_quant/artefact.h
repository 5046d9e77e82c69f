// Reads what quantize_model wrote.
//
// Opening checks the manifest, the size of every file and the hash of every Parquet footer, and
// reads nothing else. Tensor names are read at the first use of `tensors`; weights when they are
// asked for, with page checksums verified. All methods are thread-safe. Damage raises kValidation
// (kMetadata when a file cannot be parsed at all).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "arrow_quant/api.h"
#include "arrow_quant/manifest.h"
#include "arrow_quant/quantized_tensor.h"

namespace arrow_quant {

/// An open artefact; see the top of this file.
class ARROW_QUANT_API Artefact {
 public:
  /// Open the artefact folder `path` (a file or folder inside it will do too). Raises
  /// kModelNotFound when there is none.
  static Artefact open(const std::string& path);

  ~Artefact();
  /// May be moved, not copied; what is left can only be destroyed or assigned to.
  Artefact(Artefact&&) noexcept;
  Artefact& operator=(Artefact&&) noexcept;

  /// The folder of the artefact, as it was found.
  const std::string& path() const noexcept;
  /// What manifest.json says.
  const Manifest& manifest() const noexcept;
  /// The text of manifest.json.
  const std::string& manifest_json() const noexcept;

  /// Key-values of the Parquet schema of component number `component`.
  std::map<std::string, std::string> metadata(size_t component) const;

  /// All tensors of a component in source order; cosine and nmse of a tensor in several
  /// chunks are the means over its rows.
  const std::vector<QuantizedTensorInfo>& tensors(size_t component) const;

  /// Bytes of codes, parameters and scales of each tensor, in the order of `tensors`.
  const std::vector<uint64_t>& stored_bytes(size_t component) const;

  /// Read a whole tensor into memory, by its number in `tensors`.
  QuantizedTensor read(size_t component, size_t tensor) const;

  /// Number of chunks of a tensor.
  size_t chunks(size_t component, size_t tensor) const;

  /// One chunk of a tensor where it lies; valid only during the call that it is handed to.
  struct ChunkView {
    uint64_t row_begin = 0;                ///< the first row of the tensor that is in the chunk
    uint64_t rows = 0;                     ///< how many rows are
    std::span<const uint8_t> codes;        ///< rows * packed_row_bytes; the source bytes of a copy
    std::span<const uint8_t> params;       ///< rows * param_row_bytes
    std::span<const uint16_t> row_scales;  ///< fp16 bits, one per row; empty for fp16 parameters
    float tensor_scale = 1.0F;             ///< a power of two
    int8_t offset_unit = 0;                ///< m of two_level
    std::span<const float> equalization;   ///< per input channel; empty: all 1
    std::span<const TimeGroup> time_groups;  ///< by time, apart; empty: nothing depends on time
  };
  /// Read one chunk and hand it to `visit` without a second copy.
  void visit_chunk(size_t component, size_t tensor, size_t chunk,
                   const std::function<void(const ChunkView&)>& visit) const;

  /// Check the hash of every file. `poll` runs between blocks and may throw.
  void verify(const std::function<void()>& poll) const;

 private:
  struct State;
  explicit Artefact(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace arrow_quant
