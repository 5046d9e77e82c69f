#include "io/parquet_schema.h"

#include <new>

#include <parquet/exception.h>
#include <parquet/types.h>

#include "arrow_quant/error.h"

namespace arrow_quant {
namespace {

using parquet::LogicalType;
using parquet::Repetition;
using parquet::Type;
using parquet::schema::GroupNode;
using parquet::schema::NodePtr;
using parquet::schema::PrimitiveNode;

NodePtr text(const char* name, Repetition::type repetition) {
  return PrimitiveNode::Make(name, repetition, LogicalType::String(), Type::BYTE_ARRAY);
}

NodePtr bytes(const char* name, Repetition::type repetition) {
  return PrimitiveNode::Make(name, repetition, LogicalType::None(), Type::BYTE_ARRAY);
}

NodePtr int8(const char* name) {
  return PrimitiveNode::Make(name, Repetition::OPTIONAL, LogicalType::Int(8, true), Type::INT32);
}

NodePtr int32(const char* name, Repetition::type repetition) {
  return PrimitiveNode::Make(name, repetition, LogicalType::None(), Type::INT32);
}

NodePtr int64(const char* name, Repetition::type repetition) {
  return PrimitiveNode::Make(name, repetition, LogicalType::None(), Type::INT64);
}

NodePtr real(const char* name) {
  return PrimitiveNode::Make(name, Repetition::OPTIONAL, LogicalType::None(), Type::FLOAT);
}

// The standard three-level list.
NodePtr int64_list(const char* name) {
  const NodePtr element =
      PrimitiveNode::Make("element", Repetition::REQUIRED, LogicalType::None(), Type::INT64);
  const NodePtr list = GroupNode::Make("list", Repetition::REPEATED, {element});
  return GroupNode::Make(name, Repetition::REQUIRED, {list}, LogicalType::List());
}

}  // namespace

std::shared_ptr<GroupNode> artefact_schema() {
  constexpr auto kRequired = Repetition::REQUIRED;
  constexpr auto kOptional = Repetition::OPTIONAL;
  const NodePtr root = GroupNode::Make("schema", kRequired,
                                       {text("name", kRequired),
                                        int32("chunk", kRequired),
                                        int64_list("shape"),
                                        text("source_dtype", kRequired),
                                        text("encoding", kRequired),
                                        int8("bit_width"),
                                        int32("group_size", kOptional),
                                        int8("axis"),
                                        bytes("codes", kRequired),
                                        text("param_encoding", kOptional),
                                        bytes("row_scales", kOptional),
                                        real("tensor_scale"),
                                        int8("offset_unit"),
                                        bytes("params", kOptional),
                                        bytes("equalization", kOptional),
                                        bytes("time_params", kOptional),
                                        real("cosine"),
                                        real("nmse"),
                                        real("output_cosine"),
                                        real("output_nmse"),
                                        int64("row_begin", kRequired),
                                        text("method", kOptional),
                                        text("candidates", kOptional)});
  // NOLINTNEXTLINE(clang-analyzer-cplusplus.NewDeleteLeaks): the shared pointers own the nodes
  return std::static_pointer_cast<GroupNode>(root);
}

void rethrow_parquet_error(const std::string& path, bool writing) {
  try {
    throw;
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const parquet::ParquetStatusException& e) {
    if (e.status().IsOutOfMemory()) throw Error(ErrorCode::kMemory, e.what(), {.path = path});
    throw Error(writing ? ErrorCode::kOutput : ErrorCode::kValidation, e.what(), {.path = path});
  } catch (const std::exception& e) {
    throw Error(writing ? ErrorCode::kOutput : ErrorCode::kValidation, e.what(), {.path = path});
  }
}

}  // namespace arrow_quant
