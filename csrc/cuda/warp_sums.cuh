// Adds up what the lanes of a warp hold.
#pragma once

#include "launch.cuh"

namespace mtl_ops::cuda {

constexpr int kFlushProducts = 256;  // the most that a lane adds up in float32

// Slots for N sums of a warp: lane l adds to the slots l, l + 32, ..., and to no other.
template <int N>
inline constexpr int kSlots = (N + kWarp - 1) / kWarp * kWarp;

// One exchange: of 2 HALF numbers, a lane keeps one half, adds what its partner held of it, and gives the other half
// away.
template <int HALF, class A>
__device__ A exchange(A low, A high) {
  const bool upper = threadIdx.x & HALF;
  return (upper ? high : low) + __shfl_xor_sync(0xffffffffu, upper ? low : high, HALF);
}

template <int HALF, class A>
__device__ double halve(const A (&numbers)[2 * HALF]) {
  double kept[HALF];
#pragma unroll
  for (int i = 0; i < HALF; ++i) kept[i] = exchange<HALF, double>(numbers[i], numbers[i + HALF]);
  if constexpr (HALF > 1) {
    return halve<HALF / 2>(kept);
  } else {
    return kept[0];
  }
}

// Adds the numbers FIRST, FIRST + 1, ... of all lanes, 32 of them: lane l gets the sum of the l-th.  The first
// exchange adds in the lanes' own type, since registers are too short for 32 numbers in float64.
template <int FIRST, int N, class A>
__device__ double warp_sum(const A (&lanes)[N]) {
  constexpr int half = kWarp / 2;
  A kept[half];
#pragma unroll
  for (int i = 0; i < half; ++i) {
    const A low = FIRST + i < N ? lanes[FIRST + i < N ? FIRST + i : 0] : A(0);
    const A high = FIRST + i + half < N ? lanes[FIRST + i + half < N ? FIRST + i + half : 0] : A(0);
    kept[i] = exchange<half, A>(low, high);
  }
  return halve<half / 2>(kept);
}

// Adds every lane's N numbers to the warp's slots in float64 and clears them.
template <int FIRST = 0, int N, class A>
__device__ void add_warp_sums(A (&lanes)[N], double* slots) {
  slots[FIRST + threadIdx.x % kWarp] += warp_sum<FIRST>(lanes);
  if constexpr (FIRST + kWarp < N) {
    add_warp_sums<FIRST + kWarp>(lanes, slots);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) lanes[i] = A(0);
  }
}

}  // namespace mtl_ops::cuda
