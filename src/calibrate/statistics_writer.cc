// The writing half of statistics_file.h.
#include <arrow/builder.h>
#include <arrow/record_batch.h>
#include <arrow/util/key_value_metadata.h>
#include <parquet/arrow/writer.h>
#include <parquet/exception.h>
#include <parquet/properties.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "calibrate/statistics_file.h"
#include "calibrate/statistics_schema.h"
#include "io/durable.h"
#include "io/folds.h"
#include "io/page_memory.h"
#include "io/parquet_schema.h"
#include "io/staged_stream.h"

namespace arrow_quant {
namespace {

using namespace statistics_schema;

constexpr uint64_t kMaxGramBytes = 64ULL << 20;  // per row of the table
constexpr int64_t kFlushBytes = 8 << 20;         // small rows share row groups of about this size

void check(const arrow::Status& status) { PARQUET_THROW_NOT_OK(status); }

std::string lines(const std::vector<std::string>& texts) {
  std::string all;
  for (const std::string& text : texts) all += (all.empty() ? "" : "\n") + text;
  return all;
}

/// Rows of the table, column by column; what a row does not set is null.
class Rows {
 public:
  Rows() {
    for (const auto& field : schema()->fields()) {
      std::unique_ptr<arrow::ArrayBuilder> builder;
      check(arrow::MakeBuilder(page_memory_pool(), field->type(), &builder));
      builders_.push_back(std::move(builder));
    }
  }

  void begin(std::string_view kind, size_t input, uint64_t channels) {
    finish_row();
    ++count_;
    text(kStatKind, kind);
    check(as<arrow::Int32Builder>(kStatInput).Append(static_cast<int32_t>(input)));
    integer(kStatChannels, channels);
  }

  void text(StatColumn column, std::string_view value) {
    check(as<arrow::StringBuilder>(column).Append(value));
  }
  void integer(StatColumn column, uint64_t value) {
    check(as<arrow::Int64Builder>(column).Append(static_cast<int64_t>(value)));
  }
  void real(StatColumn column, double value) {
    check(as<arrow::DoubleBuilder>(column).Append(value));
  }
  template <typename Builder, typename T>
  void list(StatColumn column, const std::vector<T>& values) {
    auto& lists = as<arrow::ListBuilder>(column);
    check(lists.Append());
    for (const T value : values) {
      check(static_cast<Builder&>(*lists.value_builder()).Append(value));
    }
    bytes_ += static_cast<int64_t>(values.size() * sizeof(T));
  }
  void bytes(StatColumn column, const std::vector<float>& values) {
    const auto size = static_cast<int32_t>(values.size() * sizeof(float));
    check(as<arrow::BinaryBuilder>(column).Append(reinterpret_cast<const uint8_t*>(values.data()),
                                                  size));
    bytes_ += size;
  }

  int64_t pending_bytes() const noexcept { return bytes_; }

  std::shared_ptr<arrow::RecordBatch> take() {
    finish_row();
    std::vector<std::shared_ptr<arrow::Array>> arrays;
    for (auto& builder : builders_) {
      arrays.emplace_back();
      check(builder->Finish(&arrays.back()));
    }
    bytes_ = 0;
    return arrow::RecordBatch::Make(schema(), std::exchange(count_, 0), std::move(arrays));
  }

 private:
  template <typename Builder>
  Builder& as(StatColumn column) {
    return static_cast<Builder&>(*builders_[static_cast<size_t>(column)]);
  }

  void finish_row() {
    for (auto& builder : builders_) {
      if (builder->length() < count_) check(builder->AppendNull());
    }
  }

  std::vector<std::unique_ptr<arrow::ArrayBuilder>> builders_;
  int64_t count_ = 0;
  int64_t bytes_ = 0;
};

class StatisticsWriter {
 public:
  StatisticsWriter(StagedFile& file, const StatisticsOrigin& origin)
      : stream_(std::make_shared<StagedStream>(file)) {
    const auto properties = parquet::WriterProperties::Builder()
                                .memory_pool(page_memory_pool())
                                ->disable_dictionary()
                                ->compression(parquet::Compression::UNCOMPRESSED)
                                ->disable_statistics()
                                ->enable_page_checksum()
                                ->max_row_group_length(1 << 20)
                                ->created_by("arrow-quant-v2 version " ARROW_QUANT_VERSION)
                                ->build();
    const auto metadata = arrow::key_value_metadata(
        {std::string(kVersionKey), std::string(kComponentKey), std::string(kDataKey),
         std::string(kNotesKey)},
        {std::string(kVersion), origin.component, origin.data, lines(origin.notes)});
    if (origin.folds) metadata->Append(std::string(kFoldsKey), folds_json(*origin.folds).dump());
    if (!origin.roles.empty()) {
      metadata->Append(std::string(kRolesKey), nlohmann::json(origin.roles).dump());
    }
    if (!origin.sensitivities.empty()) {
      metadata->Append(std::string(kSensitivitiesKey), nlohmann::json(origin.sensitivities).dump());
    }
    const auto merged = [](const auto& layer) { return layer.second.size() > 1; };
    if (std::ranges::any_of(origin.sensitivity_runs, merged)) {
      metadata->Append(std::string(kSensitivityRunsKey),
                       nlohmann::json(origin.sensitivity_runs).dump());
    }
    const auto described = schema()->WithMetadata(metadata);
    PARQUET_ASSIGN_OR_THROW(writer_,
                            parquet::arrow::FileWriter::Open(
                                *described, page_memory_pool(), stream_, properties,
                                parquet::ArrowWriterProperties::Builder().store_schema()->build()));
  }

