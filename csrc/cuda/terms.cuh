// What the kernels share that merge the rows of a column.
#pragma once

#include "launch.cuh"

namespace mtl_ops::cuda {

// The tasks that take part in a column, as all threads of a block see them; A is the type they are merged in.
template <class S, class A>
struct Terms {
  int count;
  const S* rows[kMaxTasks];
  A weights[kMaxTasks];
  int tasks[kMaxTasks];

  // By one warp: the tasks that reach the column and have a weight, in their order.  `pointers` (T,) are the rows, or
  // null; `task_weights` (T,) are null for 1, and `factor` is that of all of them.
  __device__ void gather(void* const* pointers, const double* task_weights, int T, double factor = 1.0) {
    const int lane = threadIdx.x % kWarp;
    int found = 0;
    for (int first = 0; first < T; first += kWarp) {
      const int t = first + lane;
      const double weight = t >= T ? 0.0 : factor * (task_weights != nullptr ? task_weights[t] : 1.0);
      const bool counts = weight != 0 && pointers[t] != nullptr;
      const unsigned all = __ballot_sync(0xffffffffu, counts);
      if (counts) {
        const int place = found + __popc(all & ((1u << lane) - 1));
        rows[place] = static_cast<const S*>(pointers[t]);
        weights[place] = static_cast<A>(weight);
        tasks[place] = t;
      }
      found += __popc(all);
    }
    if (lane == 0) count = found;
  }
};

/// An element as a number, clamped unless `limit` is negative.
template <class A, class S>
__device__ A take(S element, double limit) {
  auto value = static_cast<Compute<S>>(element);
  if (limit >= 0) value = clamp(value, static_cast<Compute<S>>(limit));
  return value;
}

/// The sum over a block of THREADS threads, in a fixed order.  All of them must call it, once in a kernel.
template <int THREADS>
__device__ double block_sum(double value) {
  constexpr int warps = THREADS / kWarp;
  __shared__ double warp_sums[warps];
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value += __shfl_xor_sync(0xffffffffu, value, mask);
  if (threadIdx.x % kWarp == 0) warp_sums[threadIdx.x / kWarp] = value;
  __syncthreads();
  double sum = 0;
  for (int warp = 0; warp < warps; ++warp) sum += warp_sums[warp];
  return sum;
}

}  // namespace mtl_ops::cuda
