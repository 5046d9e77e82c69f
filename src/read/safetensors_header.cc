#include "read/safetensors_header.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <utility>

#include "arrow_quant/error.h"
#include "core/checked.h"
#include "core/hash.h"
#include "core/json.h"
#include "core/text.h"
#include "read/file_signature.h"

namespace arrow_quant {
namespace {

using Limits = SafetensorsLimits;
using Json = nlohmann::json;

constexpr size_t kLengthBytes = 8;
constexpr size_t kFewestTensorBytes = 50;  // no JSON entry of a tensor is shorter

[[noreturn]] void fail(const std::string& path, const std::string& what,
                       const std::string& tensor = {}, const std::string& hint = {}) {
  throw Error(ErrorCode::kMetadata, what, {.path = path, .tensor = tensor, .hint = hint});
}

/// Collects the entries of a header while nlohmann's non-recursive parser walks it.
class HeaderBuilder final : public nlohmann::json_sax<Json> {
 public:
  HeaderBuilder(const std::string& path, uint64_t header_bytes) : path_(path) {
    header_.tensors.reserve(
        std::min<uint64_t>(header_bytes / kFewestTensorBytes + 1, Limits::kMaxTensors));
  }

  SafetensorsHeader take() { return std::move(header_); }

  bool null() override { reject("null"); }
  bool boolean(bool) override { reject("a boolean"); }
  bool number_integer(int64_t value) override {
    reject("the negative number " + std::to_string(value));
  }
  bool number_float(double, const std::string& text) override {
    reject("the number " + printable(text));
  }
  bool binary(Json::binary_t&) override { reject("binary data"); }

  bool number_unsigned(uint64_t value) override {
    if (place_ != Place::kShape && place_ != Place::kOffsets) reject("a number");
    if (place_ == Place::kShape) {
      if (value > Limits::kMaxDim) {
        fail_here("a dimension of " + std::to_string(value) + ", at most 2^48 are read");
      }
      if (tensor_.shape.size() == Limits::kMaxRank) fail_here("more than 8 dimensions");
      tensor_.shape.push_back(value);
    } else {
      if (offset_count_ == 2) fail_here("expected 2 data_offsets, found more");
      offsets_[offset_count_++] = value;
    }
    return true;
  }

  bool string(std::string& value) override {
    if (place_ == Place::kDtype) {
      const std::optional<DType> dtype = parse_dtype(value);
      if (!dtype) fail_here("unknown dtype '" + printable(value) + "'");
      tensor_.dtype = *dtype;
      place_ = Place::kTensor;
    } else if (place_ == Place::kMetadataValue) {
      metadata_bytes_ += metadata_key_.size() + value.size();
      if (metadata_bytes_ > Limits::kMaxMetadataBytes) fail(path_, "__metadata__ exceeds 16 MiB");
      if (!header_.metadata.emplace(metadata_key_, std::move(value)).second) {
        fail(path_, "duplicate key '" + printable(metadata_key_) + "' in __metadata__");
      }
      place_ = Place::kMetadata;
    } else {
      reject("a string");
    }
    return true;
  }

  bool key(std::string& name) override {
    if (name.find('\0') != std::string::npos) fail(path_, "a name contains a NUL character");
    if (place_ == Place::kRoot) {
      return root_key(name);
    }
    if (place_ == Place::kMetadata) {
      metadata_key_ = std::move(name);
      place_ = Place::kMetadataValue;
      return true;
    }
    return field_key(name);
  }

  bool start_object(size_t) override {
    switch (place_) {
      case Place::kStart:
        place_ = Place::kRoot;
        return true;
      case Place::kMetadataStart:
        place_ = Place::kMetadata;
        return true;
      case Place::kTensorStart:
        place_ = Place::kTensor;
        return true;
      default:
        reject("an object");
    }
  }

  bool end_object() override {
    if (place_ == Place::kTensor) finish_tensor();
    place_ = place_ == Place::kRoot ? Place::kEnd : Place::kRoot;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ == Place::kShapeStart) {
      place_ = Place::kShape;
    } else if (place_ == Place::kOffsetsStart) {
      place_ = Place::kOffsets;
    } else {
      reject("an array");
    }
    return true;
  }

  bool end_array() override {
    place_ = Place::kTensor;
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    fail(path_, "the header is not valid JSON: byte " + std::to_string(position) + ": " +
                    json_problem(error));
  }

 private:
  enum class Place {
    kStart,
    kRoot,
    kMetadataStart,
    kMetadata,
    kMetadataValue,
    kTensorStart,
    kTensor,
    kDtype,
    kShapeStart,
    kShape,
    kOffsetsStart,
    kOffsets,
    kEnd,
  };
  enum Field : unsigned { kHasDtype = 1, kHasShape = 2, kHasOffsets = 4 };

