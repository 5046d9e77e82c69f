#include "read/folded_tensor.h"

#include <gtest/gtest.h>

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "arrow_quant/error.h"
#include "core/half.h"
#include "support/expect_error.h"

namespace arrow_quant {
namespace {

template <typename T>
std::vector<T> folded(const TensorFold& fold, DType dtype, uint64_t cols, uint64_t row,
                      std::vector<T> values) {
  fold_rows(fold, dtype, cols, row, std::as_writable_bytes(std::span(values)));
  return values;
}

TensorInfo tensor(const std::string& name, std::vector<uint64_t> shape, DType dtype = DType::kF32) {
  return {.name = name, .dtype = dtype, .shape = std::move(shape)};
}

TEST(FoldedTensor, ColumnsAreMultipliedByTheFactorOfTheirChannel) {
  const TensorFold fold{.columns = {2.0F, 0.5F}};
  EXPECT_EQ(folded<float>(fold, DType::kF32, 2, 0, {1, 1, 3, 5}),
            (std::vector<float>{2, 0.5F, 6, 2.5F}));
  // All taps of a kernel at one channel share its factor.
  EXPECT_EQ(folded<float>(fold, DType::kF32, 6, 0, {1, 2, 3, 4, 6, 8}),
            (std::vector<float>{2, 4, 6, 2, 3, 4}));
}

TEST(FoldedTensor, RowsAreDividedWhereverTheyBegin) {
  const TensorFold fold{.rows = {{.begin = 1, .factors = {2.0F, 4.0F}},
                                 {.begin = 4, .offset = 1.0, .factors = {0.5F, 8.0F}}}};
  const std::vector<float> column = {16, 16, 16, 16, 3, 7};
  const std::vector<float> expected = {16, 8, 4, 16, 7, 0};
  EXPECT_EQ(folded<float>(fold, DType::kF32, 1, 0, column), expected);
  for (uint64_t row = 0; row < column.size(); ++row) {
    EXPECT_EQ(folded<float>(fold, DType::kF32, 1, row, {column[row]})[0], expected[row]);
  }
  EXPECT_EQ(folded<double>(fold, DType::kF64, 2, 2, {1, 1e300, 5, 6}),
            (std::vector<double>{0.25, 2.5e299, 5, 6}));
}

TEST(FoldedTensor, PowersOfTwoAreExactInSixteenBits) {
  const TensorFold fold{.columns = {0.25F}, .rows = {{.begin = 0, .factors = {8.0F}}}};
  for (const float value : {1.0F, -3.140625F, 0.0078125F, 200.0F}) {
    const uint16_t half = f32_to_f16(value);
    const uint16_t found = folded<uint16_t>(fold, DType::kF16, 1, 0, {half})[0];
    EXPECT_EQ(f16_to_f32(found), f16_to_f32(half) / 32);
    const uint16_t brain = f32_to_bf16(value);
    const uint16_t result = folded<uint16_t>(fold, DType::kBF16, 1, 0, {brain})[0];
    EXPECT_EQ(bf16_to_f32(result), bf16_to_f32(brain) / 32);
  }
}

TEST(FoldedTensor, FoldsOfAComponentAreSortedByTensor) {
  const ModelIndex component{.tensors = {tensor("ada.weight", {6, 9}), tensor("q.weight", {5, 2}),
                                         tensor("ada.bias", {6}), tensor("v.weight", {2, 2})}};
  const std::vector<ChosenFold> folds = {
      {.fold = {.layers = {"q.weight", "v.weight"},
                .sources = {{.name = "ada.weight", .row = 4},
                            {.name = "ada.bias", .row = 4, .offset = 1}}},
       .factors = {2.0F, 4.0F}},
      {.fold = {.layers = {"ada.weight"}, .sources = {{.name = "v.weight"}}},
       .factors = std::vector<float>(9, 1.0F)}};
  testing::expect_error(ErrorCode::kMetadata, {"it has not so many rows"},
                        [&] { (void)tensor_folds(folds, component, "file"); });
  const TensorFolds found = tensor_folds(std::span(folds).first(1), component, "file");
  ASSERT_EQ(found.size(), 4U);
  EXPECT_EQ(found.at("q.weight").columns, folds[0].factors);
  EXPECT_EQ(found.at("ada.bias").rows[0].offset, 1);
  EXPECT_EQ(found.at("ada.weight").rows[0].begin, 4U);
}

TEST(FoldedTensor, FoldsThatDoNotFitAreErrors) {
  const ModelIndex component{.tensors = {tensor("norm", {4}), tensor("a", {8, 4}),
                                         tensor("b", {8, 3}), tensor("n", {4}, DType::kI32)}};
  const auto expect = [&](const std::vector<Fold>& folds, const char* what) {
    std::vector<ChosenFold> chosen;
    for (const Fold& fold : folds) chosen.push_back({fold, std::vector<float>(4, 2.0F)});
    testing::expect_error(ErrorCode::kMetadata, {what},
                          [&] { (void)tensor_folds(chosen, component, "file"); });
  };
  const FoldSource norm{.name = "norm"};
  expect({{.layers = {"b"}, .sources = {norm}}}, "another number of input channels");
  expect({{.layers = {"norm"}, .sources = {norm}}}, "another number of input channels");
  expect({{.layers = {"c"}, .sources = {norm}}}, "the model has none of this name");
  expect({{.layers = {"a"}, .sources = {{.name = "n"}}}}, "its type cannot be scaled");
  expect({{.layers = {"a"}, .sources = {{.name = "norm", .row = 1}}}}, "not so many rows");
  expect({{.layers = {"a"}, .sources = {{.name = "norm", .row = UINT32_MAX}}}}, "not so many rows");
  expect({{.layers = {"a"}, .sources = {norm, norm}}}, "another fold divides these rows already");
  expect({{.layers = {"a", "a"}, .sources = {norm}}}, "it is in another fold already");
}

}  // namespace
}  // namespace arrow_quant
