// Columns of an old layout, row by row, over Parquet's own column readers.
//
// A list is read in small batches and never longer than the caller allows, so that a hostile file
// cannot make it grow. Binary values point into the page that the reader owns: they live until the
// next value is read. A column that the file lacks reads as null in every row.
#pragma once

#include <parquet/column_reader.h>
#include <parquet/file_reader.h>
#include <parquet/schema.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "arrow_quant/error.h"

namespace arrow_quant {

[[noreturn]] inline void fail_legacy(const std::string& path, const std::string& what,
                                     const std::string& tensor = {}) {
  throw Error(ErrorCode::kMetadata, what, {.path = path, .tensor = tensor});
}

/// A column of plain values.
template <typename Type>
class LegacyValues {
 public:
  using Value = typename Type::c_type;

  LegacyValues(parquet::RowGroupReader& group, int column, const std::string& path) : path_(path) {
    if (column < 0) return;
    reader_ = std::static_pointer_cast<parquet::TypedColumnReader<Type>>(group.Column(column));
    nullable_ = reader_->descr()->max_definition_level() > 0;
  }

  std::optional<Value> next() {
    if (reader_ == nullptr) return std::nullopt;
    Value value{};
    int16_t level = 0;
    int64_t values = 0;
    if (reader_->ReadBatch(1, nullable_ ? &level : nullptr, nullptr, &value, &values) != 1) {
      fail_legacy(path_, "a column has fewer values than the file has rows");
    }
    if (values == 0) return std::nullopt;
    return value;
  }

 private:
  std::shared_ptr<parquet::TypedColumnReader<Type>> reader_;
  const std::string& path_;
  bool nullable_ = false;
};

/// A column of bytes or text.
class LegacyBytes {
 public:
  LegacyBytes(parquet::RowGroupReader& group, int column, const std::string& path)
      : values_(group, column, path) {}

  /// Valid until the next call.
  std::optional<std::string_view> next() {
    const auto value = values_.next();
    if (!value) return std::nullopt;
    return std::string_view(reinterpret_cast<const char*>(value->ptr), value->len);
  }

 private:
  LegacyValues<parquet::ByteArrayType> values_;
};

/// A column of integers of either width; unsigned ones read as the signed number of the same bits.
class LegacyIntegers {
 public:
  LegacyIntegers(parquet::RowGroupReader& group, int column, const std::string& path)
      : is_wide_(column >= 0 && physical_type(group, column) == parquet::Type::INT64),
        narrow_(group, is_wide_ ? -1 : column, path),
        wide_(group, is_wide_ ? column : -1, path) {}

  std::optional<int64_t> next() {
    if (is_wide_) return wide_.next();
    return narrow_.next();
  }

  static parquet::Type::type physical_type(const parquet::RowGroupReader& group, int column) {
    return group.metadata()->schema()->Column(column)->physical_type();
  }

 private:
  bool is_wide_;
  LegacyValues<parquet::Int32Type> narrow_;
  LegacyValues<parquet::Int64Type> wide_;
};

/// A column of lists. A null list is an empty one.
template <typename Type>
class LegacyLists {
 public:
  using Value = typename Type::c_type;

  LegacyLists(parquet::RowGroupReader& group, int column, const std::string& path) : path_(path) {
    if (column < 0) return;
    reader_ = std::static_pointer_cast<parquet::TypedColumnReader<Type>>(group.Column(column));
    const parquet::ColumnDescriptor& facts = *reader_->descr();
    full_ = facts.max_definition_level();
    has_null_elements_ = facts.schema_node()->is_optional();
  }

  /// Hand the elements of the next row's list to `take(std::optional<Value>)`, in order.
  template <typename Take>
  void next(Take take) {
    if (reader_ == nullptr) return;
    if (!fill() || repetition_[at_] != 0) fail_legacy(path_, "a list column ends too early");
    do {
      if (definition_[at_] == full_) {
        take(std::optional<Value>(values_[value_at_++]));
      } else if (has_null_elements_ && definition_[at_] == full_ - 1) {
        take(std::optional<Value>());
      }
      ++at_;
    } while (fill() && repetition_[at_] != 0);
  }

 private:
  static constexpr int64_t kBatch = 1024;

  // Whether a level is left to look at.
  bool fill() {
    if (at_ < levels_) return true;
    at_ = 0;
    levels_ = 0;
    value_at_ = 0;
    if (!reader_->HasNext()) return false;
    int64_t values = 0;
    levels_ =
        reader_->ReadBatch(kBatch, definition_.data(), repetition_.data(), values_.data(), &values);
    return levels_ > 0;
  }

  std::shared_ptr<parquet::TypedColumnReader<Type>> reader_;
  const std::string& path_;
  int16_t full_ = 0;
  bool has_null_elements_ = false;
  std::array<int16_t, kBatch> definition_{};
  std::array<int16_t, kBatch> repetition_{};
  std::array<Value, kBatch> values_{};
  int64_t levels_ = 0;
  int64_t at_ = 0;
  size_t value_at_ = 0;
};

}  // namespace arrow_quant
