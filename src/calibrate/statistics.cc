// CalibrationStatistics: inputs, their locks, and merging.
#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "arrow_quant/calibration.h"
#include "arrow_quant/error.h"
#include "calibrate/accumulate.h"
#include "calibrate/sensitivity_runs.h"
#include "calibrate/statistics_file.h"
#include "calibrate/time_bins.h"
#include "core/thread_pool.h"
#include "kernels/convert.h"
#include "kernels/isa.h"

namespace arrow_quant {
namespace {

constexpr uint64_t kSamples = 32;
constexpr float kLargest = 1e15F;  // its square, times any number of tokens, is a finite f32

uint64_t product(std::span<const uint64_t> dims) noexcept {
  uint64_t n = 1;
  for (uint64_t dim : dims) n *= dim;
  return n;
}

std::string shape_text(const std::vector<uint64_t>& shape) {
  std::string text;
  for (uint64_t dim : shape) text += (text.empty() ? "" : " x ") + std::to_string(dim);
  return "[" + text + "]";
}

void check_layer(const CalibratedLayer& layer, uint64_t channels) {
  const bool fits = layer.shape.size() >= 2 && channels > 0 &&
                    product(std::span(layer.shape).subspan(1)) == channels;
  if (!fits) {
    throw Error(ErrorCode::kShapeMismatch,
                "expected a weight whose rows have " + std::to_string(channels) +
                    " elements, found shape " + shape_text(layer.shape),
                {.tensor = layer.name});
  }
  const size_t samples = weight_sample_positions(product(layer.shape)).size();
  if (layer.sample.size() != samples) {
    throw Error(ErrorCode::kShapeMismatch,
                "expected a sample of " + std::to_string(samples) + " weights, found " +
                    std::to_string(layer.sample.size()),
                {.tensor = layer.name, .hint = "weight_sample_positions says which."});
  }
}

bool finite(double value) noexcept { return std::isfinite(value); }

double timestep_of(const Activations& block, uint64_t token) {
  return block.timesteps.empty() ? block.timestep : block.timesteps[token];
}

void check_values(const InputStatistics& input, const Activations& block) {
  const uint64_t channels = input.gram.channels();
  const ErrorContext where{.tensor = input.layers.front().name};
  if (block.values.size() % channels != 0) {
    throw Error(ErrorCode::kShapeMismatch,
                "expected rows of " + std::to_string(channels) + " activations, found " +
                    std::to_string(block.values.size()) + " values",
                where);
  }
  const uint64_t tokens = block.values.size() / channels;
  if (!block.timesteps.empty() && block.timesteps.size() != tokens) {
    throw Error(ErrorCode::kShapeMismatch,
                "expected one timestep for each of " + std::to_string(tokens) + " tokens, found " +
                    std::to_string(block.timesteps.size()),
                where);
  }
  const auto bad_time = std::ranges::find_if_not(block.timesteps, finite);
  const double timestep = bad_time == block.timesteps.end() ? block.timestep : *bad_time;
  if (!finite(timestep) || !std::isfinite(block.weight) || block.weight <= 0) {
    throw Error(ErrorCode::kConfiguration,
                "expected finite timesteps and a weight above 0, found " +
                    std::to_string(timestep) + " and " + std::to_string(block.weight),
                where);
  }
  const size_t bad = find_non_finite(block.values.data(), block.values.size());
  if (bad == block.values.size() && absmax(block.values.data(), bad) <= kLargest) return;
  std::string what = "expected activations within 1e15, found larger ones";
  uint64_t token = 0;
  if (bad != block.values.size()) {
    token = bad / channels;
    what = "expected finite activations, found NaN or Inf at token " + std::to_string(token) +
           ", channel " + std::to_string(bad % channels);
  }
  ErrorContext context = where;
  context.hint = "Run the model in float32, or leave this sample out.";
  throw Error(ErrorCode::kQuantization,
              what + ", timestep " + std::to_string(timestep_of(block, token)), context);
}

bool same_layer(const CalibratedLayer& a, const CalibratedLayer& b) {
  return a.name == b.name && a.shape == b.shape && same_weight(a.sample, b.sample);
}

/// Whoever found less saw more: another use of an input.
void keep_common(const std::optional<std::vector<Fold>>& from,
                 std::optional<std::vector<Fold>>& to) {
  if (!from) to.reset();
  if (!to) return;
  std::erase_if(*to,
                [&](const Fold& fold) { return std::ranges::find(*from, fold) == from->end(); });
}

bool is_sensitivity(double value) { return std::isfinite(value) && value >= 0; }

void add_matrix(const GramMatrix& from, GramMatrix& to) {
  if (from.channels() == 0) return;
  if (to.channels() == 0) to = from.zeros();
  for (size_t i = 0; i < from.values().size(); ++i) to.values()[i] += from.values()[i];
}

}  // namespace

std::vector<uint64_t> weight_sample_positions(uint64_t elements) {
  const uint64_t count = std::min(elements, kSamples);
  std::vector<uint64_t> positions;
  for (uint64_t i = 0; i < count; ++i) {
    positions.push_back(count == 1 ? 0 : i * ((elements - 1) / (count - 1)));
  }
  return positions;
}

bool same_weight(std::span<const float> a, std::span<const float> b) noexcept {
  if (a.size() != b.size()) return false;
  float top = 0;
  for (size_t i = 0; i < a.size(); ++i) top = std::max({top, std::abs(a[i]), std::abs(b[i])});
  for (size_t i = 0; i < a.size(); ++i) {
    // bf16 keeps 8 bits; what is tiny beside the others may have become a denormal of f16.
    const float allowed = 0.005F * std::max(std::abs(a[i]), std::abs(b[i])) + 1e-5F * top;
    if (!(std::abs(a[i] - b[i]) <= allowed)) return false;
  }
  return true;
}

struct CalibrationStatistics::State {
  struct Input {
    InputStatistics facts;  // without `bins`
    TimeBins bins;

