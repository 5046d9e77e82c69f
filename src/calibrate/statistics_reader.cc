// The reading half of statistics_file.h. Every value is checked against the others before use.
#include <arrow/array.h>
#include <arrow/io/file.h>
#include <arrow/table.h>
#include <arrow/util/key_value_metadata.h>
#include <parquet/arrow/reader.h>
#include <parquet/exception.h>
#include <parquet/file_reader.h>
#include <parquet/properties.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <sstream>
#include <utility>

#include "arrow_quant/error.h"
#include "calibrate/statistics_file.h"
#include "calibrate/statistics_schema.h"
#include "core/checked.h"
#include "core/json.h"
#include "io/file_reader.h"
#include "io/folds.h"
#include "io/page_memory.h"
#include "io/parquet_schema.h"

namespace arrow_quant {
namespace {

using namespace statistics_schema;

constexpr uint64_t kMaxChannels = 1ULL << 24;

[[noreturn]] void fail_damaged(const std::string& path, const std::string& what) {
  throw Error(ErrorCode::kValidation, "damaged calibration statistics: " + what,
              {.path = path, .hint = "Calibrate again."});
}

std::map<std::string, std::string> read_roles(const nlohmann::json& json, const std::string& path) {
  if (!json.is_object()) fail_damaged(path, "roles are no object");
  std::map<std::string, std::string> found;
  for (const auto& [weight, role] : json.items()) {
    if (!role.is_string()) fail_damaged(path, "a role is no text");
    found[weight] = role.get<std::string>();
  }
  return found;
}

std::map<std::string, double> read_sensitivities(const nlohmann::json& json,
                                                 const std::string& path) {
  if (!json.is_object()) fail_damaged(path, "sensitivities are no object");
  std::map<std::string, double> found;
  for (const auto& [layer, value] : json.items()) {
    if (!value.is_number() || !(value.get<double>() >= 0)) {
      fail_damaged(path, "a sensitivity is no number");
    }
    found[layer] = value.get<double>();
  }
  return found;
}

/// Files of one run, and those from before runs were counted, have none.
SensitivityRuns read_runs(const nlohmann::json& json, const std::string& path) {
  const auto is_run = [](const nlohmann::json& value) {
    return value.is_number() && value.get<double>() >= 0;
  };
  if (!json.is_object()) fail_damaged(path, "runs of sensitivities are no object");
  SensitivityRuns found;
  for (const auto& [layer, values] : json.items()) {
    if (!values.is_array() || values.empty() || !std::ranges::all_of(values, is_run)) {
      fail_damaged(path, "runs of a sensitivity are no numbers");
    }
    merge_runs({{layer, values.get<std::vector<double>>()}}, found);
  }
  return found;
}

/// The columns of one row group; typed access that refuses nulls.
class RowGroup {
 public:
  RowGroup(std::shared_ptr<arrow::Table> table, const std::string& path)
      : table_(std::move(table)), path_(path) {}

  int64_t rows() const { return table_->num_rows(); }

  std::string_view text(StatColumn column, int64_t row) const {
    return value<arrow::StringArray>(column, row).GetView(row);
  }
  uint64_t integer(StatColumn column, int64_t row) const {
    const int64_t found = value<arrow::Int64Array>(column, row).Value(row);
    if (found < 0) fail_damaged(path_, "a negative " + name(column));
    return static_cast<uint64_t>(found);
  }
  size_t input(int64_t row) const {
    const int32_t found = value<arrow::Int32Array>(kStatInput, row).Value(row);
    if (found < 0) fail_damaged(path_, "a negative input");
    return static_cast<size_t>(found);
  }
  double real(StatColumn column, int64_t row) const {
    return value<arrow::DoubleArray>(column, row).Value(row);
  }
  template <typename Array, typename T>
  std::vector<T> list(StatColumn column, int64_t row) const {
    const auto& lists = value<arrow::ListArray>(column, row);
    const auto& values = static_cast<const Array&>(*lists.values());
    std::vector<T> result;
    for (int64_t i = lists.value_offset(row); i < lists.value_offset(row + 1); ++i) {
      result.push_back(static_cast<T>(values.Value(i)));
    }
    return result;
  }
  std::string_view bytes(StatColumn column, int64_t row) const {
    return value<arrow::BinaryArray>(column, row).GetView(row);
  }

