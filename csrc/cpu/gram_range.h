// Which sums of products float32 cannot hold: what is found after the pass, in the diagonal of G, and then in the elements.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <vector>

#include "jobs.h"

namespace mtl_ops::cpu {

// What may have vanished, of each product, as a share of the 2^-16 that is left to it: even with denormals flushed to 0 less than
// 2^-126 is lost.
inline constexpr double kVanished = 0x1p-110;

// Whether squares of this dtype may be out of the range of float32.
inline bool needs_range(ScalarType dtype) { return dtype == ScalarType::Float || dtype == ScalarType::BFloat16; }

// Whether any of the elements [begin, end), as bits without their sign, is at least `least`.
template <class Bits>
bool any_element(const void* row, int64_t begin, int64_t end, Bits least) {
  constexpr int64_t chunk = 4096;
  constexpr Bits magnitude = static_cast<Bits>(~Bits{0}) >> 1, top = magnitude + 1;
  const Bits* bits = static_cast<const Bits*>(row);
  const Bits offset = top - least;  // carries into the top bit what is at least that
  for (int64_t x = begin; x < end; x += chunk) {
    const int64_t stop = std::min(end, x + chunk);
    Bits all = 0;
    for (int64_t i = x; i < stop; ++i) all |= static_cast<Bits>((bits[i] & magnitude) + offset);
    if ((all & top) != 0) return true;
  }
  return false;
}

// Finds the segments to be multiplied once more.
class OutOfRange {
 public:
  // `G` (S, T, T) are the sums so far.
  OutOfRange(const TaskGrads& grads, const double* G)
      : grads_(grads), T_(grads.tasks()), facts_(grads.segments() * T_) {
    std::vector<double> products(grads.segments(), 0.0);
    for (int64_t p = 0; p < grads.params(); ++p) {
      if (needs_range(grads.dtype(p))) products[grads.segment(p)] += static_cast<double>(grads.numel(p));
    }
    for (int64_t s = 0; s < grads.segments(); ++s) {
      for (int64_t t = 0; t < T_ && products[s] > 0; ++t) {
        const double square = G[(s * T_ + t) * T_ + t];
        uint8_t& facts = facts_[s * T_ + t];
        if (!std::isfinite(square)) facts |= kBroken;
        if (square < products[s] * kVanished) facts |= kSmall;
      }
    }
  }

  // Whether the elements have to be looked at.
  bool any() const {
    return std::any_of(facts_.begin(), facts_.end(), [](uint8_t facts) { return facts != 0; });
  }

  // Looks at the elements of a job, for what explains a broken square, or does not go with a small one.
  void look_at(const Job& job) {
    uint8_t* facts = facts_.data() + job.segment * T_;
    for (const Range& range : job.ranges) {
      const ScalarType dtype = grads_.dtype(range.param);
      for (int64_t t = 0; t < T_; ++t) {
        const void* row = grads_.rows(range.param)[t];
        if (row == nullptr) continue;
        const uint8_t known = std::atomic_ref<uint8_t>(facts[t]).load(std::memory_order_relaxed);
        if (known & kBroken) look(row, range, dtype, kInfinite, facts[t]);
        if (known & kSmall) look(row, range, dtype, kNonzero, facts[t]);
      }
    }
  }

  // After all jobs were looked at.
  bool has(const Job& job) const {
    const uint8_t* facts = facts_.data() + job.segment * T_;
    return std::any_of(facts, facts + T_, [](uint8_t f) {
      return ((f & kBroken) && !(f & kInfinite)) || ((f & kSmall) && (f & kNonzero));
    });
  }

 private:
  // Of a task in a segment.
  enum Fact : uint8_t {
    kBroken = 1,  // what G says
    kSmall = 2,
    kInfinite = 4,  // what the elements say of those
    kNonzero = 8,
  };

  static void look(const void* row, const Range& range, ScalarType dtype, Fact fact, uint8_t& facts) {
    const std::atomic_ref<uint8_t> all(facts);
    if (all.load(std::memory_order_relaxed) & fact) return;
    const auto any = [&](auto infinity) {
      return any_element(row, range.begin, range.end, fact == kInfinite ? infinity : decltype(infinity){1});
    };
    const bool here = dtype == ScalarType::Double     ? any(uint64_t{0x7ff0000000000000})
                      : dtype == ScalarType::Float    ? any(uint32_t{0x7f800000})
                      : dtype == ScalarType::BFloat16 ? any(uint16_t{0x7f80})
                                                      : any(uint16_t{0x7c00});
    if (here) all.fetch_or(fact, std::memory_order_relaxed);
  }

  const TaskGrads& grads_;
  int64_t T_;
  std::vector<uint8_t> facts_;  // (S, T)
};

}  // namespace mtl_ops::cpu
