// Tables whose hashes fit and whose columns another program wrote: what a reader of version 1 must
// refuse, and what it must accept.
#include <arrow/array.h>
#include <arrow/builder.h>
#include <arrow/io/file.h>
#include <arrow/table.h>
#include <gtest/gtest.h>
#include <parquet/arrow/reader.h>
#include <parquet/arrow/writer.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "arrow_quant/artefact.h"
#include "arrow_quant/error.h"
#include "core/hash.h"
#include "io/file_reader.h"
#include "io/manifest_hash.h"
#include "io/parquet_footer.h"
#include "io/time_params.h"
#include "support/stored_tensors.h"
#include "support/temp_folder.h"

namespace arrow_quant {
namespace {

using testing::affine;
using testing::copied;
using testing::read_file;
using testing::store;
using testing::TempFolder;
using testing::write_file;

using TablePtr = std::shared_ptr<arrow::Table>;

template <typename Builder, typename Value>
std::shared_ptr<arrow::Array> two_rows(const std::shared_ptr<arrow::DataType>& type,
                                       std::optional<Value> first, std::optional<Value> second) {
  Builder builder(type, arrow::default_memory_pool());
  for (const auto& value : {first, second}) {
    EXPECT_TRUE((value ? builder.Append(*value) : builder.AppendNull()).ok());
  }
  return *builder.Finish();
}

std::shared_ptr<arrow::Array> int8s(std::optional<int8_t> a, std::optional<int8_t> b) {
  return two_rows<arrow::Int8Builder, int8_t>(arrow::int8(), a, b);
}

std::shared_ptr<arrow::Array> binaries(const char* a, const char* b) {
  return two_rows<arrow::BinaryBuilder, std::string_view>(
      arrow::binary(), a == nullptr ? std::nullopt : std::optional<std::string_view>(a),
      b == nullptr ? std::nullopt : std::optional<std::string_view>(b));
}

template <typename T>
std::shared_ptr<arrow::Array> bytes_of(const std::vector<T>& values) {
  const std::string_view bytes(reinterpret_cast<const char*>(values.data()),
                               values.size() * sizeof(T));
  return two_rows<arrow::BinaryBuilder, std::string_view>(arrow::binary(), bytes, std::nullopt);
}

/// Factors of 40 channels, one of them `odd`.
std::vector<float> factors_with(float odd) {
  std::vector<float> factors(40, 1.0F);
  factors[17] = odd;
  return factors;
}

class ForgedArtefact : public ::testing::Test {
 protected:
  ForgedArtefact() {
    store(out_, {affine("w", {2, 40}, 4, ParamEncoding::kTwoLevel), copied("b", DType::kF32, {3})});
  }

  /// Write the table anew after `change`, and let the manifest fit.
  void rewrite(const std::function<TablePtr(const TablePtr&)>& change,
               parquet::Compression::type compression = parquet::Compression::UNCOMPRESSED) {
    const auto input = *arrow::io::ReadableFile::Open(weights_);
    const auto reader = *parquet::arrow::OpenFile(input, arrow::default_memory_pool());
    TablePtr table = *reader->ReadTable();
    table = change(table)->ReplaceSchemaMetadata(nullptr);
    const auto properties = parquet::WriterProperties::Builder().compression(compression)->build();
    const auto output = *arrow::io::FileOutputStream::Open(weights_);
    ASSERT_TRUE(
        parquet::arrow::WriteTable(*table, arrow::default_memory_pool(), output, 100, properties)
            .ok());
    ASSERT_TRUE(output->Close().ok());
    fit_manifest();
  }

  void fit_manifest() {
    const std::string path = out_ + "/manifest.json";
    nlohmann::json manifest = nlohmann::json::parse(read_file(path));
    const std::string bytes = read_file(weights_);
    nlohmann::json& file = manifest["files"][0];
    file["size"] = bytes.size();
    file["hash"] = hash_hex(std::as_bytes(std::span(bytes)));
    file["footer_hash"] = parquet_footer_hash(FileReader(weights_));
    manifest[kManifestHashKey] = manifest_hash(manifest);
    write_file(path, manifest.dump(2) + "\n");
  }

  void replace(const std::string& column, const std::shared_ptr<arrow::Array>& values) {
    rewrite([&](const TablePtr& table) {
      const int i = table->schema()->GetFieldIndex(column);
      return *table->SetColumn(i, table->field(i), std::make_shared<arrow::ChunkedArray>(values));
    });
  }