 private:
  static std::string name(StatColumn column) { return schema()->field(column)->name(); }

  template <typename Array>
  const Array& value(StatColumn column, int64_t row) const {
    const auto found = table_->GetColumnByName(name(column));
    if (found == nullptr || found->num_chunks() != 1 || found->chunk(0)->IsNull(row)) {
      fail_damaged(path_, "no " + name(column) + " in a row");
    }
    return static_cast<const Array&>(*found->chunk(0));
  }

  std::shared_ptr<arrow::Table> table_;
  const std::string& path_;
};

/// Where a row of the table lies.
struct Place {
  int row_group = 0;
  int64_t row = 0;
};

/// Where some rows of a matrix lie.
struct Piece {
  int row_group = 0;
  int64_t row = 0;
  uint64_t row_begin = 0;
  uint64_t rows = 0;
};

struct Matrix {
  uint64_t block = 0;
  uint64_t tokens = 0;
  std::vector<Piece> pieces;
};

/// Where each row of a piece begins, in floats, and where the last one ends.
std::vector<uint64_t> row_offsets(uint64_t channels, uint64_t block, const Piece& piece) {
  std::vector<uint64_t> offsets = {0};
  for (uint64_t row = piece.row_begin; row < piece.row_begin + piece.rows; ++row) {
    const uint64_t end = std::min(channels, (row / block + 1) * block);
    offsets.push_back(offsets.back() + (end - row));
  }
  return offsets;
}

}  // namespace

struct StatisticsReader::State {
  std::string path;
  StatisticsOrigin origin;
  std::unique_ptr<parquet::arrow::FileReader> reader;
  std::vector<InputStatistics> inputs;
  std::vector<uint64_t> channels;
  std::vector<Matrix> grams, held_out;
  std::vector<std::vector<Place>> bins;  // of each input

  void open() {
    {
      const FileReader exists(path);
    }  // the usual errors for a missing or irregular file
    std::shared_ptr<arrow::io::ReadableFile> file;
    PARQUET_ASSIGN_OR_THROW(file, arrow::io::ReadableFile::Open(path, page_memory_pool()));
    parquet::ReaderProperties properties(page_memory_pool());
    properties.set_page_checksum_verification(true);
    std::unique_ptr<parquet::ParquetFileReader> parquet;
    try {
      parquet = parquet::ParquetFileReader::Open(file, properties);
    } catch (const parquet::ParquetException& error) {
      fail_kind(error.what());
    }
    const auto& metadata = parquet->metadata()->key_value_metadata();
    const auto version = metadata == nullptr
                             ? arrow::Result<std::string>(arrow::Status::KeyError("no metadata"))
                             : metadata->Get(kVersionKey);
    if (!version.ok()) fail_kind("the key '" + std::string(kVersionKey) + "' is missing");
    if (*version != kVersion) fail_kind("unknown version '" + *version + "'");
    origin.component = metadata->Get(kComponentKey).ValueOr("");
    origin.data = metadata->Get(kDataKey).ValueOr(kUserData);
    if (origin.data != kNeutralData && origin.data != kUserData) {
      fail_damaged(path, "data of unknown kind");
    }
    std::istringstream notes(metadata->Get(kNotesKey).ValueOr(""));
    for (std::string note; std::getline(notes, note);) origin.notes.push_back(note);
    if (const auto folds = metadata->Get(kFoldsKey); folds.ok()) {
      origin.folds = read_folds(parse_json(*folds, path), path);
    }
    if (const auto known = metadata->Get(kSensitivitiesKey); known.ok()) {
      origin.sensitivities = read_sensitivities(parse_json(*known, path), path);
      origin.sensitivity_runs = one_run(origin.sensitivities);
    }
    if (const auto known = metadata->Get(kRolesKey); known.ok()) {
      origin.roles = read_roles(parse_json(*known, path), path);
    }
    if (const auto known = metadata->Get(kSensitivityRunsKey); known.ok()) {
      origin.sensitivity_runs = read_runs(parse_json(*known, path), path);
      if (mean_of(origin.sensitivity_runs) != origin.sensitivities) {
        fail_damaged(path, "sensitivities are not the means of their runs");
      }
    }
    PARQUET_ASSIGN_OR_THROW(
        reader, parquet::arrow::FileReader::Make(page_memory_pool(), std::move(parquet)));
    check_schema();
    for (int i = 0; i < reader->num_row_groups(); ++i) index(i);
    check_complete();
  }