    Input(std::vector<CalibratedLayer> layers, GramMatrix gram) : bins(gram.channels()) {
      facts.layers = std::move(layers);
      facts.gram = std::move(gram);
    }

    InputStatistics copy() const {
      InputStatistics all = facts;
      all.bins = bins.bins();
      return all;
    }
  };

  explicit State(CalibrationOptions o) : options(std::move(o)), pool(options.num_threads) {
    if (options.data != kNeutralData && options.data != kUserData) {
      throw Error(ErrorCode::kConfiguration,
                  "Invalid data: '" + options.data + "'. Must be 'neutral' or 'user'.");
    }
  }

  const Input& input(size_t number) const { return *inputs.at(number); }

  void note(const std::string& text) {
    if (std::ranges::find(notes, text) == notes.end()) notes.push_back(text);
  }

  size_t append(std::vector<CalibratedLayer> layers, GramMatrix gram) {
    const size_t number = inputs.size();
    for (const CalibratedLayer& layer : layers) by_layer.emplace(layer.name, number);
    inputs.push_back(std::make_unique<Input>(std::move(layers), std::move(gram)));
    return number;
  }

  /// Number of the input with exactly the layers of `from`; nothing when all of them are new.
  std::optional<size_t> match(const InputStatistics& from) const {
    std::optional<size_t> number;
    for (const CalibratedLayer& layer : from.layers) {
      const auto known = by_layer.find(layer.name);
      if (known != by_layer.end()) number = known->second;
    }
    if (!number) return std::nullopt;
    const InputStatistics& mine = inputs[*number]->facts;
    if (std::ranges::equal(mine.layers, from.layers, same_layer) &&
        mine.gram.block() == from.gram.block()) {
      return number;
    }
    throw Error(ErrorCode::kShapeMismatch,
                "expected the same weight, sharing its input with the same layers",
                {.tensor = from.layers.front().name,
                 .hint = "Merge statistics of one model, captured alike."});
  }

  // Not interruptible: half a block must never be in the sums.
  void add(size_t number, const Activations& block) {
    const std::lock_guard lock(mutex);
    Input& input = *inputs.at(number);
    check_values(input.facts, block);
    const uint64_t channels = input.facts.gram.channels();
    const uint64_t tokens = block.values.size() / channels;
    if (tokens == 0) return;
    GramMatrix& to = block.held_out ? input.facts.held_out : input.facts.gram;
    if (to.channels() == 0) to = input.facts.gram.zeros();
    accumulate_gram(block.values.data(), tokens, block.weight, pool, {}, to);
    for (uint64_t first = 0, end = 0; first < tokens; first = end) {
      const double t = timestep_of(block, first);
      while (end < tokens && timestep_of(block, end) == t) ++end;
      input.bins.add(t, block.values.data() + first * channels, end - first,
                     static_cast<double>(block.weight), block.held_out);
    }
    (block.held_out ? input.facts.held_out_tokens : input.facts.tokens) += tokens;
  }

