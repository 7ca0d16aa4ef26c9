// Philox4x32-10, a counter-based random number generator (Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2,
// 3", SC 2011), and how the coordinates of a gradient draw from it.
//
// The key is a seed of 64 bits.  The counter is 64 bits of place and 64 bits of offset (a step, say).  Coordinates are numbered
// through all parameters in their order, row-major within each, so a number depends on neither the threads, the vector width, the
// memory layout nor the device.  64 coordinates g .. g + 63 (g a multiple of 64) take the four words of 16 counters g / 4 ..
// g / 4 + 15: coordinate g + 16 w + i is word w of counter g / 4 + i.  So 16 neighbours lie side by side in the lanes of a vector.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace mtl_ops::elementwise {

inline constexpr int kGroup = 64;     // coordinates
inline constexpr int kCounters = 16;  // that make them

// The high and the low half of a 32 x 32 bit product.
struct Multiply {
  MTL_SHARED void operator()(uint32_t a, uint32_t b, uint32_t& high, uint32_t& low) const {
    const uint64_t product = static_cast<uint64_t>(a) * b;
    high = static_cast<uint32_t>(product >> 32);
    low = static_cast<uint32_t>(product);
  }
};

// Turns the four words of a counter into four random words; U is uint32_t, or a vector of them with a `multiply` of its own.
template <class U, class M = Multiply>
MTL_SHARED void philox(U& a, U& b, U& c, U& d, uint64_t seed, M multiply = {}) {
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    U high0, low0, high1, low1;
    multiply(a, 0xD2511F53u, high0, low0);
    multiply(c, 0xCD9E8D57u, high1, low1);
    a = high1 ^ b ^ key0;
    b = low1;
    c = high0 ^ d ^ key1;
    d = low0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

// The bits of a random word that make a uniform number (2 bits + 1) / 2^24: exact in float32, and never 0 or 1.
template <class U>
MTL_SHARED U uniform_bits(U word) {
  return (word >> 9) * 2u + 1u;
}
inline constexpr float kUniformUnit = 1.0f / (1 << 24);

// The uniform number of one coordinate.
MTL_SHARED float uniform(int64_t coordinate, uint64_t seed, uint64_t offset) {
  const uint64_t counter = static_cast<uint64_t>(coordinate) / kGroup * kCounters + coordinate % kCounters;
  uint32_t word[4] = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
                      static_cast<uint32_t>(offset), static_cast<uint32_t>(offset >> 32)};
  philox(word[0], word[1], word[2], word[3], seed);
  return static_cast<float>(uniform_bits(word[coordinate % kGroup / kCounters])) * kUniformUnit;
}

}  // namespace mtl_ops::elementwise