  void write(size_t number, const InputStatistics& input, const std::vector<TimeBin>& bins) {
    const uint64_t channels = input.gram.channels();
    for (const CalibratedLayer& layer : input.layers) {
      rows_.begin(kLayer, number, channels);
      rows_.text(kStatName, layer.name);
      rows_.list<arrow::Int64Builder>(kStatShape, layer.shape);
      rows_.list<arrow::FloatBuilder>(kStatSample, layer.sample);
    }
    for (const TimeBin& bin : bins) {
      rows_.begin(kTime, number, channels);
      rows_.integer(kStatTokens, bin.tokens);
      rows_.real(kStatBegin, bin.begin);
      rows_.real(kStatEnd, bin.end);
      rows_.list<arrow::FloatBuilder>(kStatLow, bin.low);
      rows_.list<arrow::FloatBuilder>(kStatHigh, bin.high);
      rows_.list<arrow::DoubleBuilder>(kStatSum, bin.sum);
      rows_.list<arrow::DoubleBuilder>(kStatSquares, bin.squares);
      rows_.real(kStatFittedWeight, bin.fitted.weight);
      rows_.list<arrow::DoubleBuilder>(kStatFittedSum, bin.fitted.sum);
      rows_.real(kStatHeldOutWeight, bin.held_out.weight);
      rows_.list<arrow::DoubleBuilder>(kStatHeldOutSum, bin.held_out.sum);
      rows_.bytes(kStatFittedSample, bin.fitted.sample);
      rows_.bytes(kStatHeldOutSample, bin.held_out.sample);
      if (rows_.pending_bytes() >= kFlushBytes) flush();
    }
    write_gram(kGram, number, input.gram, input.tokens);
    write_gram(kHeldOut, number, input.held_out, input.held_out_tokens);
  }

  void close() {
    flush();
    check(writer_->Close());
  }

 private:
  // Row i holds H[i][j] for all j >= i in the diagonal block of i.
  void write_gram(std::string_view kind, size_t number, const GramMatrix& gram, uint64_t tokens) {
    const uint64_t channels = gram.channels();
    std::vector<float> values;
    for (uint64_t first = 0; first < channels;) {
      values.clear();
      uint64_t row = first;
      for (; row < channels && values.size() * sizeof(float) < kMaxGramBytes; ++row) {
        const uint64_t end = std::min(channels, (row / gram.block() + 1) * gram.block());
        for (uint64_t j = row; j < end; ++j) values.push_back(gram.at(row, j));
      }
      rows_.begin(kind, number, channels);
      rows_.integer(kStatBlock, gram.block());
      rows_.integer(kStatTokens, tokens);
      rows_.integer(kStatRowBegin, first);
      rows_.integer(kStatRows, row - first);
      rows_.bytes(kStatGram, values);
      if (rows_.pending_bytes() >= kFlushBytes) flush();
      first = row;
    }
  }

  void flush() {
    const auto batch = rows_.take();
    if (batch->num_rows() == 0) return;
    check(writer_->NewBufferedRowGroup());
    check(writer_->WriteRecordBatch(*batch));
  }

  std::shared_ptr<StagedStream> stream_;
  std::unique_ptr<parquet::arrow::FileWriter> writer_;
  Rows rows_;
};

}  // namespace

void write_statistics(const std::string& path, bool overwrite, const StatisticsOrigin& origin,
                      const std::vector<InputToWrite>& inputs) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::path target = fs::absolute(path, error);
  if (error) fail_output(path, "cannot create the file", error.value());
  const std::string provisional =
      "." + target.filename().string() + "." + std::to_string(::getpid()) + ".partial";
  StagedFile file({.relative = target.filename().string(),
                   .final_path = target.string(),
                   .provisional = (target.parent_path() / provisional).string(),
                   .replaces = overwrite});
  try {
    StatisticsWriter writer(file, origin);
    for (size_t i = 0; i < inputs.size(); ++i) {
      writer.write(i, inputs[i].facts, inputs[i].bins.bins());
    }
    writer.close();
  } catch (...) {
    rethrow_parquet_error(path, true);
  }
  (void)file.close();
}

}  // namespace arrow_quant