  [[noreturn]] void fail_here(const std::string& what) const {
    fail(path_, what, printable(tensor_.name));
  }

  [[noreturn]] void reject(const std::string& found) const {
    static constexpr const char* kExpected[] = {"the header to be an object",
                                                "a tensor name",
                                                "__metadata__ to be an object",
                                                "a key",
                                                "__metadata__ values to be strings",
                                                "the entry to be an object",
                                                "a field",
                                                "dtype to be a string",
                                                "shape to be an array",
                                                "dimensions to be whole numbers",
                                                "data_offsets to be an array",
                                                "data_offsets to be whole numbers",
                                                "the end"};
    const bool in_tensor = place_ >= Place::kTensorStart && place_ != Place::kEnd;
    fail(path_,
         std::string("expected ") + kExpected[static_cast<size_t>(place_)] + ", found " + found,
         in_tensor ? printable(tensor_.name) : "");
  }

  bool root_key(std::string& name) {
    if (name == "__metadata__") {
      if (seen_metadata_) fail(path_, "duplicate key '__metadata__'");
      seen_metadata_ = true;
      place_ = Place::kMetadataStart;
      return true;
    }
    if (name.size() > Limits::kMaxNameBytes) {
      fail(path_,
           "a tensor name of " + std::to_string(name.size()) + " bytes, at most 4096 are read");
    }
    if (header_.tensors.size() == Limits::kMaxTensors) {
      fail(path_, "more than 1,000,000 tensors");
    }
    tensor_ = TensorInfo{};
    tensor_.name = std::move(name);
    fields_ = 0;
    offset_count_ = 0;
    place_ = Place::kTensorStart;
    return true;
  }

  bool field_key(const std::string& name) {
    unsigned field = 0;
    if (name == "dtype") {
      field = kHasDtype;
      place_ = Place::kDtype;
    } else if (name == "shape") {
      field = kHasShape;
      place_ = Place::kShapeStart;
    } else if (name == "data_offsets") {
      field = kHasOffsets;
      place_ = Place::kOffsetsStart;
    } else {
      fail_here("unknown field '" + printable(name) + "'");
    }
    if ((fields_ & field) != 0) fail_here("duplicate field '" + name + "'");
    fields_ |= field;
    return true;
  }

  void finish_tensor() {
    for (const auto& [field, name] :
         {std::pair{kHasDtype, "dtype"}, {kHasShape, "shape"}, {kHasOffsets, "data_offsets"}}) {
      if ((fields_ & field) == 0) fail_here(std::string("missing field '") + name + "'");
    }
    if (offset_count_ != 2) {
      fail_here("expected 2 data_offsets, found " + std::to_string(offset_count_));
    }
    if (offsets_[1] < offsets_[0]) {
      fail_here("data_offsets end at " + std::to_string(offsets_[1]) + ", before their begin " +
                std::to_string(offsets_[0]));
    }
    tensor_.offset = offsets_[0];
    tensor_.nbytes = offsets_[1] - offsets_[0];
    header_.tensors.push_back(std::move(tensor_));
  }

  const std::string& path_;
  SafetensorsHeader header_;
  Place place_ = Place::kStart;
  TensorInfo tensor_;
  unsigned fields_ = 0;
  uint64_t offsets_[2] = {0, 0};
  unsigned offset_count_ = 0;
  bool seen_metadata_ = false;
  std::string metadata_key_;
  uint64_t metadata_bytes_ = 0;
};

// shape times dtype in bytes, or nothing when that overflows or does not fill whole bytes.
std::optional<uint64_t> expected_bytes(const TensorInfo& tensor) {
  // "Empty" is decided by the dimensions; a product may wrap to zero.
  if (std::ranges::any_of(tensor.shape, [](uint64_t dim) { return dim == 0; })) return 0;
  std::optional<uint64_t> bits = dtype_info(tensor.dtype).bits;
  for (uint64_t dim : tensor.shape) {
    bits = checked_mul(*bits, dim);
    if (!bits) return std::nullopt;
  }
  if (*bits % 8 != 0) return std::nullopt;
  return *bits / 8;
}

void check_sizes(const std::vector<TensorInfo>& tensors, const std::string& path) {
  for (const TensorInfo& tensor : tensors) {
    const std::optional<uint64_t> expected = expected_bytes(tensor);
    if (!expected) {
      fail(path, "shape times dtype overflows or does not fill whole bytes", tensor.name);
    }
    if (*expected != tensor.nbytes) {
      throw Error(ErrorCode::kShapeMismatch,
                  "shape and dtype need " + std::to_string(*expected) +
                      " bytes, data_offsets span " + std::to_string(tensor.nbytes),
                  {.path = path, .tensor = tensor.name});
    }
  }
}

// Offsets must cover the data exactly, without holes or overlaps, so that no byte of the file is
// outside every tensor (a polyglot) or inside two.
void check_cover(const std::vector<TensorInfo>& tensors, uint64_t data_bytes,
                 const std::string& path) {
  uint64_t end = 0;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.offset != end) {
      fail(path,
           "expected data_offsets to begin at " + std::to_string(end) + ", found " +
               std::to_string(tensor.offset),
           tensor.name, "Tensors must cover the file without holes or overlaps.");
    }
    if (tensor.nbytes > data_bytes - end) {
      fail(path,
           "data_offsets end at " + std::to_string(tensor.offset + tensor.nbytes) +
               ", the file has " + std::to_string(data_bytes) + " bytes of data",
           tensor.name, "An incomplete download?");
    }
    end += tensor.nbytes;
  }
  if (end != data_bytes) {
    fail(path, "the tensors end at byte " + std::to_string(end) + " of the data, the file has " +
                   std::to_string(data_bytes) + " bytes of data");
  }
}