  [[noreturn]] void fail_kind(const std::string& why) const {
    throw Error(ErrorCode::kMetadata, "not a file of calibration statistics: " + why,
                {.path = path, .hint = "'arrow-quant calibrate MODEL STATS' writes such files."});
  }

  void check_schema() const {
    std::shared_ptr<arrow::Schema> found;
    PARQUET_THROW_NOT_OK(reader->GetSchema(&found));
    for (const auto& field : schema()->fields()) {
      const auto twin = found->GetFieldByName(field->name());
      if (twin == nullptr || !twin->type()->Equals(*field->type())) {
        fail_damaged(
            path, "expected column '" + field->name() + "' of type " + field->type()->ToString());
      }
    }
  }

  RowGroup read(int number, bool with_gram) const {
    // Positions among the leaves, of which a list has one as well.
    std::vector<int> columns;
    for (int i = 0; i < kStatCount; ++i) {
      if (with_gram || i != kStatGram) columns.push_back(i);
    }
    std::shared_ptr<arrow::Table> table;
    PARQUET_ASSIGN_OR_THROW(table, reader->ReadRowGroup(number, columns));
    PARQUET_ASSIGN_OR_THROW(table, table->CombineChunks(page_memory_pool()));
    return {std::move(table), path};
  }

  void index(int number) {
    const RowGroup group = read(number, false);
    for (int64_t row = 0; row < group.rows(); ++row) {
      const size_t at = group.input(row);
      const uint64_t width = group.integer(kStatChannels, row);
      if (at == inputs.size()) {
        inputs.emplace_back();
        channels.push_back(width);
        grams.emplace_back();
        held_out.emplace_back();
        bins.emplace_back();
      }
      if (at + 1 != inputs.size() || channels[at] != width || width == 0 || width > kMaxChannels) {
        fail_damaged(path, "rows out of order");
      }
      const std::string_view kind = group.text(kStatKind, row);
      if (kind == kLayer)
        read_layer(group, row);
      else if (kind == kTime)
        (void)read_bin(group, row, width), bins[at].push_back({number, row});
      else if (kind == kGram)
        read_piece(group, number, row, grams[at]);
      else if (kind == kHeldOut)
        read_piece(group, number, row, held_out[at]);
      else
        fail_damaged(path, "a row of unknown kind");
    }
  }

  void read_layer(const RowGroup& group, int64_t row) {
    CalibratedLayer layer{.name = std::string(group.text(kStatName, row)),
                          .shape = group.list<arrow::Int64Array, uint64_t>(kStatShape, row),
                          .sample = group.list<arrow::FloatArray, float>(kStatSample, row)};
    std::optional<uint64_t> width = layer.shape.size() < 2 ? 0 : 1;
    for (size_t i = 1; i < layer.shape.size() && width; ++i) {
      width = checked_mul(*width, layer.shape[i]);
    }
    const auto elements = width && *width != 0 ? checked_mul(*width, layer.shape[0]) : std::nullopt;
    if (!elements || *width != channels.back() ||
        layer.sample.size() != weight_sample_positions(*elements).size()) {
      fail_damaged(path, "a layer whose shape does not fit its input");
    }
    inputs.back().layers.push_back(std::move(layer));
  }

