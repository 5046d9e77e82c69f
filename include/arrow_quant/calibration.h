// What calibration learns about the inputs of a model's layers, and the file that keeps it.
//
// Feed activations block by block; layers that share an input share its statistics. Statistics of
// the same layers add up, so that many runs or machines can work on one model. Every layer carries
// a few of its weights, by which statistics are refused for any other model.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "arrow_quant/api.h"
#include "arrow_quant/gram.h"
#include "arrow_quant/progress.h"

namespace arrow_quant {

/// A weight whose input is observed.
struct CalibratedLayer {
  std::string name;  ///< as in the weight file: "mid_block.attn.to_q.weight"
  std::vector<uint64_t>
      shape;                  ///< of the weight; shape[1] * shape[2] * ... = channels of its input
  std::vector<float> sample;  ///< its elements at weight_sample_positions
};

/// Which elements of a weight, in row-major order, identify it.
ARROW_QUANT_API std::vector<uint64_t> weight_sample_positions(uint64_t elements);

/// Whether two samples come from one weight, allowing for conversion to f16 or bf16.
ARROW_QUANT_API bool same_weight(std::span<const float> a, std::span<const float> b) noexcept;

/// Tokens that WeightedSum::sample keeps, at most.
inline constexpr size_t kSampleTokens = 4;

/// Sums over tokens as they enter a Gram matrix.
struct WeightedSum {
  double weight = 0;        ///< sum of the weights of the tokens
  std::vector<double> sum;  ///< per channel: sum of weight * x
  /// Some of them as they are, [n][channels], n at most kSampleTokens: those whose bytes have the
  /// least hashes, so that the choice does not depend on the order of adding.
  std::vector<float> sample;
};

/// Range and moments of every channel over the tokens whose timestep lies in [begin, end).
struct TimeBin {
  double begin = 0;                  ///< the first timestep
  double end = 0;                    ///< the first timestep after
  uint64_t tokens = 0;               ///< of both kinds
  std::vector<float> low, high;      ///< per channel
  std::vector<double> sum, squares;  ///< per channel: of values and of their squares
  WeightedSum fitted;                ///< of the tokens in `gram`
  WeightedSum held_out;              ///< of the tokens in `held_out`
};

/// Rows of a parameter that make the channels of an input, one each, in order.
struct FoldSource {
  std::string name;   ///< of the parameter, as in the weight file
  uint64_t row = 0;   ///< the first of them
  double offset = 0;  ///< what is added to every one before it is used: 1 in x * (1 + scale)

  bool operator==(const FoldSource&) const = default;
};

/// Layers whose input comes out divided, channel by channel, when rows of parameters before them
/// are divided, and nothing else changes: (p + offset) / f for each row p of all `sources`.
struct Fold {
  std::vector<std::string> layers;  ///< all that read the input, by their weights
  std::vector<FoldSource> sources;  ///< their rows, one after the other, are the channels

  bool operator==(const Fold&) const = default;
};

/// What is known about one input.
struct InputStatistics {
  std::vector<CalibratedLayer> layers;  ///< that read the input
  GramMatrix gram;                      ///< of the tokens to fit to
  GramMatrix held_out;  ///< of tokens set aside to choose by; no channels if there were none
  uint64_t tokens = 0;  ///< in `gram`
  uint64_t held_out_tokens = 0;  ///< in `held_out`
  std::vector<TimeBin> bins;     ///< by time, apart; tokens of both kinds
};

/// What the samples of a calibration were.
inline constexpr const char* kNeutralData = "neutral";  ///< made up, from a seed alone
inline constexpr const char* kUserData = "user";        ///< the user's own

/// Settings of new statistics.
struct CalibrationOptions {
  std::string component;         ///< of the pipeline that the layers belong to; empty: the only one
  std::string data = kUserData;  ///< or kNeutralData
  int num_threads = 0;           ///< 0: all cores this process may use
};

/// A block of activations: values[tokens][channels], row-major.
struct Activations {
  std::span<const float> values;           ///< tokens * channels
  double timestep = 0;                     ///< or mask ratio, or noise level
  float weight = 1.0F;                     ///< of these tokens in the Gram matrix, above 0
  bool held_out = false;                   ///< set these tokens aside to choose and to report by
  std::span<const double> timesteps = {};  ///< one a token, instead of `timestep`; or empty
};

/// Sums over the inputs of layers, to be filled, merged, saved and loaded. Thread-safe; blocks are
/// added one at a time, each with all threads. Whatever is read is a copy, so it stays as it was
/// while others add.
class ARROW_QUANT_API CalibrationStatistics {
 public:
  /// Statistics without inputs.
  explicit CalibrationStatistics(const CalibrationOptions& options);
  ~CalibrationStatistics();
  /// May be moved, not copied.
  CalibrationStatistics(CalibrationStatistics&&) noexcept;
  CalibrationStatistics& operator=(CalibrationStatistics&&) noexcept;

