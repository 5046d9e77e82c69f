#include "read/page_checksum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "arrow_quant/error.h"
#include "kernels/crc32.h"

namespace arrow_quant {
namespace {

using Bytes = std::vector<uint8_t>;

void append_zigzag(Bytes& out, int32_t value) {
  uint32_t rest = (static_cast<uint32_t>(value) << 1) ^ static_cast<uint32_t>(value >> 31);
  for (; rest >= 0x80; rest >>= 7) out.push_back(static_cast<uint8_t>(rest | 0x80));
  out.push_back(static_cast<uint8_t>(rest));
}

/// A page with its header, as Parquet writes it; `crc` 0 leaves the field out.
Bytes page_of(const Bytes& data, uint32_t crc) {
  Bytes out;
  const auto field = [&](int delta, int32_t value) {
    out.push_back(static_cast<uint8_t>(delta << 4 | 5));
    append_zigzag(out, value);
  };
  field(1, 0);
  field(1, static_cast<int32_t>(data.size()));
  field(1, static_cast<int32_t>(data.size()));
  if (crc != 0) field(1, static_cast<int32_t>(crc));
  out.push_back(static_cast<uint8_t>((crc != 0 ? 1 : 2) << 4 | 12));  // data page header
  field(1, 3);                                                        // values
  field(1, 0);
  const Bytes statistics = {0x3C, 0x18, 2, 'h', 'i', 0x11, 0x19, 0x25, 4, 6,
                            0x17, 1,    2, 3,   4,   5,    6,    7,    8, 0};
  out.insert(out.end(), statistics.begin(), statistics.end());
  out.resize(out.size() + 2);  // the ends of both structs
  out.insert(out.end(), data.begin(), data.end());
  return out;
}

Bytes data_of(size_t size) {
  Bytes data(size);
  for (size_t i = 0; i < size; ++i) data[i] = static_cast<uint8_t>(i * 37 + 1);
  return data;
}

Bytes sound_page(size_t size) {
  const Bytes data = data_of(size);
  return page_of(data, crc32(data.data(), data.size()));
}

bool passes(const Bytes& column_chunk) {
  Bytes arrived(column_chunk.size(), 0xEE);
  try {
    read_pages(
        arrived,
        [&](size_t begin, size_t end) {
          std::copy(column_chunk.begin() + static_cast<ptrdiff_t>(begin),
                    column_chunk.begin() + static_cast<ptrdiff_t>(end),
                    arrived.begin() + static_cast<ptrdiff_t>(begin));
        },
        "file");
    EXPECT_EQ(arrived, column_chunk);
    return true;
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kValidation);
    return false;
  }
}

TEST(PageChecksum, SoundPagesPass) {
  EXPECT_TRUE(passes({}));
  Bytes both = sound_page(300);
  const Bytes second = sound_page(1);
  both.insert(both.end(), second.begin(), second.end());
  EXPECT_TRUE(passes(both));
}

TEST(PageChecksum, PagesLargerThanWhatIsReadAtATimePassAndTheirDamageIsFound) {
  Bytes chunk = sound_page(1'000'003);
  const Bytes second = sound_page(300'000);
  chunk.insert(chunk.end(), second.begin(), second.end());
  EXPECT_TRUE(passes(chunk));
  for (size_t i = 100; i < chunk.size(); i += 50'021) {
    Bytes damaged = chunk;
    damaged[i] ^= 0x40;
    EXPECT_FALSE(passes(damaged)) << i;
  }
}

TEST(PageChecksum, APageWithoutAChecksumPasses) { EXPECT_TRUE(passes(page_of(data_of(10), 0))); }

TEST(PageChecksum, EveryFlippedBitOfThePageIsFound) {
  const Bytes page = sound_page(300);
  for (size_t i = page.size() - 300; i < page.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      Bytes damaged = page;
      damaged[i] = static_cast<uint8_t>(damaged[i] ^ (1 << bit));
      EXPECT_FALSE(passes(damaged)) << i;
    }
  }
}

TEST(PageChecksum, EveryTruncationIsFound) {
  const Bytes page = sound_page(300);
  for (size_t size = 1; size < page.size(); ++size) {
    EXPECT_FALSE(passes(Bytes(page.begin(), page.begin() + static_cast<ptrdiff_t>(size)))) << size;
  }
}

TEST(PageChecksum, NestingAndListsWithoutEndAreErrors) {
  EXPECT_FALSE(passes(Bytes(1'000'000, 0x1C)));  // a struct in a struct in a struct ...
  Bytes list(11, 0xFF);                          // a list of 2^63 numbers
  list[0] = 0x19;
  list[1] = 0xF5;
  list[10] = 0x7F;
  EXPECT_FALSE(passes(list));
  list[1] = 0xF0;  // of a type that takes no bytes
  EXPECT_FALSE(passes(list));
}

TEST(PageChecksum, RandomHeadersDoNoHarm) {
  std::mt19937 random(1);
  const Bytes page = sound_page(40);
  for (int i = 0; i < 200'000; ++i) {
    Bytes bytes = page;
    for (int k = 0; k < 3; ++k) bytes[random() % bytes.size()] = static_cast<uint8_t>(random());
    passes(bytes);
  }
}

}  // namespace
}  // namespace arrow_quant