  static WeightedSum read_sum(const RowGroup& group, int64_t row, StatColumn weight, StatColumn sum,
                              StatColumn sample) {
    WeightedSum result{.weight = group.real(weight, row),
                       .sum = group.list<arrow::DoubleArray, double>(sum, row),
                       .sample = {}};
    const std::string_view bytes = group.bytes(sample, row);
    result.sample.resize(bytes.size() / sizeof(float));
    if (!bytes.empty()) {
      std::memcpy(result.sample.data(), bytes.data(), result.sample.size() * sizeof(float));
    }
    return result;
  }

  TimeBin read_bin(const RowGroup& group, int64_t row, size_t n) const {
    TimeBin bin{
        .begin = group.real(kStatBegin, row),
        .end = group.real(kStatEnd, row),
        .tokens = group.integer(kStatTokens, row),
        .low = group.list<arrow::FloatArray, float>(kStatLow, row),
        .high = group.list<arrow::FloatArray, float>(kStatHigh, row),
        .sum = group.list<arrow::DoubleArray, double>(kStatSum, row),
        .squares = group.list<arrow::DoubleArray, double>(kStatSquares, row),
        .fitted = read_sum(group, row, kStatFittedWeight, kStatFittedSum, kStatFittedSample),
        .held_out = read_sum(group, row, kStatHeldOutWeight, kStatHeldOutSum, kStatHeldOutSample)};
    int exponent = 0;
    const double width = bin.end - bin.begin;
    const auto finite = [](const auto& values) {
      return std::ranges::all_of(values, [](auto v) { return std::isfinite(v); });
    };
    const auto sound = [&](const WeightedSum& s) {
      return std::isfinite(s.weight) && s.weight >= 0 && s.sum.size() == n && finite(s.sum) &&
             s.sample.size() % n == 0 && s.sample.size() <= kSampleTokens * n && finite(s.sample);
    };
    const bool fits = std::isfinite(bin.begin) && std::isfinite(width) && width > 0 &&
                      std::frexp(width, &exponent) == 0.5 && bin.low.size() == n &&
                      bin.high.size() == n && bin.sum.size() == n && bin.squares.size() == n &&
                      finite(bin.low) && finite(bin.high) && finite(bin.sum) &&
                      finite(bin.squares) && sound(bin.fitted) && sound(bin.held_out);
    if (!fits) fail_damaged(path, "an impossible time bin");
    return bin;
  }

  InputStatistics read_facts(size_t input) const {
    InputStatistics facts = inputs.at(input);
    std::optional<RowGroup> group;
    int loaded = -1;
    for (const Place& place : bins[input]) {
      if (!group || place.row_group != loaded) {
        group.reset();  // one at a time
        group.emplace(read(place.row_group, false));
        loaded = place.row_group;
      }
      facts.bins.push_back(read_bin(*group, place.row, channels[input]));
    }
    return facts;
  }

  void read_piece(const RowGroup& group, int number, int64_t row, Matrix& matrix) {
    const uint64_t block = group.integer(kStatBlock, row);
    const uint64_t width = channels.back();
    const Piece piece{number, row, group.integer(kStatRowBegin, row),
                      group.integer(kStatRows, row)};
    const uint64_t expected =
        matrix.pieces.empty() ? 0 : matrix.pieces.back().row_begin + matrix.pieces.back().rows;
    const bool whole = block == width;
    const bool tiled = block != 0 && block < width && block % GramMatrix::kTile == 0;
    if (!(whole || tiled) || piece.row_begin != expected || piece.rows == 0 ||
        piece.rows > width - piece.row_begin || (!matrix.pieces.empty() && matrix.block != block)) {
      fail_damaged(path, "an impossible piece of a matrix");
    }
    matrix.block = block;
    matrix.tokens = group.integer(kStatTokens, row);
    matrix.pieces.push_back(piece);
  }

