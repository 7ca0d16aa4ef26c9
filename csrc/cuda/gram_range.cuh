// Sums of products that are out of the range of float32: found after the pass, and taken once more, in float64.
//
// Squares of float32 or bfloat16 elements leave the range of float32 above 1e19, and lose their digits below 1e-19.
// Both show in the diagonal of what the jobs of a segment add up to.  `look_for_range` says of each job which squares
// of its segment are broken (not finite) or small (less than what may have vanished), and, of those tasks alone,
// whether this job's elements are infinite, or not 0.  `mend_range`, a launch later, reads that of all jobs: where a
// broken square has only finite elements, or a small one has some that are not 0, each job multiplies its columns
// again.  Otherwise both return at once.  Nothing is read on the host.
#pragma once

#include "../launch/team.h"
#include "gram_narrow.cuh"

namespace mtl_ops::cuda {

// What may have vanished, of each product, as a share of the 2^-16 that is left to it: even with denormals flushed to
// 0 less than 2^-126 is lost.
constexpr double kVanished = 0x1p-110;

/// Whether squares of this type may be out of the range of float32.
template <class S>
inline constexpr bool kNeedsRange = std::is_same_v<S, float> || std::is_same_v<S, bfloat16>;

// Of one job, with a bit for each task.
struct Squares {
  uint64_t broken, small;      // what the sums of its segment say, the same for all jobs of the segment
  uint64_t infinite, nonzero;  // what its own elements say of those
};

// squares (jobs,).  A block a job.
template <class S>
__global__ void __launch_bounds__(kThreads)
    look_for_range(const __grid_constant__ TableArgument argument, int T, const double* partial, Squares* squares) {
  __shared__ int broken[kMaxTasks];
  __shared__ int small[kMaxTasks];
  __shared__ int infinite[kMaxTasks];
  __shared__ int nonzero[kMaxTasks];
  const Table table = argument.table();
  const int job = blockIdx.x, lane = threadIdx.x % kWarp;
  const int run = table.run_of(job);
  const launch::Run here = table.runs[run], next = table.runs[run + 1];
  const double products = static_cast<double>(next.first_tile - here.first_tile) * table.width;
  for (int t = threadIdx.x / kWarp; t < T; t += kWarps) {
    const double* row = partial + static_cast<int64_t>(launch::pair_index(t, t, T)) * gridDim.x;
    double square = 0;
    for (int one = here.first_job + lane; one < next.first_job; one += kWarp) square += row[one];
    for (int mask = kWarp / 2; mask > 0; mask /= 2) square += __shfl_xor_sync(0xffffffffu, square, mask);
    if (lane == 0) {
      broken[t] = !(square - square == 0);
      small[t] = square < products * kVanished;
      infinite[t] = nonzero[t] = 0;
    }
  }
  __syncthreads();
  bool any = false;
  for (int t = 0; t < T; ++t) any = any || broken[t] || small[t];
  if (any) {
    for (Tiles tiles(table, job); !tiles.done(); tiles.next()) {
      const Span span = tiles.span();
      for (int t = 0; t < T; ++t) {
        const auto* row = static_cast<const S*>(table.row(tiles.column())[t]);
        if (row == nullptr || !(broken[t] || small[t])) continue;
        for (int64_t x = span.begin + threadIdx.x; x < span.end; x += kThreads) {
          const auto value = static_cast<Compute<S>>(row[x]);
          if (!(value - value == 0)) infinite[t] = 1;  // whoever writes writes the same
          if (value != 0) nonzero[t] = 1;
        }
      }
    }
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  Squares mine{0, 0, 0, 0};
  for (int t = 0; t < T; ++t) {
    mine.broken |= static_cast<uint64_t>(broken[t]) << t;
    mine.small |= static_cast<uint64_t>(small[t]) << t;
    mine.infinite |= static_cast<uint64_t>(infinite[t]) << t;
    mine.nonzero |= static_cast<uint64_t>(nonzero[t]) << t;
  }
  squares[job] = mine;
}

// partial (pairs, jobs): as the kernels above would have filled it, if their lanes were float64.  A block a job; it
// walks through the columns once for each 4 rows with 4.
template <class S>
__global__ void __launch_bounds__(kThreads) mend_range(const __grid_constant__ TableArgument argument, int T,
                                                       double limit, const Squares* squares, double* partial) {
  constexpr int M = 4;
  __shared__ double sums[kWarps][M * M];
  __shared__ uint64_t wrong;
  const Table table = argument.table();
  const int job = blockIdx.x, lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const Squares mine = squares[job];
  if ((mine.broken | mine.small) == 0) return;
  if (threadIdx.x == 0) {
    const int run = table.run_of(job);
    uint64_t infinite = 0, nonzero = 0;
    for (int one = table.runs[run].first_job; one < table.runs[run + 1].first_job; ++one) {
      infinite |= squares[one].infinite;
      nonzero |= squares[one].nonzero;
    }
    wrong = (mine.broken & ~infinite) | (mine.small & nonzero);
  }
  __syncthreads();
  if (wrong == 0) return;
  for (int i0 = 0; i0 < T; i0 += M) {
    for (int j0 = i0; j0 < T; j0 += M) {
      double lanes[M * M] = {};
      for (Tiles tiles(table, job); !tiles.done(); tiles.next()) {
        void* const* rows = table.row(tiles.column());
        const Span span = tiles.span();
        for (int64_t x = span.begin + threadIdx.x; x < span.end; x += kThreads) {
          double a[M], b[M];
          bool has_a[M], has_b[M];
          const auto take_row = [&](int t, double& value) {
            const auto* row = t < T ? static_cast<const S*>(rows[t]) : nullptr;
            if (row == nullptr) return false;
            auto element = static_cast<Compute<S>>(row[x]);
            if (limit >= 0) element = clamp(element, static_cast<Compute<S>>(limit));
            value = element;
            return true;
          };
#pragma unroll
          for (int r = 0; r < M; ++r) {
            has_a[r] = take_row(i0 + r, a[r]);
            has_b[r] = take_row(j0 + r, b[r]);
          }
#pragma unroll
          for (int at = 0; at < M * M; ++at) {
            if (has_a[at / M] && has_b[at % M]) lanes[at] += a[at / M] * b[at % M];
          }
        }
      }
      __syncthreads();  // nobody reads the sums before any more
#pragma unroll
      for (int at = 0; at < M * M; ++at) {
        double sum = lanes[at];
        for (int mask = kWarp / 2; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
        if (lane == 0) sums[warp][at] = sum;
      }
      __syncthreads();
      if (threadIdx.x < M * M) {
        const int i = i0 + threadIdx.x / M, j = j0 + threadIdx.x % M;
        double sum = 0;
        for (int one = 0; one < kWarps; ++one) sum += sums[one][threadIdx.x];
        if (i <= j && j < T) partial[static_cast<int64_t>(launch::pair_index(i, j, T)) * gridDim.x + job] = sum;
      }
    }
  }
}

}  // namespace mtl_ops::cuda
