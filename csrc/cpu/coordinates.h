// The methods that look at single coordinates, on one block of columns of the tasks that take part.  A column with a NaN gives NaN.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "../elementwise/philox.h"
#include "../elementwise/sorting_network.h"
#include "../task_grads.h"
#include "simd.h"

namespace mtl_ops::cpu {

inline constexpr int kBlock = elementwise::kGroup;  // columns

// A block of columns of the tasks that take part in a parameter, scaled and clamped; A is float for all but float64 gradients.
template <class A>
struct Block {
  int64_t k;
  const int64_t* task;  // (k,)
  A* values;            // (k, kBlock), 0 beyond the end of the range; the method may reorder them
  int64_t coordinate;   // the number of the first column
  int64_t columns;      // that there are
  A* merged;            // (kBlock,), the result
};

template <int BYTES, class A>
inline constexpr int kLanes = BYTES / sizeof(A);

// The products of the low halves of 64-bit lanes.
template <int N>
MTL_INLINE vec<uint64_t, N> multiply_low_halves(const vec<uint64_t, N>& a, const vec<uint64_t, N>& b) {
#if defined(__x86_64__) && \
    !defined(__clang__)  // GCC multiplies the high halves, too, even if it could know that they are 0
  if constexpr (N == 2) {
    return bit_cast<vec<uint64_t, N>>(__builtin_ia32_pmuludq128(bit_cast<vec<int, 4>>(a), bit_cast<vec<int, 4>>(b)));
  } else if constexpr (N == 4) {
    return bit_cast<vec<uint64_t, N>>(__builtin_ia32_pmuludq256(bit_cast<vec<int, 8>>(a), bit_cast<vec<int, 8>>(b)));
  } else {
    return bit_cast<vec<uint64_t, N>>(__builtin_ia32_pmuludq512_mask(
        bit_cast<vec<int, 16>>(a), bit_cast<vec<int, 16>>(b), vec<long long, 8>{}, 0xff));
  }
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

// The high and the low halves of the products of N lanes: of the even lanes, then of the odd ones, and back in place.
template <int N>
struct MultiplyLanes {
  using U = vec<uint32_t, N>;
  MTL_INLINE void operator()(const U& a, uint32_t b, U& high, U& low) const {
    using W = vec<uint64_t, N / 2>;
    const W pairs = bit_cast<W>(a), factor = W{} + b;
    const W even = multiply_low_halves<N / 2>(pairs, factor), odd = multiply_low_halves<N / 2>(pairs >> 32, factor);
    high = bit_cast<U>((even >> 32) | (odd >> 32 << 32));
    low = bit_cast<U>((even & 0xffffffffu) | (odd << 32));
  }
};

// The uniform numbers in (0, 1) of coordinates: the caller's, or Philox's.
class Uniforms {
 public:
  Uniforms(const std::optional<Tensor>& given, int64_t seed, int64_t offset, const Coordinates& coordinates)
      : seed_(static_cast<uint64_t>(seed)), offset_(static_cast<uint64_t>(offset)) {
    if (!given) return;
    coordinates.check_uniforms(*given);
    STD_TORCH_CHECK(given->is_cpu(), "uniforms should be on the gradients' device.");
    wide_ = given->scalar_type() == ScalarType::Double;
    given_ = given->const_data_ptr();
  }

  // Those of n <= kBlock coordinates, which lie in one group if they are drawn.
  template <int BYTES, class A>
  MTL_INLINE void get(int64_t coordinate, int64_t n, A* to) const {
    if (!given_) {
      float drawn[kBlock];
      const int64_t phase = coordinate % kBlock;
      draw<BYTES>(coordinate - phase, drawn);
      for (int64_t c = 0; c < n; ++c) to[c] = drawn[phase + c];
    } else if (wide_) {
      const A below_one = 1 - std::numeric_limits<A>::epsilon() / 2;  // rounding must not make a 1 of it
      for (int64_t c = 0; c < n; ++c) {
        to[c] = std::min(static_cast<A>(static_cast<const double*>(given_)[coordinate + c]), below_one);
      }
    } else {
      for (int64_t c = 0; c < n; ++c) to[c] = static_cast<const float*>(given_)[coordinate + c];
    }
  }

 private:
  template <int BYTES>
  MTL_INLINE void draw(int64_t group, float* to) const {
    constexpr int N = std::min<int>(BYTES / sizeof(uint32_t), elementwise::kCounters);
    using U = vec<uint32_t, N>;
    const uint64_t counter = static_cast<uint64_t>(group) / kBlock * elementwise::kCounters;
    U lane{};
    for (int i = 0; i < N; ++i) lane[i] = i;
    for (int first = 0; first < elementwise::kCounters; first += N) {
      U a = lane + static_cast<uint32_t>(counter + first), b = U{} + static_cast<uint32_t>(counter >> 32);
      U c = U{} + static_cast<uint32_t>(offset_), d = U{} + static_cast<uint32_t>(offset_ >> 32);
      elementwise::philox(a, b, c, d, seed_, MultiplyLanes<N>{});
      put<N>(a, to + first);
      put<N>(b, to + first + elementwise::kCounters);
      put<N>(c, to + first + 2 * elementwise::kCounters);
      put<N>(d, to + first + 3 * elementwise::kCounters);
    }
  }

  template <int N>
  MTL_INLINE static void put(const vec<uint32_t, N>& word, float* to) {
    const auto bits = bit_cast<vec<int32_t, N>>(elementwise::uniform_bits(word));  // positive; signed converts faster
    store_raw(to, convert<float, N>(bits) * elementwise::kUniformUnit);
  }

  const void* given_ = nullptr;
  bool wide_ = false;
  uint64_t seed_, offset_;
};

// GradDrop: with P = positive / (positive - negative), the two sums of a coordinate over its tasks, the positive gradients pass where
// P > U, the negative ones where P < U; of what does not pass, a task leaks its share.
struct GradDrop {
  static constexpr Layout layout = Layout::row_major;  // coordinates are numbered
  const Uniforms& uniforms;
  const std::vector<double>& leak;  // (T,)
  bool leaks;                       // any of them is not 0

  template <int BYTES, class A>
  MTL_INLINE void combine(const Block<A>& block) const {
    constexpr int N = kLanes<BYTES, A>;
    using V = vec<A, N>;
    A uniform[kBlock] = {};
    uniforms.get<BYTES>(block.coordinate, block.columns, uniform);
    for (int64_t c = 0; c < kBlock; c += N) {
      V positive{}, negative{}, leaked{}, up{}, down{};
      for (int64_t t = 0; t < block.k; ++t) {
        const V g = load_raw<V>(block.values + t * kBlock + c);
        const V above = g > 0 ? g : V{};
        const V below = g - above;
        positive += above;
        negative += below;
        if (!leaks) continue;
        const A share = static_cast<A>(leak[block.task[t]]);
        leaked += share * g;
        up += (1 - share) * above;
        down += (1 - share) * below;
      }
      if (!leaks) up = positive, down = negative;
      const V total = positive - negative;
      const V purity = positive / total;  // NaN where all are 0: then nothing passes, and nothing is lost
      const V u = load_raw<V>(uniform + c);
      const V passed = purity > u ? up : (purity < u ? down : V{});
      store_raw(block.merged + c, leaked + passed + (total - total));  // + 0, or NaN
    }
  }
};

// The mean of the values of a coordinate without the `trim` largest and the `trim` smallest, or of the middle one or two if there are
// too few for that; with a `trim` of kMaxTasks, the median.
struct TrimmedMean {
  static constexpr Layout layout = Layout::dense;
  int64_t trim;

  template <int BYTES, class A>
  MTL_INLINE void combine(const Block<A>& block) const {
    const int64_t drop = std::min(trim, (block.k - 1) / 2);
    if (block.k <= kInRegisters) {
      in_registers_up_to<BYTES, kInRegisters>(block, drop);
    } else {
      in_memory<BYTES>(block, drop);
    }
  }

 private:
  static constexpr int kInRegisters = 8;  // rows

  template <int BYTES, int K, class A>
  MTL_INLINE static void in_registers_up_to(const Block<A>& block, int64_t drop) {
    if (block.k == K) {
      in_registers<BYTES, K>(block, drop);
    } else if constexpr (K > 1) {
      in_registers_up_to<BYTES, K - 1>(block, drop);
    }
  }

  template <int BYTES, int K, class A>
  MTL_INLINE static void in_registers(const Block<A>& block, int64_t drop) {
    constexpr int N = kLanes<BYTES, A>;
    using V = vec<A, N>;
    const A share = A(1) / static_cast<A>(K - 2 * drop);
    for (int64_t c = 0; c < kBlock; c += N) {
      V v[K];
      auto broken = V{} != V{};
#pragma GCC unroll 16
      for (int t = 0; t < K; ++t) {
        v[t] = load_raw<V>(block.values + t * kBlock + c);
        broken |= v[t] != v[t];
      }
      elementwise::sort(v);
      V sum = K % 2 ? v[K / 2] : V{};
#pragma GCC unroll 16
      for (int t = 0; t < K / 2; ++t) {
        if (t >= drop) sum += v[t] + v[K - 1 - t];
      }
      store_raw(block.merged + c, broken ? V{} + std::numeric_limits<A>::quiet_NaN() : sum * share);
    }
  }

  template <int BYTES, class A>
  MTL_INLINE static void in_memory(const Block<A>& block, int64_t drop) {
    constexpr int N = kLanes<BYTES, A>;
    using V = vec<A, N>;
    const int64_t k = block.k;
    const A share = A(1) / static_cast<A>(k - 2 * drop);
    A sum[kBlock] = {};
    for (int64_t t = 0; t < k; ++t) {
      for (int64_t c = 0; c < kBlock; ++c) {  // NaN stays NaN, and all else is 0
        const A v = block.values[t * kBlock + c];
        sum[c] = v != v ? v : sum[c];
      }
    }
    elementwise::for_each_exchange(static_cast<int>(k), [&](int low, int high) MTL_INLINE_LAMBDA {
      for (int64_t c = 0; c < kBlock; c += N) {
        V a = load_raw<V>(block.values + low * kBlock + c), b = load_raw<V>(block.values + high * kBlock + c);
        elementwise::exchange(a, b);
        store_raw(block.values + low * kBlock + c, a);
        store_raw(block.values + high * kBlock + c, b);
      }
    });
    for (int64_t c = 0; c < kBlock; c += N) {
      V s = load_raw<V>(sum + c);
      for (int64_t t = drop; t < k - drop; ++t) s += load_raw<V>(block.values + t * kBlock + c);
      store_raw(block.merged + c, s * share);
    }
  }
};

// The mean or the sum of a coordinate where the signs of its tasks agree, |sum of the signs| >= tau k, and 0 where they do not.
struct SignAgreement {
  static constexpr Layout layout = Layout::dense;
  double tau;
  bool mean;

  template <int BYTES, class A>
  MTL_INLINE void combine(const Block<A>& block) const {
    constexpr int N = kLanes<BYTES, A>;
    using V = vec<A, N>;
    const A share = mean ? A(1) / static_cast<A>(block.k) : A(1);
    const A needed = static_cast<A>(std::ceil(tau * static_cast<double>(block.k)));
    for (int64_t c = 0; c < kBlock; c += N) {
      V sum{}, signs{};
      auto broken = V{} != V{};
      for (int64_t t = 0; t < block.k; ++t) {
        const V g = load_raw<V>(block.values + t * kBlock + c);
        sum += g;
        signs += g > 0 ? V{} + 1 : (g < 0 ? V{} - 1 : V{});
        broken |= g != g;
      }
      const V kept = (signs >= needed) | (signs <= -needed) ? sum * share : V{};
      store_raw(block.merged + c, broken ? V{} + std::numeric_limits<A>::quiet_NaN() : kept);
    }
  }
};

}  // namespace mtl_ops::cpu