  /// Announce an input and the layers that read it; returns its number. `block`, unless 0, keeps
  /// only the diagonal blocks of that many channels (a multiple of GramMatrix::kTile). Raises
  /// kShapeMismatch when a layer's shape and `channels` differ or its name is already known.
  size_t add_input(std::vector<CalibratedLayer> layers, uint64_t channels, uint64_t block = 0);

  /// Add a block to an input's statistics. NaN, Inf or values beyond 1e15 raise kQuantization with
  /// the layer, the timestep and the place; nothing has then been added. `progress` is polled
  /// before and after, never while others wait for this call.
  void add(size_t input, const Activations& block, Progress& progress);

  /// Keep a remark, one line: what could not be observed, and why. A known one is not repeated.
  void add_note(const std::string& text);

  /// Say where factors of input channels can be folded into parameters before the layers.
  void set_folds(std::vector<Fold> folds);

  /// Say what errors of the outputs of layers do to the prediction: by the name of the weight, the
  /// NMSE of the prediction over that of the outputs. Raises kConfiguration unless all are finite
  /// and at least 0.
  void set_sensitivities(const std::map<std::string, double>& sensitivities);

  /// Say which weights are not to be quantized, by name, and what they are to the network: what a
  /// run or the modules of the network told.
  void set_roles(std::map<std::string, std::string> roles);

  /// Add what `other` has seen; folds stay that both know. A layer's sensitivity becomes the mean
  /// of all runs that measured it, whatever the order of merging. Inputs are matched by their
  /// layers; new ones are taken over; data of which a part is the user's counts as the user's.
  /// Raises kShapeMismatch when the two are not of the same model and component.
  void merge(const CalibrationStatistics& other);

  /// Of the pipeline, as the options named it.
  std::string component() const;
  /// kNeutralData or kUserData.
  std::string data() const;
  /// In the order of adding.
  std::vector<std::string> notes() const;
  /// Nothing when nobody looked for them.
  std::optional<std::vector<Fold>> folds() const;
  /// What set_sensitivities or a file said; empty when nothing did.
  std::map<std::string, double> sensitivities() const;
  /// What set_roles or a file said; empty when nothing did.
  std::map<std::string, std::string> roles() const;
  /// Number of inputs.
  size_t size() const noexcept;

  /// Everything about one input, its matrices too; what follows copies less. All of them raise
  /// std::out_of_range when there is no such input.
  InputStatistics input(size_t number) const;
  /// The layers that read it.
  std::vector<CalibratedLayer> layers(size_t input) const;
  /// How many channels it has.
  uint64_t channels(size_t input) const;
  uint64_t block(size_t input) const;  ///< channels of a diagonal block of the Gram matrix
  /// Tokens in the Gram matrix, of one kind.
  uint64_t tokens(size_t input, bool held_out) const;
  /// Moments by time.
  std::vector<TimeBin> bins(size_t input) const;
  GramMatrix gram(size_t input, bool held_out) const;  ///< no channels: no token was held out

  /// Write everything to the Parquet file `path` in one step; an existing file is replaced if
  /// `overwrite`. Raises kOutput.
  void save(const std::string& path, bool overwrite) const;

  /// Read a file that `save` wrote. Raises kModelNotFound, kMetadata or kValidation.
  static CalibrationStatistics load(const std::string& path, int num_threads = 0);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace arrow_quant
