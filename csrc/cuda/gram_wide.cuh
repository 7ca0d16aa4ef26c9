// gram of more tasks: the rows of a tile of columns lie in shared memory, and each warp holds the products of 8 rows
// with 8 in its registers (of float64, whose products take twice the registers, 4 with 4).
#pragma once

#include <cuda_pipeline.h>

#include "../launch/team.h"
#include "warp_sums.cuh"

namespace mtl_ops::cuda {

using launch::Duty;
using launch::Span;
using launch::Table;
using launch::Team;
using launch::Teams;
using launch::Tiles;

template <class S>
struct Wide {
  using A = Compute<S>;
  static constexpr int kRows = sizeof(S) == 8 ? 4 : 8;          // of a tile
  static constexpr int kStep = launch::kStepBytes / sizeof(S);  // elements of a row's step
  static constexpr int kSize = sizeof(S) == 4 ? 4 : 2;          // elements of one load from shared memory
  static constexpr int kLoads = kStep / kSize / kWarp;          // of a lane, for a row's step
  static constexpr int kProducts = kRows * kRows;
  static constexpr int kColumns = kStep / kWarp;  // of a lane, in a step
};

// kSize elements in one load; their address is a multiple of their size.
template <class S>
__device__ void load_shared(const S* from, typename Wide<S>::A (&to)[Wide<S>::kSize]) {
  struct alignas(sizeof(S) * Wide<S>::kSize) Elements {
    S at[Wide<S>::kSize];
  };
  const Elements elements = *reinterpret_cast<const Elements*>(from);
#pragma unroll
  for (int e = 0; e < Wide<S>::kSize; ++e) to[e] = static_cast<typename Wide<S>::A>(elements.at[e]);
}

// One step of the columns of a tile of rows (`left`) with those of another; with itself, only the upper triangle.
template <bool DIAGONAL, bool CLAMP, class S, class A>
__device__ void multiply_step(const S* left, const S* right, A limit, A (&lanes)[Wide<S>::kProducts]) {
  constexpr int M = Wide<S>::kRows, E = Wide<S>::kSize;
  const int lane = threadIdx.x % kWarp;
#pragma unroll 1
  for (int load = 0; load < Wide<S>::kLoads; ++load) {
    const int x = (load * kWarp + lane) * E;
    A a[M][E];
#pragma unroll
    for (int r = 0; r < M; ++r) {
      load_shared(left + r * Wide<S>::kStep + x, a[r]);
#pragma unroll
      for (int e = 0; e < E; ++e) a[r][e] = CLAMP ? clamp(a[r][e], limit) : a[r][e];
    }
#pragma unroll
    for (int c = 0; c < M; ++c) {
      A b[E];
      if (!DIAGONAL) load_shared(right + c * Wide<S>::kStep + x, b);
#pragma unroll
      for (int e = 0; e < E; ++e) b[e] = DIAGONAL ? a[c][e] : CLAMP ? clamp(b[e], limit) : b[e];
#pragma unroll
      for (int r = 0; r < (DIAGONAL ? c + 1 : M); ++r) {
#pragma unroll
        for (int e = 0; e < E; ++e) lanes[r * M + c] += a[r][e] * b[e];
      }
    }
  }
}

// What the warps of a block share besides the staged rows.  Thread 0 walks through the tiles, one ahead of those that
// are staged: registers are short.
template <class S>
struct Board {
  struct Next {
    int column;
    Span span;
  };
  Table table;
  Tiles tiles;
  Next next[2];                                         // the k-th tile in place k % 2
  unsigned present[3][2];                               // of each stage, a bit for each staged row that is there
  int task[2 * launch::kTilesPerSet * Wide<S>::kRows];  // of each staged row; T or more for none

  __device__ void look_ahead(int k) {
    if (threadIdx.x != 0 || tiles.done()) return;
    next[k % 2] = {tiles.column(), tiles.span()};
    tiles.next();
  }

