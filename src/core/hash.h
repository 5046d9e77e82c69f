// XXH3-128: the hash of files, headers and fingerprints. It finds damage and mix-ups at memory
// speed; it is not a signature against a forger (SECURITY.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace arrow_quant {

/// Streaming hash. Not thread-safe.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;

  void update(std::span<const std::byte> bytes) noexcept;

  /// Digest of everything so far as 32 lowercase hex digits, most significant byte first.
  std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// A shorter one, to order values in memory or to find equal ones.
uint64_t hash_64(std::span<const std::byte> bytes) noexcept;

/// Digest of one span.
std::string hash_hex(std::span<const std::byte> bytes);

}  // namespace arrow_quant
