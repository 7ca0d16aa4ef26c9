// Vector code without intrinsics: kernels are templates over the width of a vector in bytes, written with GCC's vector types and
// compiled once for each level of instruction set; the level is chosen at run time.
//
//   template <int BYTES> MTL_INLINE void kernel(args...) { ... }      // every function it calls is MTL_INLINE, too
//   MTL_SIMD_ENTRY(kernel, (int a, float* b), (a, b))                 // defines run_kernel(a, b)
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <torch/headeronly/core/ScalarType.h>

// Vectors wider than the baseline's registers never cross a call, so their calling convention does not matter.
#pragma GCC diagnostic ignored "-Wpsabi"

#define MTL_INLINE __attribute__((always_inline)) inline
#define MTL_INLINE_LAMBDA __attribute__((always_inline))  // between parameters and body

#if defined(MTL_SIMD_BYTES)  // one level, of vectors this wide: sanitizers make a third of the text long enough
#define MTL_SIMD_ENTRY(name, parameters, arguments) \
  static void run_##name parameters { name<MTL_SIMD_BYTES> arguments; }
#elif defined(__x86_64__)
#define MTL_SIMD_ENTRY(name, parameters, arguments)                                                  \
  __attribute__((target("arch=x86-64-v4"))) static void name##_v4 parameters { name<64> arguments; } \
  __attribute__((target("arch=x86-64-v3"))) static void name##_v3 parameters { name<32> arguments; } \
  static void name##_generic parameters { name<16> arguments; }                                      \
  static void run_##name parameters {                                                                \
    switch (::mtl_ops::cpu::simd()) {                                                                \
      case ::mtl_ops::cpu::Simd::v4:                                                                 \
        return name##_v4 arguments;                                                                  \
      case ::mtl_ops::cpu::Simd::v3:                                                                 \
        return name##_v3 arguments;                                                                  \
      default:                                                                                       \
        return name##_generic arguments;                                                             \
    }                                                                                                \
  }
#else
#define MTL_SIMD_ENTRY(name, parameters, arguments) \
  static void run_##name parameters { name<16> arguments; }
#endif

namespace mtl_ops::cpu {

enum class Simd { generic, v3, v4 };

inline Simd detect_simd() {
  Simd best = Simd::generic;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = Simd::v3;
  if (best == Simd::v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    best = Simd::v4;
  }
#endif
  const char* wish = std::getenv("MTL_OPS_SIMD");
  if (wish && std::strcmp(wish, "generic") == 0) return Simd::generic;
  if (wish && std::strcmp(wish, "x86-64-v3") == 0) return std::min(best, Simd::v3);
  return best;
}

// The level in use: the best this processor has, or a lower one named by the environment variable MTL_OPS_SIMD.
inline Simd simd() {
  static const Simd level = detect_simd();
  return level;
}
inline const char* simd_level() {
  const Simd level = simd();
  return level == Simd::v4 ? "x86-64-v4" : level == Simd::v3 ? "x86-64-v3" : "generic";
}

// Gradients in 16 bits, as their bits.
struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

// Vectors of N elements.
template <class T, int N>
struct Vec {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <class T, int N>
using vec = typename Vec<T, N>::type;

template <class V, class T>
MTL_INLINE V load_raw(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof(V));
  return v;
}

template <class V, class T>
MTL_INLINE void store_raw(T* p, const V& v) {
  std::memcpy(p, &v, sizeof(V));
}

inline constexpr int64_t kLine = 64;  // bytes of a cache line

// Copies a line to the line-aligned `to`, past the caches where the processor can: no read of what is overwritten, nothing evicted.
// Those who read it on another thread need `stream_fence` before they are told.
MTL_INLINE void stream_line(void* to, const void* from) {
#if defined(__x86_64__)
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    _mm_stream_si128(static_cast<__m128i*>(to) + i, _mm_loadu_si128(static_cast<const __m128i*>(from) + i));
  }
#else
  std::memcpy(to, from, kLine);
#endif
}
inline void stream_fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// Bits to bits: the same number of bytes under another type.
template <class To, class From>
MTL_INLINE To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

// The same numbers in another element type.
template <class To, int N, class V>
MTL_INLINE vec<To, N> convert(const V& v) {
  using From = std::remove_cvref_t<decltype(v[0])>;
#if defined(__x86_64__) && !defined(__clang__)  // GCC widens by halves and puts them together
  if constexpr (std::is_same_v<From, float> && std::is_same_v<To, double> && N == 4) {
    return __builtin_ia32_cvtps2pd256(v);
  } else if constexpr (std::is_same_v<From, float> && std::is_same_v<To, double> && N == 8) {
    return __builtin_ia32_cvtps2pd512_mask(v, vec<double, N>{}, -1, 4);  // all lanes, rounding as set
  } else if constexpr (std::is_same_v<From, uint16_t> && std::is_same_v<To, uint32_t> && N == 8) {
    return bit_cast<vec<To, N>>(__builtin_ia32_pmovzxwd256(bit_cast<vec<short, N>>(v)));
  } else if constexpr (std::is_same_v<From, uint16_t> && std::is_same_v<To, uint32_t> && N == 16) {
    return bit_cast<vec<To, N>>(__builtin_ia32_pmovzxwd512_mask(bit_cast<vec<short, N>>(v), vec<int, N>{}, -1));
  } else {
    return __builtin_convertvector(v, vec<To, N>);
  }
#else
  return __builtin_convertvector(v, vec<To, N>);
#endif
}

