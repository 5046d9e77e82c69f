#include "write/component_writer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "arrow_quant/artefact.h"
#include "arrow_quant/error.h"
#include "io/time_params.h"
#include "support/stored_tensors.h"
#include "support/temp_folder.h"

namespace arrow_quant {
namespace {

using testing::affine;
using testing::copied;
using testing::names_in;
using testing::read_tree;
using testing::store;
using testing::TempFolder;

using Names = std::set<std::string>;

std::vector<QuantizedTensor> every_kind() {
  std::vector<QuantizedTensor> tensors = {
      copied("zeta.scalar", DType::kF32, {}),  // names are not in alphabetical order
      affine("two4", {5, 145}, 4, ParamEncoding::kTwoLevel),
      affine("two2", {6, 33}, 2, ParamEncoding::kTwoLevel),
      affine("residual", {4, 70}, 2, ParamEncoding::kResidualBinary, 3),
      copied("bias", DType::kF16, {7}),
      affine("fp2", {3, 100}, 2, ParamEncoding::kFp16),
      affine("fp4", {3, 1}, 4, ParamEncoding::kFp16),
      affine("fp8", {3, 2, 5, 7}, 8, ParamEncoding::kFp16),
      affine("row", {4, 3, 11}, 8, ParamEncoding::kRow),
      copied("empty", DType::kF32, {0, 4}),
      copied("empty.inside", DType::kI64, {4, 0}),
      copied("four.bits", DType::kF4, {3, 6}),
      copied("six.bits", DType::kF6E2M3, {4, 4}),
      copied("flags", DType::kBool, {3, 1, 2}),
      copied("ids", DType::kI64, {2, 2}),
  };
  return tensors;
}

void expect_equal(const QuantizedTensor& read, const QuantizedTensor& written) {
  SCOPED_TRACE(written.info.name);
  EXPECT_EQ(read.info.name, written.info.name);
  EXPECT_EQ(read.info.shape, written.info.shape);
  EXPECT_EQ(read.info.source_dtype, written.info.source_dtype);
  EXPECT_EQ(read.info.encoding, written.info.encoding);
  const bool is_copy = written.info.encoding == Encoding::kCopy;
  if (!is_copy) {
    EXPECT_EQ(read.info.spec.bit_width, written.info.spec.bit_width);
    EXPECT_EQ(read.info.spec.group_size, written.info.spec.group_size);
    EXPECT_EQ(read.info.spec.param_encoding, written.info.spec.param_encoding);
  }
  EXPECT_NEAR(read.info.cosine, is_copy ? 1 : 0.95, 1e-6);
  EXPECT_NEAR(read.info.nmse, is_copy ? 0 : 0.1, 1e-6);
  ASSERT_EQ(read.chunks.size(), written.chunks.size());
  for (size_t i = 0; i < read.chunks.size(); ++i) {
    const QuantizedChunk& a = read.chunks[i];
    const QuantizedChunk& b = written.chunks[i];
    EXPECT_EQ(a.chunk, b.chunk);
    EXPECT_EQ(a.row_begin, b.row_begin);
    EXPECT_EQ(a.rows, b.rows);
    EXPECT_EQ(a.codes, b.codes);
    EXPECT_EQ(a.params, b.params);
    EXPECT_EQ(a.row_scales, b.row_scales);
    EXPECT_EQ(a.tensor_scale, b.tensor_scale);
    EXPECT_EQ(a.offset_unit, b.offset_unit);
    EXPECT_EQ(a.equalization, b.equalization);
    EXPECT_EQ(a.time_groups, b.time_groups);
  }
}

void expect_stored(const std::string& path, const std::vector<QuantizedTensor>& tensors) {
  const Artefact artefact = Artefact::open(path);
  ASSERT_EQ(artefact.tensors(0).size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    expect_equal(artefact.read(0, i), tensors[i]);
    uint64_t bytes = 0;
    for (const QuantizedChunk& chunk : tensors[i].chunks) {
      bytes += chunk.codes.size() + chunk.params.size() + 2 * chunk.row_scales.size();
    }
    EXPECT_EQ(artefact.stored_bytes(0)[i], bytes) << tensors[i].info.name;
  }
  EXPECT_NO_THROW(artefact.verify([] {}));
}

TEST(ComponentWriter, EveryKindOfTensorComesBackAsItWasAndInOrder) {
  const TempFolder temp;
  store(temp / "out", every_kind());
  EXPECT_EQ(names_in(temp / "out"), (Names{"manifest.json", "weights.parquet"}));
  expect_stored(temp / "out", every_kind());
}

TEST(ComponentWriter, WhatCalibrationAddsComesBackChunkByChunk) {
  const TempFolder temp;
  QuantizedTensor tensor = affine("w", {5, 3, 2, 2}, 4, ParamEncoding::kFp16, 3);
  tensor.info.spec.method = Method::kRtn;
  tensor.info.candidates = R"([{"method":"rtn"}])";
  for (QuantizedChunk& chunk : tensor.chunks) {
    chunk.equalization = {0.5F, 1.0F, 3.0F};
    chunk.output_error = {.ww = 4, .vv = 4, .wv = 3.6, .err = 0.8, .count = 7};
    chunk.time_groups = {{.begin = 0, .end = 250, .activation_scale = 0.5F},
                         {.begin = 250, .end = 1000, .activation_scale = 2, .activation_zero = 3}};
    for (TimeGroup& group : chunk.time_groups) {
      group.output_scale.assign(chunk.rows, 1.25F);
      group.output_bias.assign(chunk.rows, -0.75F);
    }
  }
  store(temp / "out", {tensor});
  const Artefact artefact = Artefact::open(temp / "out");
  const QuantizedTensor back = artefact.read(0, 0);
  expect_equal(back, tensor);
  EXPECT_EQ(back.info.method, "rtn");
  EXPECT_EQ(back.info.candidates, tensor.info.candidates);
  EXPECT_NEAR(back.info.output_cosine.value(), 0.9, 1e-6);
  EXPECT_NEAR(back.info.output_nmse.value(), 0.2, 1e-6);
  // Factors twice, two groups of 28 bytes twice with 8 before them, and 4 halves for each row.
  const uint64_t extra = 2 * 12 + 2 * (8 + 2 * 28) + 5 * 4 * 2;
  EXPECT_EQ(artefact.stored_bytes(0)[0], 5 * (packed_row_bytes(12, 4) + 4) + extra);
}

TEST(ComponentWriter, BiasesOfAnyMagnitudeKeepElevenBits) {
  for (const float magnitude : {1e-30F, 1e-5F, 1.0F, 3e4F, 1e30F}) {
    const std::vector<TimeGroup> groups = {
        {.begin = 0, .end = 1, .output_bias = {magnitude, -0.3F * magnitude, 0.0F}}};
    const auto back = unpack_time_groups(pack_time_groups(groups), 3);
    ASSERT_TRUE(back.has_value()) << magnitude;
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_NEAR((*back)[0].output_bias[i], groups[0].output_bias[i], magnitude / 2000);
    }
    EXPECT_EQ((*back)[0].output_bias, stored_bias(groups[0].output_bias));
  }
}

TEST(ComponentWriter, TheSameChunksGiveTheSameBytes) {
  const TempFolder temp;
  store(temp / "a", every_kind());
  store(temp / "b", every_kind());
  EXPECT_EQ(read_tree(temp / "a"), read_tree(temp / "b"));
}

TEST(ComponentWriter, ATensorInChunksComesBackWithAllRows) {
  const TempFolder temp;
  const std::vector<QuantizedTensor> tensors = {
      affine("first", {10, 40}, 4, ParamEncoding::kTwoLevel, 3),
      affine("single", {1, 40}, 8, ParamEncoding::kRow, 1),
      affine("last", {7, 64}, 2, ParamEncoding::kFp16, 1)};
  store(temp / "out", tensors);
  expect_stored(temp / "out", tensors);
  const Artefact artefact = Artefact::open(temp / "out");
  EXPECT_EQ(artefact.chunks(0, 0), 4U);
  EXPECT_EQ(artefact.chunks(0, 2), 7U);
}

TEST(ComponentWriter, ACopyInChunksComesBackToo) {
  const TempFolder temp;
  QuantizedTensor tensor = copied("copy", DType::kF32, {6, 5});
  const ByteBuffer all = tensor.chunks[0].codes;
  tensor.chunks.clear();
  for (int32_t i = 0; i < 3; ++i) {
    QuantizedChunk chunk{.chunk = i, .row_begin = static_cast<uint64_t>(2 * i), .rows = 2};
    chunk.codes.assign(all.begin() + 40 * i, all.begin() + 40 * (i + 1));
    tensor.chunks.push_back(chunk);
  }
  store(temp / "out", {tensor});
  expect_stored(temp / "out", {tensor});
}

TEST(ComponentWriter, ALargeComponentBecomesAFolderOfParts) {
  const TempFolder temp;
  std::vector<QuantizedTensor> tensors;
  for (int i = 0; i < 4; ++i) {  // more than a mebibyte each: a row group of its own
    tensors.push_back(affine("t" + std::to_string(i), {1200, 1024}, 8, ParamEncoding::kRow, 1100));
  }
  store(temp / "out", tensors,
        {.part_size = 2U << 20, .planned_bytes = 5U << 20, .component = "unet"});
  EXPECT_EQ(names_in(temp / "out/unet/weights.parquet"),
            (Names{"part-00000.parquet", "part-00001.parquet", "part-00002.parquet",
                   "part-00003.parquet"}));
  expect_stored(temp / "out", tensors);
  expect_stored(temp / "out/unet/weights.parquet", tensors);  // any folder inside opens it
}

TEST(ComponentWriter, WhatFitsOnePartIsOneFile) {
  const TempFolder temp;
  store(temp / "out", every_kind(), {.part_size = 1000, .planned_bytes = 1000});
  EXPECT_EQ(names_in(temp / "out"), (Names{"manifest.json", "weights.parquet"}));
}

TEST(ComponentWriter, EveryPartCarriesTheMetadata) {
  const TempFolder temp;
  const std::map<std::string, std::string> metadata = {{"modality", "image"},
                                                       {"config", "{\"bit_width\":2}"}};
  store(temp / "out", every_kind(), {.metadata = metadata});
  EXPECT_EQ(Artefact::open(temp / "out").metadata(0), metadata);
}

TEST(ComponentWriter, AComponentWithoutTensorsCanBeOpened) {
  const TempFolder temp;
  store(temp / "out", {});
  const Artefact artefact = Artefact::open(temp / "out");
  EXPECT_TRUE(artefact.tensors(0).empty());
  EXPECT_TRUE(artefact.metadata(0).empty());
}

TEST(ComponentWriter, AFileThatCannotBeMadeIsAnOutputError) {
  const TempFolder temp;
  Staging staging(temp / "out", false, 0);
  ComponentWriter writer(staging, {});
  const QuantizedTensor tensor = every_kind()[1];
  staging.create("weights.parquet")->close();  // the name is taken: creating the file fails
  writer.append(tensor.info, tensor.chunks[0]);
  try {
    writer.finish();
    FAIL() << "expected an error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kOutput);
  }
}

}  // namespace
}  // namespace arrow_quant