  __device__ const S* row(int column, int row, int T) const {
    return task[row] < T ? static_cast<const S*>(table.row(column)[task[row]]) : nullptr;
  }
};

template <class S>
constexpr size_t block_bytes(int stages, int warps) {
  return static_cast<size_t>(stages) * launch::kStageBytes + sizeof(double) * warps * kSlots<Wide<S>::kProducts> +
         sizeof(Board<S>);
}

// Starts to copy the k-th tile into shared memory: step after step, and in each step row after row.
template <class S>
__device__ void stage_tile(const Board<S>& board, int k, int T, int steps, int rows, S* stage, unsigned* present) {
  constexpr int step_size = Wide<S>::kStep, size = Vector<S>::kSize;
  const auto [column, span] = board.next[k % 2];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  for (int unit = warp; unit < rows * steps; unit += warps) {
    const int row = unit / steps, step = unit % steps;
    const S* from = board.row(column, row, T);
    S* to = stage + (step * rows + row) * step_size;
    const int64_t x = span.begin + step * step_size;
    if (from == nullptr) {
      *reinterpret_cast<uint4*>(to + lane * size) = make_uint4(0, 0, 0, 0);
    } else if (span.vectors) {
      __pipeline_memcpy_async(to + lane * size, from + x + lane * size, launch::kVectorBytes);
    } else {
#pragma unroll
      for (int e = 0; e < step_size; e += kWarp) {
        to[e + lane] = x + e + lane < span.end ? from[x + e + lane] : S(0);
      }
    }
  }
  if (warp < 2) {
    const int row = warp * kWarp + lane;
    const unsigned bits = __ballot_sync(0xffffffffu, row < rows && board.row(column, row, T) != nullptr);
    if (lane == 0) present[warp] = bits;
  }
}

// partial (pairs, jobs): the share of this block's job in the inner products of this block's kind.
template <class S>
__global__ void __launch_bounds__(launch::kMaxTeamWarps* kWarp, 1)
    gram_wide(const __grid_constant__ TableArgument argument, Teams teams, int stages, double limit, double* partial) {
  using A = typename Wide<S>::A;
  constexpr int M = Wide<S>::kRows, slots = kSlots<Wide<S>::kProducts>;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const int kind = blockIdx.x % teams.kinds(), job = blockIdx.x / teams.kinds(), jobs = gridDim.x / teams.kinds();
  const Team team = teams.team(kind);
  const Duty duty = launch::duty_of(team, warp);
  const int rows = team.tiles() * M, T = teams.tasks;

  auto* memory = shared_memory<unsigned char>();
  auto* sums = reinterpret_cast<double*>(memory + stages * launch::kStageBytes);
  auto& board = *reinterpret_cast<Board<S>*>(sums + warps * slots);
  double* own = sums + warp * slots;
  for (int i = lane; i < slots; i += kWarp) own[i] = 0;
  for (int row = threadIdx.x; row < rows; row += blockDim.x) board.task[row] = teams.task(kind, row);
  if (threadIdx.x == 0) {
    board.table = argument.table();
    board.tiles = Tiles(board.table, job);
  }
  __syncthreads();
  const int count = board.tiles.left();
  __syncthreads();  // before it counts down

  const auto stage_at = [&](int k) { return reinterpret_cast<S*>(memory + k % stages * launch::kStageBytes); };
  const auto stage_next = [&](int k) {  // after a barrier that follows look_ahead(k)
    if (k < count) stage_tile(board, k, T, team.steps, rows, stage_at(k), board.present[k % stages]);
    board.look_ahead(k + 1);
    __pipeline_commit();
  };
  board.look_ahead(0);
  for (int k = 0; k < stages - 1; ++k) {
    __syncthreads();
    stage_next(k);
  }

  A lanes[Wide<S>::kProducts] = {};
  unsigned present_a = 0, present_b = 0;
  int products = 0;
  const auto flush = [&] {
#pragma unroll
    for (int at = 0; at < Wide<S>::kProducts; ++at) {
      if (!(present_a >> (at / M) & present_b >> (at % M) & 1)) lanes[at] = A(0);
    }
    add_warp_sums(lanes, own);
    products = 0;
  };
  for (int k = 0; k < count; ++k) {
    __pipeline_wait_prior(stages - 2);
    __syncthreads();  // the k-th tile has arrived, and nobody reads the one before it any more
    stage_next(k + stages - 1);
    if (duty.a < 0) continue;
    const auto present_in = [&](int tile) {
      return board.present[k % stages][tile * M / kWarp] >> (tile * M % kWarp) & ((1u << M) - 1);
    };
    const unsigned now_a = present_in(duty.a), now_b = present_in(duty.b);
    for (int step = duty.slice; step < team.steps; step += duty.slices) {
      const bool full = !std::is_same_v<S, double> && products + Wide<S>::kColumns > kFlushProducts;
      if (full || now_a != present_a || now_b != present_b) flush();
      present_a = now_a;
      present_b = now_b;
      const S* left = stage_at(k) + (step * rows + duty.a * M) * Wide<S>::kStep;
      const S* right = stage_at(k) + (step * rows + duty.b * M) * Wide<S>::kStep;
      const A bound = static_cast<A>(limit);
      if (duty.a == duty.b) {
        limit < 0 ? multiply_step<true, false>(left, right, bound, lanes)
                  : multiply_step<true, true>(left, right, bound, lanes);
      } else {
        limit < 0 ? multiply_step<false, false>(left, right, bound, lanes)
                  : multiply_step<false, true>(left, right, bound, lanes);
      }
      products += Wide<S>::kColumns;
    }
  }
  flush();
  __syncthreads();

  if (duty.a < 0 || duty.slice != 0) return;
  for (int at = lane; at < Wide<S>::kProducts; at += kWarp) {
    const int i = board.task[duty.a * M + at / M], j = board.task[duty.b * M + at % M];
    if (i > j || j >= T) continue;
    double sum = 0;
    for (int slice = 0; slice < duty.slices; ++slice) sum += own[slice * slots + at];
    partial[static_cast<int64_t>(launch::pair_index(i, j, T)) * jobs + job] = sum;
  }
}

}  // namespace mtl_ops::cuda
