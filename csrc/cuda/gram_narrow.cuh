// gram of up to 8 tasks: every thread holds all products of a few columns of all rows in its registers.
#pragma once

#include "../launch/team.h"
#include "gram_range.cuh"
#include "warp_sums.cuh"

namespace mtl_ops::cuda {

constexpr int kNarrow = 8;  // tasks
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kBlocks = 2;  // on a multiprocessor: with 128 bytes a thread, 64 KB on their way

// K rows, of which some may be missing, and as many vectors of each as make eight loads in flight.
template <class S, int K>
struct Narrow {
  using A = Compute<S>;
  static constexpr int kVectors = kNarrow / K;
  static constexpr int kSize = Vector<S>::kSize;
  static constexpr int kPairs = K * (K + 1) / 2;
  static constexpr int kColumns = kVectors * kSize;   // of a thread
  static constexpr int kWidth = kThreads * kColumns;  // of a tile
};

template <class S, int K>
__device__ void load_vectors(const S* const (&rows)[K], int64_t begin, Vector<S> (&values)[Narrow<S, K>::kVectors][K]) {
#pragma unroll
  for (int v = 0; v < Narrow<S, K>::kVectors; ++v) {
    const int64_t x = begin + (v * kThreads + threadIdx.x) * Vector<S>::kSize;
#pragma unroll
    for (int r = 0; r < K; ++r) {
      values[v][r].bits = make_uint4(0, 0, 0, 0);
      if (rows[r] != nullptr) values[v][r].bits = __ldg(reinterpret_cast<const uint4*>(rows[r] + x));
    }
  }
}

// Of a tile that is not whole or not aligned: element by element, those of neighbouring threads next to each other.
template <class S, int K>
__device__ void load_elements(const S* const (&rows)[K], const Span& span,
                              Vector<S> (&values)[Narrow<S, K>::kVectors][K]) {
  constexpr int size = Vector<S>::kSize;
#pragma unroll
  for (int v = 0; v < Narrow<S, K>::kVectors; ++v) {
#pragma unroll
    for (int r = 0; r < K; ++r) {
#pragma unroll
      for (int e = 0; e < size; ++e) {
        const int64_t x = span.begin + (v * size + e) * kThreads + threadIdx.x;
        values[v][r].set(e, rows[r] != nullptr && x < span.end ? rows[r][x] : S(0));
      }
    }
  }
}

template <bool CLAMP, class S, int K, class A>
__device__ void multiply_tile(const Vector<S> (&values)[Narrow<S, K>::kVectors][K], A limit,
                              A (&lanes)[Narrow<S, K>::kPairs]) {
#pragma unroll
  for (int v = 0; v < Narrow<S, K>::kVectors; ++v) {
#pragma unroll
    for (int e = 0; e < Vector<S>::kSize; ++e) {
      A column[K];
#pragma unroll
      for (int r = 0; r < K; ++r) {
        column[r] = static_cast<A>(values[v][r][e]);
        if (CLAMP) column[r] = clamp(column[r], limit);
      }
      int pair = 0;
#pragma unroll
      for (int i = 0; i < K; ++i) {
#pragma unroll
        for (int j = i; j < K; ++j) lanes[pair++] += column[i] * column[j];
      }
    }
  }
}

// A missing row counts as zeros; its products with an Inf or a NaN must not count at all.
template <int K, class A>
__device__ void forget_missing(unsigned present, A (&lanes)[K * (K + 1) / 2]) {
  int pair = 0;
#pragma unroll
  for (int i = 0; i < K; ++i) {
#pragma unroll
    for (int j = i; j < K; ++j, ++pair) {
      if (!(present >> i & present >> j & 1)) lanes[pair] = A(0);
    }
  }
}

// partial (pairs, jobs): this block's share of every inner product.
template <class S, int K, class Argument>
__global__ void __launch_bounds__(kThreads, kBlocks)
    gram_narrow(const __grid_constant__ Argument argument, int T, double limit, double* partial) {
  using Shape = Narrow<S, K>;
  using A = typename Shape::A;
  constexpr int slots = kSlots<Shape::kPairs>;
  __shared__ double sums[kWarps * slots];
  const Table table = argument.table();
  double* own = sums + threadIdx.x / kWarp * slots;
  for (int i = threadIdx.x % kWarp; i < slots; i += kWarp) own[i] = 0;

  A lanes[Shape::kPairs] = {};
  const S* rows[K];
  unsigned present = 0;  // one bit a row
  int column = -1, products = 0;
  const auto flush = [&] {
    forget_missing<K>(present, lanes);
    add_warp_sums(lanes, own);
    products = 0;
  };
  for (Tiles tiles(table, blockIdx.x); !tiles.done(); tiles.next()) {
    if (tiles.column() != column) {
      column = tiles.column();
      unsigned now = 0;
#pragma unroll
      for (int r = 0; r < K; ++r) {
        rows[r] = r < T ? static_cast<const S*>(table.row(column)[r]) : nullptr;
        now |= (rows[r] != nullptr ? 1u : 0u) << r;
      }
      if (now != present) flush();
      present = now;
    }
    if (!std::is_same_v<S, double> && products + Shape::kColumns > kFlushProducts) flush();
    Vector<S> values[Shape::kVectors][K];
    const Span span = tiles.span();
    if (span.vectors) {
      load_vectors(rows, span.begin, values);
    } else {
      load_elements(rows, span, values);
    }
    if (limit < 0) {
      multiply_tile<false, S, K>(values, A(0), lanes);
    } else {
      multiply_tile<true, S, K>(values, static_cast<A>(limit), lanes);
    }
    products += Shape::kColumns;
  }
  flush();
  __shared__ int suspicious;
  if (threadIdx.x == 0) suspicious = 0;
  __syncthreads();

  for (int pair = threadIdx.x; pair < Shape::kPairs; pair += kThreads) {
    const launch::Pair at = launch::pair_at(pair, K);
    if (at.j >= T) continue;
    double sum = 0;
    for (int warp = 0; warp < kWarps; ++warp) sum += sums[warp * slots + pair];
    partial[static_cast<int64_t>(launch::pair_index(at.i, at.j, T)) * gridDim.x + blockIdx.x] = sum;
    if (kNeedsRange<S> && at.i == at.j && out_of_range(sum, table, Tiles(table, blockIdx.x).left())) suspicious = 1;
  }
  if constexpr (kNeedsRange<S>) {
    __syncthreads();
    if (suspicious != 0) mend_range<S>(argument, blockIdx.x, gridDim.x, T, limit, partial);
  }
}

}  // namespace mtl_ops::cuda
