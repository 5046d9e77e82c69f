// The whole way in one call each: plan, quantize, validate. These functions join the stages; every
// stage can also be used alone.
//
// Thread safety: the functions may run at the same time on different outputs. Each uses its own
// threads and returns only when they have come to rest. Every failure is an arrow_quant::Error, or
// whatever Progress threw; either way nothing half-written is left behind.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "arrow_quant/api.h"
#include "arrow_quant/model_index.h"
#include "arrow_quant/plan.h"
#include "arrow_quant/progress.h"
#include "arrow_quant/quantized_tensor.h"

namespace arrow_quant {

/// What gets more bits when the accuracy is missed: every layer, or those that miss it.
enum class FallbackScope : uint8_t { kModel, kLayer };

struct EarlierResult;

/// Settings of quantize_model.
struct QuantizeOptions {
  PlanOptions plan;                 ///< what is quantized, to what
  int num_threads = 0;              ///< 0: all cores this process may use
  uint64_t max_memory_mb = 1024;    ///< working memory of the engine; at least 64
  uint64_t part_size = 1ULL << 30;  ///< planned bytes above which a component becomes several files
  bool overwrite = false;           ///< replace an existing artefact of ours, atomically
  double min_accuracy = 0;  ///< mean cosine similarity below which more bits are tried; 0: never
  double min_layer_accuracy = 0;                         ///< the same for the worst layer; 0: never
  FallbackScope fallback_scope = FallbackScope::kModel;  ///< what more bits go to
  bool fail_fast = false;                                ///< raise instead of trying more bits
  std::string statistics_path;       ///< file, or folder of one a component; empty: data-free
  std::string data_free_reason;      ///< why there are none, for the artefact; free of paths
  bool enable_spatial = true;        ///< equalize input channels where it pays; needs statistics
  bool fold_equalization = false;    ///< into parameters before the layers, where that is possible
  bool enable_time_aware = true;     ///< parameters by time where they pay; needs statistics
  int num_time_groups = 10;          ///< at most, 1 to 1000
  int activation_bits = 0;           ///< 8: static activation parameters by group of time; 0: none
  bool is_diffusion = true;          ///< of a modality that is known; for the artefact
  std::string torch_version;         ///< of what recorded the inputs, for the artefact; or empty
  std::string config_json = "{}";    ///< embedded in the artefact; must be free of paths and times
  std::string mixed_precision_json;  ///< how plan.allocation came about, for the manifest
  std::shared_ptr<const EarlierResult>
      earlier;  ///< precomputed tensors to write as they are; null: none
  /// What was done beyond one quantization and what it brought: JSON by key of the schema metadata.
  std::map<std::string, std::string> refinements_json;
};

/// One tensor of the result, in source order.
struct TensorReport {
  std::string component;       ///< as ModelIndex::component
  QuantizedTensorInfo info;    ///< with its errors
  uint64_t stored_bytes = 0;   ///< codes, parameters and row scales
  bool calibrated = false;     ///< the input of the layer was known
  bool lacked_memory = false;  ///< and max_memory_mb did not hold what is made of it
  float equalization = 0;      ///< largest factor of an input channel; 0: none
  bool folded = false;   ///< input channels are multiplied by factors that went into other tensors
  bool divided = false;  ///< rows are divided by factors of layers that follow
  std::vector<TimeGroup> time_groups;  ///< of the tensor, without scales and biases
  bool time_bias = false;              ///< they have biases
  std::string reason;                  ///< as in the plan
};

/// One run over the model.
struct Attempt {
  int bit_width = 0;  ///< the widest that the options or the fallback chose; rules are not counted
  double cosine_similarity = 0;      ///< as in QuantizeReport
  double min_cosine_similarity = 0;  ///< as in QuantizeReport
  std::string worst_layer;           ///< as in QuantizeReport
  double seconds = 0;                ///< wall time
};

/// What quantize_model did.
struct QuantizeReport {
  std::string quantized_path;           ///< the artefact
  std::string modality;                 ///< as Plan::modality
  std::string modality_reason;          ///< the rule that found it
  int bit_width = 0;                    ///< of the attempt that was written
  std::vector<std::string> components;  ///< the quantized ones
  double cosine_similarity = 0;         ///< over quantized tensors, weighted by element count
  double min_cosine_similarity = 0;     ///< the worst quantized tensor
  std::string worst_layer;              ///< its name
  std::string calibration = "none";     ///< or kNeutralData, kUserData: what the samples were
  /// Of `cosine_similarity`: over outputs of layers on held-out inputs where these are known.
  bool cosine_of_outputs = false;
  std::optional<double> output_nmse;  ///< the same mean of the layers' output_nmse
  double nmse = 0;                    ///< sum (w - v)^2 / sum w^2 over quantized tensors
  double bits_per_weight = 0;         ///< codes and all parameters of quantized tensors, per weight
  bool meets_min_accuracy = true;     ///< and min_layer_accuracy
  std::map<int, uint64_t> layers_by_bit_width;  ///< how many quantized tensors have each width
  uint64_t source_bytes = 0;                    ///< weight files of the quantized components
  uint64_t weights_bytes = 0;                   ///< their weights.parquet
  uint64_t total_bytes = 0;                     ///< the whole output directory
  double seconds = 0;                           ///< wall time of the whole run
  std::vector<Attempt> attempts;                ///< in order; the last one was written
  std::vector<std::string> warnings;            ///< for the user, one line each
  std::vector<TensorReport> tensors;            ///< in source order
};

/// A precomputed tensor: one of an earlier run, whose codes and parameters may have been changed
/// since.
struct EarlierTensor {
  TensorReport report;                            ///< as the earlier run gave it
  std::shared_ptr<const QuantizedTensor> tensor;  ///< what is written
};

/// What an earlier run with the same options made of a model. A run that gets one finds no codes
/// for these tensors: it measures them as they are now and writes them. The bits were decided by
/// the earlier run, which also says whether they met the accuracy.
struct EarlierResult {
  std::map<std::pair<std::string, std::string>, EarlierTensor> tensors;  ///< by component and name
  int bit_width = 0;                  ///< of its QuantizeReport, as are the next three
  bool meets_min_accuracy = true;     ///< see bit_width
  std::vector<Attempt> attempts;      ///< see bit_width
  std::vector<std::string> warnings;  ///< see bit_width
};

/// Errors of one tensor of an artefact against the original.
struct TensorComparison {
  std::string component;  ///< as ModelIndex::component
  std::string name;       ///< as in the weight file
  int bit_width = 0;      ///< 0 for copies
  double cosine = 1;      ///< similarity of the weights
  double nmse = 0;        ///< sum (w - v)^2 / sum w^2
};

/// What validate_artefact found.
struct ValidationReport {
  double cosine_similarity = 0;           ///< over quantized tensors, weighted by element count
  double min_cosine_similarity = 0;       ///< of the worst quantized tensor
  std::string worst_layer;                ///< its name
  double nmse = 0;                        ///< sum (w - v)^2 / sum w^2 over quantized tensors
  int bit_width = 0;                      ///< the narrowest of the artefact
  std::vector<TensorComparison> tensors;  ///< in the order of the artefact
  std::vector<std::string> problems;      ///< missing, extra or differing tensors; empty when sound
  /// Whether the fingerprint of the original is the one in the manifest; none in an old layout.
  std::optional<bool> original_matches;
};

/// Read the model's headers and decide what would happen to every tensor. Writes nothing.
ARROW_QUANT_API Plan plan_model(const std::string& model_path, const PlanOptions& options);

/// Quantize the model at `model_path` (a pipeline directory, a component directory or a safetensors
/// file) into the directory `output_path`, which appears complete or not at all.
ARROW_QUANT_API QuantizeReport quantize_model(const std::string& model_path,
                                              const std::string& output_path,
                                              const QuantizeOptions& options, Progress& progress);

/// Raise what quantize_model would raise about its options, the headers of the model, the output
/// path and the space on its disk. Reads no weights and leaves nothing behind.
ARROW_QUANT_API void check_output(const std::string& model_path, const std::string& output_path,
                                  const QuantizeOptions& options);

/// Check every hash of the artefact, then compare every tensor with the original model's.
/// Damage raises kValidation; differences in structure are listed in `problems`. A model in an old
/// Parquet layout, which has no hashes, is compared in the same way. `names` are those that the
/// original was quantized with.
ARROW_QUANT_API ValidationReport validate_artefact(const std::string& original_path,
                                                   const std::string& quantized_path,
                                                   int num_threads, Progress& progress,
                                                   const TensorNames& names = {});

/// Quantize one array in memory, row-major with `info.shape`, element type `info.source_dtype`.
/// `importance` has one weight per column or is empty. Raises kQuantization for NaN or Inf.
ARROW_QUANT_API QuantizedTensor quantize_array(const QuantizedTensorInfo& info,
                                               std::span<const std::byte> data,
                                               std::span<const float> importance, int num_threads,
                                               Progress& progress);

/// Reconstruct the f32 weights of `tensor` into `out` (info.elements() values).
ARROW_QUANT_API void dequantize(const QuantizedTensor& tensor, std::span<float> out,
                                int num_threads);

/// Integer codes, one byte each (signed for `row` parameters), into `out`.
ARROW_QUANT_API void unpack(const QuantizedTensor& tensor, std::span<uint8_t> out);

/// The int8 matrix v and the row scales s of w = s * v. Raises kConfiguration for fp16 parameters.
ARROW_QUANT_API void expand_int8(const QuantizedTensor& tensor, std::span<int8_t> out,
                                 std::span<float> row_scales);

/// The same for memory that somebody else owns. Raises kShapeMismatch where sizes disagree and
/// kConfiguration for a spec that does not exist.
ARROW_QUANT_API void dequantize(const PackedWeightView& weight, std::span<float> out,
                                int num_threads);
/// The int8 matrix v alone, into weight.rows * weight.cols numbers. Raises as dequantize, and
/// kConfiguration for fp16 parameters.
ARROW_QUANT_API void expand_int8(const PackedWeightView& weight, std::span<int8_t> out,
                                 int num_threads);

/// What this build is and runs on.
struct BuildInfo {
  std::string version;                      ///< of this library
  std::string isa;                          ///< instruction set in use
  std::vector<std::string> supported_isas;  ///< what this CPU could use
  std::string arrow_version;                ///< of Arrow C++
  std::string openblas;                     ///< version and kernels
  std::string compiler;                     ///< name and version
  int cores = 0;                            ///< that this process may use
};
/// Facts for reports of faults.
ARROW_QUANT_API BuildInfo build_info();

}  // namespace arrow_quant
