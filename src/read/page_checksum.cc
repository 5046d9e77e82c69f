#include "read/page_checksum.h"

#include <algorithm>
#include <cstddef>
#include <optional>

#include "kernels/crc32.h"
#include "read/artefact_damage.h"

namespace arrow_quant {
namespace {

constexpr size_t kPart = 256U << 10;  // half of a usual L2 cache

/// The bytes of a column chunk, read when somebody comes to them.
class ArrivingBytes {
 public:
  ArrivingBytes(std::span<const uint8_t> all, const ReadPart& read) : all_(all), read_(read) {}

  size_t size() const noexcept { return all_.size(); }

  /// Byte `i` of them, less than size().
  uint8_t at(size_t i) {
    need(i + 1);
    return all_[i];
  }

  uint32_t crc32(size_t begin, size_t end) {
    uint32_t crc = 0;
    while (begin != end) {
      need(begin + 1);
      const size_t stop = std::min(end, arrived_);
      crc = arrow_quant::crc32(all_.data() + begin, stop - begin, crc);
      begin = stop;
    }
    return crc;
  }

  void finish() { need(all_.size()); }

 private:
  void need(size_t end) {
    while (arrived_ < end) {
      const size_t stop = std::min(arrived_ + kPart, all_.size());
      read_(arrived_, stop);
      arrived_ = stop;
    }
  }

  std::span<const uint8_t> all_;
  const ReadPart& read_;
  size_t arrived_ = 0;
};

/// What a page header says about the page behind it.
struct PageHeader {
  std::optional<int64_t> stored_size;
  std::optional<int64_t> crc;
};

/// Reads one page header: a struct in Thrift's compact protocol, of which two fields matter.
/// https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
class HeaderReader {
 public:
  HeaderReader(ArrivingBytes& bytes, size_t begin, const std::string& path)
      : bytes_(bytes), path_(path), at_(begin) {}

  PageHeader read() {
    PageHeader header;
    for_each_field([&](int64_t id, int type) {
      constexpr int kStoredSize = 3;
      constexpr int kCrc = 4;
      if (type == kInt32 && id == kStoredSize) {
        header.stored_size = zigzag();
      } else if (type == kInt32 && id == kCrc) {
        header.crc = zigzag();
      } else {
        skip(type, 0);
      }
    });
    return header;
  }

  /// Where the page begins.
  size_t end() const noexcept { return at_; }

 private:
  enum Type { kTrue = 1, kFalse, kByte, kInt16, kInt32, kInt64, kDouble, kBinary, kList, kSet };
  static constexpr int kStruct = 12;
  static constexpr int kMaxDepth = 8;

  uint8_t byte() {
    if (at_ == bytes_.size()) fail_damaged(path_, "a page header ends too early");
    return bytes_.at(at_++);
  }

  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const uint8_t part = byte();
      value |= uint64_t{part & 0x7FU} << shift;
      if (part < 0x80) return value;
    }
    fail_damaged(path_, "a number in a page header is too long");
  }

  int64_t zigzag() {
    const uint64_t value = varint();
    return static_cast<int64_t>(value >> 1) ^ -static_cast<int64_t>(value & 1);
  }

  void advance(uint64_t count) {
    if (count > bytes_.size() - at_) fail_damaged(path_, "a page header ends too early");
    at_ += count;
  }

  template <typename Field>
  void for_each_field(Field field) {
    int64_t id = 0;
    for (uint8_t start = byte(); start != 0; start = byte()) {
      id = (start >> 4) != 0 ? id + (start >> 4) : zigzag();
      field(id, start & 0x0F);
    }
  }

  void skip(int type, int depth) {
    if (depth > kMaxDepth) fail_damaged(path_, "a page header is nested too deeply");
    switch (type) {
      case kTrue:
      case kFalse:
        return;
      case kByte:
        return advance(1);
      case kInt16:
      case kInt32:
      case kInt64:
        varint();
        return;
      case kDouble:
        return advance(8);
      case kBinary:
        return advance(varint());
      case kList:
      case kSet:
        return skip_list(depth);
      case kStruct:
        return for_each_field([&](int64_t, int inner) { skip(inner, depth + 1); });
      default:
        fail_damaged(path_, "a page header has a field of unknown type");
    }
  }

  void skip_list(int depth) {
    const uint8_t start = byte();
    const uint64_t count = (start >> 4) != 15 ? start >> 4 : varint();
    const int type = start & 0x0F;
    for (uint64_t i = 0; i < count; ++i) {
      type == kTrue || type == kFalse ? advance(1) : skip(type, depth + 1);
    }
  }

  ArrivingBytes& bytes_;
  const std::string& path_;
  size_t at_;
};

}  // namespace

void read_pages(std::span<const uint8_t> column_chunk, const ReadPart& read,
                const std::string& path) {
  ArrivingBytes bytes(column_chunk, read);
  for (size_t at = 0; at < bytes.size();) {
    HeaderReader reader(bytes, at, path);
    const PageHeader header = reader.read();
    const size_t begin = reader.end();
    if (!header.stored_size || *header.stored_size < 0 ||
        static_cast<uint64_t>(*header.stored_size) > bytes.size() - begin) {
      fail_damaged(path, "a page does not fit its column");
    }
    at = begin + static_cast<size_t>(*header.stored_size);
    if (header.crc && static_cast<uint32_t>(*header.crc) != bytes.crc32(begin, at)) {
      fail_damaged(path, "a page does not match its checksum");
    }
  }
  bytes.finish();
}

}  // namespace arrow_quant