  void check_complete() {
    for (size_t i = 0; i < inputs.size(); ++i) {
      const auto whole = [&](const Matrix& matrix) {
        return !matrix.pieces.empty() &&
               matrix.pieces.back().row_begin + matrix.pieces.back().rows == channels[i];
      };
      if (inputs[i].layers.empty() || !whole(grams[i]) ||
          (!held_out[i].pieces.empty() &&
           (!whole(held_out[i]) || held_out[i].block != grams[i].block))) {
        fail_damaged(path, "an input without its layers or matrix");
      }
      inputs[i].tokens = grams[i].tokens;
      inputs[i].held_out_tokens = held_out[i].tokens;
    }
  }

  GramMatrix read_matrix(size_t input, const Matrix& matrix) const {
    const uint64_t width = channels[input];
    GramMatrix gram(width, matrix.block == width ? 0 : matrix.block);
    for (const Piece& piece : matrix.pieces) {
      const RowGroup group = read(piece.row_group, true);
      const std::string_view bytes = group.bytes(kStatGram, piece.row);
      const std::vector<uint64_t> offsets = row_offsets(width, matrix.block, piece);
      if (bytes.size() != offsets.back() * sizeof(float)) {
        fail_damaged(path, "a matrix of the wrong size");
      }
      for (const GramMatrix::Tile& tile : gram.tiles()) {
        // NOLINTNEXTLINE(bugprone-suspicious-stringview-data-usage): the size was just checked
        copy_rows(piece, bytes.data(), offsets, tile, gram);
      }
    }
    if (!std::ranges::all_of(gram.values(), [](float v) { return std::isfinite(v); })) {
      fail_damaged(path, "a matrix with NaN or Inf");
    }
    return gram;
  }

  // The part of `tile` that lies in the rows of `piece`, on and above the diagonal.
  static void copy_rows(const Piece& piece, const char* from, const std::vector<uint64_t>& offsets,
                        const GramMatrix::Tile& tile, GramMatrix& gram) {
    const uint64_t begin = std::max(tile.row, piece.row_begin);
    const uint64_t end = std::min(tile.row + tile.rows, piece.row_begin + piece.rows);
    for (uint64_t row = begin; row < end; ++row) {
      const uint64_t first = std::max(row, tile.column);
      const uint64_t skipped = offsets[row - piece.row_begin] + (first - row);
      std::memcpy(gram.values().data() + tile.offset + (row - tile.row) * tile.columns +
                      (first - tile.column),
                  from + skipped * sizeof(float),
                  (tile.column + tile.columns - first) * sizeof(float));
    }
  }
};

StatisticsReader::StatisticsReader(const std::string& path) : state_(std::make_unique<State>()) {
  state_->path = path;
  try {
    state_->open();
  } catch (...) {
    rethrow_parquet_error(path, false);
  }
}

StatisticsReader::~StatisticsReader() = default;
StatisticsReader::StatisticsReader(StatisticsReader&&) noexcept = default;

const std::string& StatisticsReader::path() const noexcept { return state_->path; }
const StatisticsOrigin& StatisticsReader::origin() const noexcept { return state_->origin; }
const std::vector<InputStatistics>& StatisticsReader::inputs() const noexcept {
  return state_->inputs;
}

InputStatistics StatisticsReader::read_facts(size_t input) const {
  if (input >= inputs().size()) throw std::out_of_range("an input of calibration statistics");
  try {
    return state_->read_facts(input);
  } catch (...) {
    rethrow_parquet_error(path(), false);
  }
}

uint64_t StatisticsReader::channels(size_t input) const { return state_->channels.at(input); }

uint64_t StatisticsReader::block(size_t input) const { return state_->grams.at(input).block; }

uint64_t StatisticsReader::gram_bytes(size_t input) const {
  const uint64_t width = state_->channels.at(input);
  const uint64_t block = state_->grams[input].block;
  return GramMatrix::bytes(width, block == width ? 0 : block);
}

bool StatisticsReader::has_held_out(size_t input) const {
  return !state_->held_out.at(input).pieces.empty();
}

GramMatrix StatisticsReader::read_gram(size_t input, bool held_out) const {
  try {
    return state_->read_matrix(input,
                               held_out ? state_->held_out.at(input) : state_->grams.at(input));
  } catch (...) {
    rethrow_parquet_error(path(), false);
  }
}

}  // namespace arrow_quant