  std::optional<ErrorCode> check() const {
    try {
      const Artefact artefact = Artefact::open(out_);
      for (size_t i = 0; i < artefact.tensors(0).size(); ++i) artefact.read(0, i);
      artefact.verify([] {});
    } catch (const Error& e) {
      return e.code();
    }
    return std::nullopt;
  }

  const TempFolder temp_;
  const std::string out_ = temp_ / "out";
  const std::string weights_ = temp_ / "out/weights.parquet";
};

TEST_F(ForgedArtefact, ATableOfAnotherWriterIsReadWhateverItsEncodings) {
  rewrite([](const TablePtr& table) { return table; });  // dictionaries, two rows in a group
  EXPECT_EQ(check(), std::nullopt);
  rewrite([](const TablePtr& table) { return table; }, parquet::Compression::SNAPPY);
  EXPECT_EQ(check(), std::nullopt);
}

TEST_F(ForgedArtefact, ColumnsOfALaterVersionAreIgnored) {
  rewrite([](const TablePtr& table) {
    return *table->AddColumn(table->num_columns(), arrow::field("later", arrow::int8()),
                             std::make_shared<arrow::ChunkedArray>(int8s(1, 2)));
  });
  EXPECT_EQ(check(), std::nullopt);
}

TEST_F(ForgedArtefact, AMissingOrRenamedColumnIsRefused) {
  rewrite([](const TablePtr& table) {
    return *table->RemoveColumn(table->schema()->GetFieldIndex("row_begin"));
  });
  EXPECT_EQ(check(), ErrorCode::kValidation);
}

TEST_F(ForgedArtefact, AFileWithoutTheColumnsThatCameLaterIsRead) {
  rewrite([](TablePtr table) {
    for (const char* later : {"candidates", "method"}) {
      table = *table->RemoveColumn(table->schema()->GetFieldIndex(later));
    }
    return table;
  });
  EXPECT_EQ(check(), std::nullopt);
  EXPECT_EQ(Artefact::open(out_).tensors(0)[0].method, "");
}

TEST_F(ForgedArtefact, GroupsOfTimeThatCannotBeAreRefused) {
  const std::vector<TimeGroup> sound = {{.begin = 0, .end = 5, .output_bias = {1, 2}},
                                        {.begin = 5, .end = 9, .output_bias = {3, 4}}};
  const std::vector<uint8_t> good = pack_time_groups(sound);
  const auto with = [&](size_t at, auto value) {
    std::vector<uint8_t> bytes = good;
    std::memcpy(bytes.data() + at, &value, sizeof(value));
    return bytes;
  };
  const std::vector<uint8_t> cut(good.begin(), good.end() - 1);
  constexpr size_t kFirst = 8, kSecond = 8 + 28, kBiases = 8 + 2 * 28;
  const std::vector<uint8_t> changes[] = {cut,
                                          {1, 0, 0},
                                          with(0, uint32_t{0}),
                                          with(0, uint32_t{3}),
                                          with(0, ~uint32_t{0}),
                                          with(4, uint32_t{3}),
                                          with(4, uint32_t{8}),
                                          with(kFirst, std::nan("")),
                                          with(kFirst + 8, -1.0),
                                          with(kFirst + 16, -1.0F),
                                          with(kFirst + 20, HUGE_VALF),
                                          with(kFirst + 24, 0.0F),
                                          with(kSecond, 4.0),
                                          with(kBiases, uint16_t{0x7C00}),
                                          with(kBiases + 6, uint16_t{0xFE00})};
  for (size_t i = 0; i < std::size(changes); ++i) {
    store(out_, {affine("w", {2, 40}, 4, ParamEncoding::kTwoLevel), copied("b", DType::kF32, {3})});
    replace("time_params", bytes_of(changes[i]));
    EXPECT_EQ(check(), ErrorCode::kValidation) << i;
  }
  store(out_, {affine("w", {2, 40}, 4, ParamEncoding::kTwoLevel), copied("b", DType::kF32, {3})});
  replace("time_params", bytes_of(good));
  EXPECT_EQ(check(), std::nullopt);
}

TEST_F(ForgedArtefact, ColumnsInAnotherOrderAreRefused) {
  rewrite([](const TablePtr& table) {
    const auto column = table->column(0);
    const auto field = table->field(0);
    return *(*table->RemoveColumn(0))->AddColumn(1, field, column);
  });
  EXPECT_EQ(check(), ErrorCode::kValidation);
}

TEST_F(ForgedArtefact, SmallColumnsThatCannotBeAreRefused) {
  const std::pair<const char*, std::shared_ptr<arrow::Array>> changes[] = {
      {"axis", int8s(0, std::nullopt)},
      {"axis", int8s(2, std::nullopt)},  // a matrix has no second dimension of rows
      {"axis", int8s(3, std::nullopt)},
      {"axis", int8s(std::nullopt, std::nullopt)},
      {"bit_width", int8s(std::nullopt, std::nullopt)},
      {"bit_width", int8s(-4, std::nullopt)},
      {"offset_unit", int8s(std::nullopt, std::nullopt)},
      {"equalization", binaries("factors", nullptr)},
      {"equalization", bytes_of(std::vector<float>(39, 1.0F))},
      {"equalization", bytes_of(std::vector<float>(41, 1.0F))},
      {"equalization", bytes_of(factors_with(0.0F))},
      {"equalization", bytes_of(factors_with(-1.0F))},
      {"equalization", bytes_of(factors_with(std::nanf("")))},
      {"equalization", bytes_of(factors_with(HUGE_VALF))},
      {"equalization", bytes_of(factors_with(1e-40F))},
      {"time_params", binaries("groups", nullptr)},
      {"params", binaries(nullptr, nullptr)},
      {"row_scales", binaries(nullptr, nullptr)},
  };
  for (const auto& [column, values] : changes) {
    store(out_, {affine("w", {2, 40}, 4, ParamEncoding::kTwoLevel), copied("b", DType::kF32, {3})});
    replace(column, values);
    EXPECT_EQ(check(), ErrorCode::kValidation) << column;
  }
}

TEST_F(ForgedArtefact, AnEncodingOfALaterVersionIsRefusedByName) {
  for (const char* column : {"encoding", "param_encoding"}) {
    store(out_, {affine("w", {2, 40}, 2, ParamEncoding::kTwoLevel), copied("b", DType::kF32, {3})});
    replace(column, two_rows<arrow::StringBuilder, std::string_view>(arrow::utf8(), "trellis",
                                                                     std::string_view("copy")));
    try {
      Artefact::open(out_).tensors(0);
      FAIL() << "expected an error";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kValidation);
      EXPECT_NE(std::string(e.what()).find("trellis"), std::string::npos) << e.what();
    }
  }
}

TEST_F(ForgedArtefact, ResidualBinaryIsReadWhateverItsBytesAndRefusedWhereItDoesNotFit) {
  const auto residual = [] { return affine("w", {2, 40}, 2, ParamEncoding::kResidualBinary); };
  QuantizedTensor tensor = residual();
  for (uint8_t byte : {0x00, 0x0F, 0xF0, 0xFF}) {
    std::ranges::fill(tensor.chunks[0].params, byte);
    std::ranges::fill(tensor.chunks[0].codes, static_cast<uint8_t>(~byte));
    store(out_, {tensor});
    EXPECT_EQ(check(), std::nullopt) << int{byte};
  }
  tensor = residual();
  tensor.info.spec.bit_width = 4;
  tensor.chunks[0].codes.resize(40);
  store(out_, {tensor});
  EXPECT_EQ(check(), ErrorCode::kValidation) << "4 bits";
  tensor = residual();
  tensor.info.spec.group_size = 24;
  store(out_, {tensor});
  EXPECT_EQ(check(), ErrorCode::kValidation) << "a group that has no four parts";
  tensor = residual();
  tensor.info.encoding = Encoding::kAffine;
  store(out_, {tensor});
  EXPECT_EQ(check(), ErrorCode::kValidation) << "affine by name";
  tensor = affine("w", {2, 40}, 2, ParamEncoding::kTwoLevel);
  tensor.info.encoding = Encoding::kResidualBinary;
  store(out_, {tensor});
  EXPECT_EQ(check(), ErrorCode::kValidation) << "residual_binary by name";
  tensor = residual();
  tensor.chunks[0].params.pop_back();
  store(out_, {tensor});
  EXPECT_EQ(check(), ErrorCode::kValidation) << "a parameter short";
  tensor = residual();
  tensor.chunks[0].row_scales[1] = 0x7C00;
  store(out_, {tensor});
  EXPECT_EQ(check(), ErrorCode::kValidation) << "an infinite scale";
}

}  // namespace
}  // namespace arrow_quant
