// Sums of products that are out of the range of float32: found by the block that made them, and taken once more, in
// float64.
//
// Squares of float32 or bfloat16 elements leave the range of float32 above 1e19, and lose their digits below 1e-19.
// Both show in the diagonal of what a job adds up: a square is broken (not finite) or small (less than what may have
// vanished).  The job's elements of those tasks alone say whether that is as it should be, because some are infinite, or
// all are 0.  Where it is not, the job multiplies its columns again.  So the share of no job in a square, and by Cauchy
// and Schwarz in no other product, is off by more than kVanished allows.  Nothing is read on the host, and no block
// waits for another.
#pragma once

#include "../launch/team.h"
#include "launch.cuh"

namespace mtl_ops::cuda {

using launch::Span;
using launch::Table;
using launch::Tiles;

// What may have vanished, of each product, as a share of the 2^-16 that is left to it: even with denormals flushed to
// 0 less than 2^-126 is lost.
constexpr double kVanished = 0x1p-110;

/// Whether squares of this type may be out of the range of float32.
template <class S>
inline constexpr bool kNeedsRange = std::is_same_v<S, float> || std::is_same_v<S, bfloat16>;

/// Whether the sum of `tiles` tiles of squares has to be looked at.
__device__ inline bool out_of_range(double square, const Table& table, int tiles) {
  return !(square - square == 0) || square < static_cast<double>(tiles) * table.width * kVanished;
}

// What goes into partial (pairs, jobs) of one job.
struct Job {
  int number, count;

  __device__ double& at(double* partial, int i, int j, int T) const {
    return partial[static_cast<int64_t>(launch::pair_index(i, j, T)) * count + number];
  }
};

// Whether the squares of a job that are out of range should not be.  By all threads of a block.
template <class S>
__device__ bool is_wrong(const Table& table, int T, const Job& job, double* partial) {
  enum { kGood, kBroken, kSmall };
  __shared__ int state[kMaxTasks];
  __shared__ int seen[kMaxTasks];  // of a broken square an element that is infinite, of a small one some that is not 0
  const int threads = blockDim.x, tiles = Tiles(table, job.number).left();
  __syncthreads();  // the sums are there
  for (int t = threadIdx.x; t < T; t += threads) {
    const double square = job.at(partial, t, t, T);
    state[t] = !out_of_range(square, table, tiles) ? kGood : square - square == 0 ? kSmall : kBroken;
    seen[t] = 0;
  }
  __syncthreads();
  bool any = false;
  for (int t = 0; t < T; ++t) any = any || state[t] != kGood;
  if (!any) return false;
  for (Tiles own(table, job.number); !own.done(); own.next()) {
    const Span span = own.span();
    for (int t = 0; t < T; ++t) {
      const auto* row = static_cast<const S*>(table.row(own.column())[t]);
      if (row == nullptr || state[t] == kGood) continue;
      for (int64_t x = span.begin + threadIdx.x; x < span.end; x += threads) {
        const auto value = static_cast<Compute<S>>(row[x]);
        if (state[t] == kBroken ? !(value - value == 0) : value != 0) seen[t] = 1;  // whoever writes writes the same
      }
    }
  }
  __syncthreads();
  bool wrong = false;
  for (int t = 0; t < T; ++t) wrong = wrong || state[t] == (seen[t] ? kSmall : kBroken);
  return wrong;
}

// partial, for one job: as if the lanes were float64.  By all threads of a block, which walk through the columns once for
// each 4 rows with 4.
template <class S>
__device__ void multiply_again(const Table& table, int T, double limit, const Job& job, double* partial) {
  constexpr int M = 4, most_warps = 16;
  __shared__ double sums[most_warps][M * M];
  const int threads = blockDim.x, warps = threads / kWarp, lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int i0 = 0; i0 < T; i0 += M) {
    for (int j0 = i0; j0 < T; j0 += M) {
      double lanes[M * M] = {};
      for (Tiles tiles(table, job.number); !tiles.done(); tiles.next()) {
        void* const* rows = table.row(tiles.column());
        const Span span = tiles.span();
        for (int64_t x = span.begin + threadIdx.x; x < span.end; x += threads) {
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
        for (int one = 0; one < warps; ++one) sum += sums[one][threadIdx.x];
        if (i <= j && j < T) job.at(partial, i, j, T) = sum;
      }
    }
  }
}

// Mends what the block's job has put into partial, if that is out of range.  Called, not inlined: hardly a block comes by,
// and the registers are for the loop before it.
template <class S, class Argument>
__device__ __attribute__((noinline)) void mend_range(const Argument& argument, int job, int jobs, int T, double limit,
                                                     double* partial) {
  const Table table = argument.table();
  if (is_wrong<S>(table, T, {job, jobs}, partial)) multiply_again<S>(table, T, limit, {job, jobs}, partial);
}

// The same for kernels whose blocks do not see a job's squares.  A block a job.
template <class S>
__global__ void __launch_bounds__(256)
    mend_jobs(const __grid_constant__ TableArgument argument, int T, double limit, double* partial) {
  mend_range<S>(argument, blockIdx.x, gridDim.x, T, limit, partial);
}

}  // namespace mtl_ops::cuda
