// The columns of weights.parquet, in one place for the writer and the reader
// (docs/reference/format.md).
#pragma once

#include <parquet/schema.h>

#include <memory>
#include <string>

namespace arrow_quant {

/// Position of each column among the leaves of the schema; the order is part of the format. Files
/// may end after kColumnsOfVersion1 columns.
enum Column : int {
  kColName,
  kColChunk,
  kColShape,
  kColSourceDtype,
  kColEncoding,
  kColBitWidth,
  kColGroupSize,
  kColAxis,
  kColCodes,
  kColParamEncoding,
  kColRowScales,
  kColTensorScale,
  kColOffsetUnit,
  kColParams,
  kColEqualization,
  kColTimeParams,
  kColCosine,
  kColNmse,
  kColOutputCosine,
  kColOutputNmse,
  kColRowBegin,
  kColumnsOfVersion1,
  kColMethod = kColumnsOfVersion1,
  kColCandidates,
  kColumnCount,
};

std::shared_ptr<parquet::schema::GroupNode> artefact_schema();

/// Turn an Arrow status or a Parquet exception into our own error; used at every call into Arrow.
[[noreturn]] void rethrow_parquet_error(const std::string& path, bool writing);

}  // namespace arrow_quant
