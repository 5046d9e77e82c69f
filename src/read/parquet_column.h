// One column of a row group, value by value, over Parquet's own column reader.
//
// Values point into the pages that the reader owns: they live as long as the column object.
#pragma once

#include <parquet/column_reader.h>
#include <parquet/file_reader.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "read/artefact_damage.h"

namespace arrow_quant {

template <typename Type>
class ValueColumn {
 public:
  ValueColumn(parquet::RowGroupReader& group, int column, const std::string& path)
      : reader_(std::static_pointer_cast<parquet::TypedColumnReader<Type>>(group.Column(column))),
        path_(path) {}

  /// The next value, or nothing when it is null.
  std::optional<typename Type::c_type> next() {
    typename Type::c_type value{};
    int16_t level = 0;
    int64_t values = 0;
    const bool nullable = reader_->descr()->max_definition_level() > 0;
    if (reader_->ReadBatch(1, nullable ? &level : nullptr, nullptr, &value, &values) != 1) {
      fail_damaged(path_, "a column ends too early");
    }
    if (values == 0) return std::nullopt;
    return value;
  }

  typename Type::c_type require() {
    const auto value = next();
    if (!value) fail_damaged(path_, "a null where a value is needed");
    return *value;
  }

 private:
  std::shared_ptr<parquet::TypedColumnReader<Type>> reader_;
  const std::string& path_;
};

using BytesColumn = ValueColumn<parquet::ByteArrayType>;
using Int32Column = ValueColumn<parquet::Int32Type>;
using Int64Column = ValueColumn<parquet::Int64Type>;
using FloatColumn = ValueColumn<parquet::FloatType>;

}  // namespace arrow_quant
