#include "read/legacy/schema.h"

#include <parquet/schema.h>

#include <initializer_list>

#include "arrow_quant/error.h"

namespace arrow_quant {
namespace {

using parquet::Type;

/// Finds columns by the name of their root field.
class Columns {
 public:
  Columns(const parquet::SchemaDescriptor& schema, const std::string& path)
      : schema_(schema), path_(path) {}

  bool has(const char* name) const { return schema_.group_node()->FieldIndex(name) >= 0; }

  /// A column of plain values; -1 when it is absent.
  int scalar(const char* name, std::initializer_list<Type::type> types) const {
    return leaf(name, types, 0);
  }

  /// A list of values; -1 when it is absent.
  int list(const char* name, std::initializer_list<Type::type> types) const {
    return leaf(name, types, 1);
  }

  /// `column`, which must be there.
  int require(int column, const char* name) const {
    if (column < 0) fail(std::string("no column '") + name + "'");
    return column;
  }

  /// Whether the root field `name` is a list of anything.
  bool is_list(const char* name) const {
    const int field = schema_.group_node()->FieldIndex(name);
    return field >= 0 && schema_.group_node()->field(field)->is_group();
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorCode::kMetadata, what, {.path = path_});
  }

  int leaf(const char* name, std::initializer_list<Type::type> types, int16_t depth) const {
    int found = -1;
    for (int i = 0; i < schema_.num_columns(); ++i) {
      if (schema_.GetColumnRoot(i)->name() != name) continue;
      const parquet::ColumnDescriptor& column = *schema_.Column(i);
      bool fits = found < 0 && column.max_repetition_level() == depth;
      bool typed = false;
      for (const Type::type type : types) typed |= column.physical_type() == type;
      fits &= typed && (depth > 0 || column.max_definition_level() <= 1);
      if (!fits) {
        fail(std::string("column '") + name +
             "' has another type than in any old layout: " + schema_.GetColumnRoot(i)->name() +
             " " + parquet::TypeToString(column.physical_type()));
      }
      found = i;
    }
    return found;
  }

  const parquet::SchemaDescriptor& schema_;
  const std::string& path_;
};

void check_is_legacy(const Columns& columns, const std::string& path) {
  if (columns.has("layer_name")) return;
  if (columns.has("codes") && columns.has("param_encoding")) {
    throw Error(
        ErrorCode::kModelNotFound, "already quantized by this version, not a source model",
        {.path = path, .hint = "Quantize the original, or restore it first: arrow-quant export."});
  }
  throw Error(ErrorCode::kModelNotFound,
              "a Parquet file, but not of a model: no column 'layer_name'", {.path = path});
}

LegacyLayout layout_of(const Columns& columns) {
  if (columns.has("is_diffusion_model")) return LegacyLayout::kDiffusionFiles;
  if (!columns.has("quant_type")) return LegacyLayout::kFloatTable;
  return columns.is_list("scales") ? LegacyLayout::kTensorFiles : LegacyLayout::kQuantizedTable;
}

}  // namespace

std::string_view to_string(LegacyLayout layout) noexcept {
  switch (layout) {
    case LegacyLayout::kFloatTable:
      return "A (table of float weights)";
    case LegacyLayout::kQuantizedTable:
      return "B (table of quantized weights)";
    case LegacyLayout::kTensorFiles:
      return "C (one file per tensor)";
    case LegacyLayout::kDiffusionFiles:
      break;
  }
  return "D (one file per tensor, diffusion)";
}

LegacySchema detect_legacy_schema(const parquet::SchemaDescriptor& schema,
                                  const std::string& path) {
  const Columns columns(schema, path);
  check_is_legacy(columns, path);
  LegacySchema found;
  found.layout = layout_of(columns);
  const auto text = [&](const char* name) { return columns.scalar(name, {Type::BYTE_ARRAY}); };
  const auto integer = [&](const char* name) {
    return columns.scalar(name, {Type::INT32, Type::INT64});
  };
  found.name = columns.require(text("layer_name"), "layer_name");
  found.shape = columns.require(columns.list("shape", {Type::INT32, Type::INT64}), "shape");
  found.dtype = columns.require(text("dtype"), "dtype");
  found.data = columns.require(text("data"), "data");
  found.num_params = columns.require(integer("num_params"), "num_params");
  if (found.layout == LegacyLayout::kFloatTable) return found;

  const bool table = found.layout == LegacyLayout::kQuantizedTable;
  const auto reals = [&](const char* name) {
    return columns.require(table ? text(name) : columns.list(name, {Type::FLOAT}), name);
  };
  found.quant_type = columns.require(text("quant_type"), "quant_type");
  found.scales = reals("scales");
  found.zero_points = reals("zero_points");
  found.quant_axis = integer("quant_axis");
  found.group_size = integer("group_size");
  if (found.layout == LegacyLayout::kDiffusionFiles) {
    found.modality = text("modality");
    found.time_aware = text("time_aware_quant_json");
    found.spatial = text("spatial_quant_json");
  }
  return found;
}

}  // namespace arrow_quant