void check_names(const std::vector<TensorInfo>& tensors, const std::string& path) {
  std::vector<const std::string*> names;
  names.reserve(tensors.size());
  for (const TensorInfo& tensor : tensors) names.push_back(&tensor.name);
  const auto less = [](const std::string* a, const std::string* b) { return *a < *b; };
  const auto equal = [](const std::string* a, const std::string* b) { return *a == *b; };
  std::ranges::sort(names, less);
  const auto twin = std::ranges::adjacent_find(names, equal);
  if (twin != names.end()) fail(path, "duplicate tensor name", **twin);
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view header, uint64_t file_size,
                                           const std::string& path) {
  if (!header.starts_with('{')) fail(path, "the header does not start with '{'");
  // Padding is spaces at the end; other whitespace and NUL are not.
  const size_t last = header.find_last_not_of(' ');
  if (header[last] != '}') fail(path, "the header does not end with '}' and spaces");
  // To nlohmann a NUL is the end of the input, whatever follows.
  if (header.find('\0') != std::string_view::npos) {
    fail(path, "the header is not valid JSON: it contains a NUL character");
  }
  HeaderBuilder builder(path, header.size());
  Json::sax_parse(header.substr(0, last + 1), &builder);
  SafetensorsHeader result = builder.take();
  if (result.tensors.empty()) fail(path, "model has no tensors");

  check_names(result.tensors, path);
  check_sizes(result.tensors, path);
  // Empty tensors sort before the one that begins at the same byte, so they must lie at a boundary.
  std::ranges::stable_sort(result.tensors, [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(a.offset, a.nbytes) < std::pair(b.offset, b.nbytes);
  });
  const uint64_t data_begin = kLengthBytes + header.size();
  if (data_begin > file_size) fail(path, "the header is longer than the file");
  check_cover(result.tensors, file_size - data_begin, path);
  for (TensorInfo& tensor : result.tensors) tensor.offset += data_begin;
  return result;
}

SafetensorsHeader read_safetensors_header(const FileReader& file, SourceFile& identity) {
  const std::string& path = file.path();
  if (file.size() < kLengthBytes) {
    fail(path,
         "expected at least 8 bytes (the header length), found " + std::to_string(file.size()), {},
         "An empty or incomplete download?");
  }
  char start[kLengthBytes + 1] = {};  // the length and the first byte of the header
  const size_t known = std::min<uint64_t>(file.size(), sizeof(start));
  file.read_exact(0, std::as_writable_bytes(std::span(start, known)));
  uint64_t length = 0;
  static_assert(std::endian::native == std::endian::little);
  std::memcpy(&length, start, kLengthBytes);
  // A valid length may look like the start of another format: 640 is that of a pickle.
  if (start[kLengthBytes] != '{' || length > Limits::kMaxHeaderBytes) {
    const std::string kind = looks_like(std::string_view(start, known));
    if (!kind.empty()) fail(path, "expected a safetensors file, found what looks like " + kind);
  }
  if (length < 2) fail(path, "a header of " + std::to_string(length) + " bytes holds no tensors");
  if (length > Limits::kMaxHeaderBytes) {
    fail(path, "a header of " + std::to_string(length) + " bytes, at most 100 MB are read", {},
         "Is this a safetensors file?");
  }
  if (length > file.size() - kLengthBytes) {
    fail(path,
         "the header needs " + std::to_string(length) + " bytes, the file has " +
             std::to_string(file.size() - kLengthBytes) + " after the length",
         {}, "An incomplete download?");
  }
  std::string header(length, '\0');
  const auto bytes = std::as_writable_bytes(std::span(header));
  file.read_exact(kLengthBytes, bytes);
  identity = {.path = path,
              .size = file.size(),
              .mtime_ns = file.mtime_ns(),
              .inode = file.inode(),
              .header_hash = hash_hex(bytes)};
  return parse_safetensors_header(header, file.size(), path);
}

}  // namespace arrow_quant