// N consecutive gradients as float32 (float64 stays float64).
template <int N>
MTL_INLINE vec<float, N> load(const float* p) {
  return load_raw<vec<float, N>>(p);
}
template <int N>
MTL_INLINE vec<double, N> load(const double* p) {
  return load_raw<vec<double, N>>(p);
}
template <int N>
MTL_INLINE vec<float, N> load(const bfloat16* p) {
  return bit_cast<vec<float, N>>(convert<uint32_t, N>(load_raw<vec<uint16_t, N>>(p)) << 16);
}
// IEEE half in the low 16 bits of each lane, the others 0: shift exponent and mantissa into place and move the bias; Inf and NaN take
// the bias twice, and a subnormal is made by subtracting 2^-14 from a normal number, so that no float32 subnormal ever appears (they
// are slow, and may be flushed to zero).
template <int N>
MTL_INLINE vec<float, N> expand_half(const vec<uint32_t, N>& half) {
  using U = vec<uint32_t, N>;
  using F = vec<float, N>;
  const U exponent = half & 0x7c00u;
  U bits = ((half & 0x7fffu) << 13) + (112u << 23);
  bits = exponent == 0x7c00u ? bits + (112u << 23) : bits;
  const F subnormal = bit_cast<F>(bits + (1u << 23)) - bit_cast<F>(U{} + (113u << 23));
  bits = exponent == 0u ? bit_cast<U>(subnormal) : bits;
  return bit_cast<F>(bits | ((half & 0x8000u) << 16));
}
template <int N>
MTL_INLINE vec<float, N> load(const float16* p) {
  return expand_half<N>(convert<uint32_t, N>(load_raw<vec<uint16_t, N>>(p)));
}

// Half of 2 N consecutive gradients, the other half, in an order that depends on the place alone, for sums over all of them: for 16
// bits the even ones and the odd ones, which takes no shuffle.
template <int N, class S>
MTL_INLINE auto load_half(const S* p, int half) {
  if constexpr (std::is_same_v<S, bfloat16>) {
    const auto pairs = load_raw<vec<uint32_t, N>>(p);
    return bit_cast<vec<float, N>>(half == 0 ? pairs << 16 : pairs & 0xffff0000u);
  } else if constexpr (std::is_same_v<S, float16>) {
    const auto pairs = load_raw<vec<uint32_t, N>>(p);
    return expand_half<N>(half == 0 ? pairs & 0xffffu : pairs >> 16);
  } else {
    return load<N>(p + half * N);
  }
}

// Clamps to [-limit, limit].  Inf and NaN become NaN: a clip must not hide that a gradient is broken.
template <class V, class S>
MTL_INLINE V clamp(V x, S limit) {
  const V hi = V{} + limit;
  const V broken = x - x;  // 0, or NaN
  x = x > hi ? hi : x;
  x = x < -hi ? -hi : x;
  return x + broken;
}

// Round to nearest, ties to even; NaN stays NaN.
template <int N>
MTL_INLINE void store(float* p, const vec<float, N>& v) {
  store_raw(p, v);
}
template <int N>
MTL_INLINE void store(double* p, const vec<double, N>& v) {
  store_raw(p, v);
}
template <int N>
MTL_INLINE void store(bfloat16* p, const vec<float, N>& v) {
  using U = vec<uint32_t, N>;
  const U bits = bit_cast<U>(v);
  U rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  rounded = (bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded;
  store_raw(p, convert<uint16_t, N>(rounded));
}
template <int N>
MTL_INLINE void store(float16* p, const vec<float, N>& v) {
  using U = vec<uint32_t, N>;
  using F = vec<float, N>;
  const U bits = bit_cast<U>(v);
  const U sign = (bits >> 16) & 0x8000u;
  const U magnitude = bits & 0x7fffffffu;
  // normal: move the bias, round half to even on the 13 bits that go
  const U normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // below 2^-14: adding 1/2 (2^-1, whose last bit is 2^-24) lets the addition round to the subnormal's last bit
  const U subnormal = bit_cast<U>(bit_cast<F>(magnitude) + 0.5f) - 0x3f000000u;
  U half = magnitude < (113u << 23) ? subnormal : normal;
  half = magnitude >= 0x47800000u ? U{} + 0x7c00u : half;  // 2^16 and above: Inf (65520 rounds up there by itself)
  half = magnitude > 0x7f800000u ? U{} + 0x7e00u : half;
  store_raw(p, convert<uint16_t, N>(half | sign));
}

// f(S{}) with the element type S of a dtype.
template <class F>
MTL_INLINE void with_element_type(torch::headeronly::ScalarType dtype, const F& f) {
  using torch::headeronly::ScalarType;
  switch (dtype) {
    case ScalarType::Double:
      return f(double{});
    case ScalarType::BFloat16:
      return f(bfloat16{});
    case ScalarType::Half:
      return f(float16{});
    default:
      return f(float{});
  }
}

}  // namespace mtl_ops::cpu