  CalibrationOptions options;
  std::mutex mutex;
  ThreadPool pool;
  std::vector<std::unique_ptr<Input>> inputs;
  std::map<std::string, size_t> by_layer;
  std::vector<std::string> notes;
  std::optional<std::vector<Fold>> folds;
  SensitivityRuns sensitivities;
  std::map<std::string, std::string> roles;
};

CalibrationStatistics::CalibrationStatistics(const CalibrationOptions& options) {
  check_isa_override();
  state_ = std::make_unique<State>(options);
}

CalibrationStatistics::~CalibrationStatistics() = default;
CalibrationStatistics::CalibrationStatistics(CalibrationStatistics&&) noexcept = default;
CalibrationStatistics& CalibrationStatistics::operator=(CalibrationStatistics&&) noexcept = default;

size_t CalibrationStatistics::add_input(std::vector<CalibratedLayer> layers, uint64_t channels,
                                        uint64_t block) {
  if (layers.empty()) throw Error(ErrorCode::kConfiguration, "an input needs at least one layer");
  if (block % GramMatrix::kTile != 0) {
    throw Error(ErrorCode::kConfiguration, "Invalid block: " + std::to_string(block) +
                                               ". Must be a multiple of " +
                                               std::to_string(GramMatrix::kTile) + ".");
  }
  const std::lock_guard lock(state_->mutex);
  for (const CalibratedLayer& layer : layers) {
    check_layer(layer, channels);
    if (state_->by_layer.contains(layer.name)) {
      throw Error(ErrorCode::kShapeMismatch, "the layer belongs to another input already",
                  {.tensor = layer.name});
    }
  }
  return state_->append(std::move(layers), GramMatrix(channels, block));
}

void CalibrationStatistics::add(size_t number, const Activations& block, Progress& progress) {
  // Never under the lock: a poll may wait for a thread that waits for the lock.
  progress.poll();
  state_->add(number, block);
  progress.poll();
}

void CalibrationStatistics::add_note(const std::string& text) {
  if (text.empty() || text.find('\n') != std::string::npos) {
    throw Error(ErrorCode::kConfiguration, "a note is one line of text");
  }
  const std::lock_guard lock(state_->mutex);
  state_->note(text);
}

void CalibrationStatistics::set_folds(std::vector<Fold> folds) {
  for (const Fold& fold : folds) {
    if (fold.layers.empty() || fold.sources.empty()) {
      throw Error(ErrorCode::kConfiguration, "a fold needs layers and sources");
    }
  }
  const std::lock_guard lock(state_->mutex);
  state_->folds = std::move(folds);
}

void CalibrationStatistics::set_sensitivities(const std::map<std::string, double>& sensitivities) {
  for (const auto& [layer, value] : sensitivities) {
    if (is_sensitivity(value)) continue;
    throw Error(ErrorCode::kConfiguration, "a sensitivity is a finite number, at least 0",
                {.tensor = layer});
  }
  const std::lock_guard lock(state_->mutex);
  state_->sensitivities = one_run(sensitivities);
}

void CalibrationStatistics::set_roles(std::map<std::string, std::string> roles) {
  const std::lock_guard lock(state_->mutex);
  state_->roles = std::move(roles);
}

std::map<std::string, std::string> CalibrationStatistics::roles() const {
  const std::lock_guard lock(state_->mutex);
  return state_->roles;
}

void CalibrationStatistics::merge(const CalibrationStatistics& other) {
  if (&other == this) throw Error(ErrorCode::kConfiguration, "statistics merged with themselves");
  const std::scoped_lock lock(state_->mutex, other.state_->mutex);
  const std::string& mine = state_->options.component;
  const std::string& theirs = other.state_->options.component;
  if (mine != theirs) {
    throw Error(ErrorCode::kShapeMismatch,
                "expected statistics of component '" + mine + "', found '" + theirs + "'");
  }
  const bool was_empty = state_->inputs.empty();
  // All checks first, so that a failure changes nothing.
  std::vector<std::optional<size_t>> numbers;
  for (const auto& from : other.state_->inputs) numbers.push_back(state_->match(from->facts));
  for (size_t i = 0; i < numbers.size(); ++i) {
    const InputStatistics& from = other.state_->inputs[i]->facts;
    const std::optional<size_t> known = numbers[i];
    const size_t number = known ? *known : state_->append(from.layers, from.gram.zeros());
    State::Input& to = *state_->inputs[number];
    add_matrix(from.gram, to.facts.gram);
    add_matrix(from.held_out, to.facts.held_out);
    to.facts.tokens += from.tokens;
    to.facts.held_out_tokens += from.held_out_tokens;
    to.bins.add(other.state_->inputs[i]->bins.bins());
  }
  for (const std::string& text : other.state_->notes) state_->note(text);
  if (was_empty) {
    state_->folds = other.state_->folds;
  } else {
    keep_common(other.state_->folds, state_->folds);
  }
  merge_runs(other.state_->sensitivities, state_->sensitivities);
  state_->roles.insert(other.state_->roles.begin(), other.state_->roles.end());
  if (other.state_->options.data == kUserData) state_->options.data = kUserData;
}

std::string CalibrationStatistics::component() const {
  const std::lock_guard lock(state_->mutex);
  return state_->options.component;
}

std::string CalibrationStatistics::data() const {
  const std::lock_guard lock(state_->mutex);
  return state_->options.data;
}

std::vector<std::string> CalibrationStatistics::notes() const {
  const std::lock_guard lock(state_->mutex);
  return state_->notes;
}

std::optional<std::vector<Fold>> CalibrationStatistics::folds() const {
  const std::lock_guard lock(state_->mutex);
  return state_->folds;
}

std::map<std::string, double> CalibrationStatistics::sensitivities() const {
  const std::lock_guard lock(state_->mutex);
  return mean_of(state_->sensitivities);
}

size_t CalibrationStatistics::size() const noexcept {
  const std::lock_guard lock(state_->mutex);
  return state_->inputs.size();
}

InputStatistics CalibrationStatistics::input(size_t number) const {
  const std::lock_guard lock(state_->mutex);
  return state_->input(number).copy();
}

std::vector<CalibratedLayer> CalibrationStatistics::layers(size_t input) const {
  const std::lock_guard lock(state_->mutex);
  return state_->input(input).facts.layers;
}

uint64_t CalibrationStatistics::channels(size_t input) const {
  const std::lock_guard lock(state_->mutex);
  return state_->input(input).facts.gram.channels();
}

uint64_t CalibrationStatistics::block(size_t input) const {
  const std::lock_guard lock(state_->mutex);
  return state_->input(input).facts.gram.block();
}

uint64_t CalibrationStatistics::tokens(size_t input, bool held_out) const {
  const std::lock_guard lock(state_->mutex);
  const InputStatistics& facts = state_->input(input).facts;
  return held_out ? facts.held_out_tokens : facts.tokens;
}

std::vector<TimeBin> CalibrationStatistics::bins(size_t input) const {
  const std::lock_guard lock(state_->mutex);
  return state_->input(input).bins.bins();
}

GramMatrix CalibrationStatistics::gram(size_t input, bool held_out) const {
  const std::lock_guard lock(state_->mutex);
  const InputStatistics& facts = state_->input(input).facts;
  return held_out ? facts.held_out : facts.gram;
}

void CalibrationStatistics::save(const std::string& path, bool overwrite) const {
  const std::lock_guard lock(state_->mutex);
  std::vector<InputToWrite> inputs;
  for (const auto& input : state_->inputs) inputs.push_back({input->facts, input->bins});
  write_statistics(path, overwrite,
                   {state_->options.component, state_->options.data, state_->notes, state_->folds,
                    mean_of(state_->sensitivities), state_->sensitivities, state_->roles},
                   inputs);
}

CalibrationStatistics CalibrationStatistics::load(const std::string& path, int num_threads) {
  const StatisticsReader reader(path);
  const StatisticsOrigin& origin = reader.origin();
  CalibrationStatistics result(
      {.component = origin.component, .data = origin.data, .num_threads = num_threads});
  result.state_->notes = origin.notes;
  result.state_->folds = origin.folds;
  result.state_->sensitivities = origin.sensitivity_runs;
  result.state_->roles = origin.roles;
  for (size_t i = 0; i < reader.inputs().size(); ++i) {
    const InputStatistics facts = reader.read_facts(i);
    State::Input& to =
        *result.state_->inputs[result.state_->append(facts.layers, reader.read_gram(i, false))];
    if (reader.has_held_out(i)) to.facts.held_out = reader.read_gram(i, true);
    to.facts.tokens = facts.tokens;
    to.facts.held_out_tokens = facts.held_out_tokens;
    to.bins.add(facts.bins);
  }
  return result;
}

}  // namespace arrow_quant
