// gram: the inner products of the task gradients, G_s[i,j] = sum over the parameters p of segment s of <g_ip, g_jp>.
//
// Order of accumulation.  The columns are cut into jobs by shape alone (split).  A job walks its ranges in blocks that fit the first
// cache; a block is multiplied in register tiles of rows against rows, whose vector lanes accumulate float32 products (float64 for
// float64 gradients).  Every kFlush columns, at most 256 products a lane, the lanes are added up in float64; a job ends with one
// float64 T x T sum, and the jobs are added in their order.  So the bits depend on the shapes and the level of instruction set, not
// on the number of threads.
#include "../task_grads.h"
#include "simd.h"

#include <torch/csrc/stable/library.h>

namespace mtl_ops::cpu {
namespace {

constexpr int64_t kBlockElements = 4096;  // of all rows of a block together: 16 KB in float32
constexpr int64_t kMaxBlock = 256;        // columns; longer blocks were slower, the prefetch comes too early
constexpr int64_t kFlushProducts = 256;   // a lane, see above

// The working memory of one thread: the lanes of every pair of rows, and a block of converted rows.
struct Workspace {
  explicit Workspace(int64_t tasks) : lanes(tasks * tasks * 16), block(kBlockElements + 64 * 64) {}
  std::vector<double> lanes, block;
};

struct GramJob {
  const TaskGrads& grads;
  const Job& job;
  double limit;  // of the elementwise clamp; negative for none
  Workspace& workspace;
  double* out;  // (T, T), upper triangle
};

// The element type products are accumulated in.
template <class S>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};

// Rows i0..i0+R of the block against rows j0..j0+C.
template <int BYTES, int R, int C, bool DIAGONAL, class A>
MTL_INLINE void multiply_tile(const A* const* rows, int64_t k, int64_t i0, int64_t j0, int64_t n, A* lanes) {
  constexpr int L = BYTES / sizeof(A);
  using V = vec<A, L>;
  V sum[R][C];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) sum[r][c] = load_raw<V>(lanes + ((i0 + r) * k + j0 + c) * L);
  }
  for (int64_t x = 0; x < n; x += L) {
    V a[R], b[C];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) a[r] = load_raw<V>(rows[i0 + r] + x);
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) b[c] = DIAGONAL ? a[c % R] : load_raw<V>(rows[j0 + c] + x);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int c = DIAGONAL ? r : 0; c < C; ++c) sum[r][c] += a[r] * b[c];
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) store_raw(lanes + ((i0 + r) * k + j0 + c) * L, sum[r][c]);
  }
}

template <int BYTES>
inline constexpr int kTile =
#if defined(__aarch64__)
    4;
#else
    BYTES == 64 ? 4 : 3;  // 16 sums and 8 rows need AVX-512's 32 registers; 9 and 6 fit 16
#endif

// All pairs of the k rows over n columns, n a multiple of the lanes.
template <int BYTES, class A>
MTL_INLINE void multiply_block(const A* const* rows, int64_t k, int64_t n, A* lanes) {
  constexpr int M = kTile<BYTES>;
  for (int64_t i = 0; i < k; i += M) {
    switch (std::min<int64_t>(M, k - i)) {
      case 1: multiply_tile<BYTES, 1, 1, true>(rows, k, i, i, n, lanes); break;
      case 2: multiply_tile<BYTES, 2, 2, true>(rows, k, i, i, n, lanes); break;
      case 3: multiply_tile<BYTES, 3, 3, true>(rows, k, i, i, n, lanes); break;
      default: multiply_tile<BYTES, M, M, true>(rows, k, i, i, n, lanes); break;
    }
    for (int64_t j = i + M; j < k; j += M) {
      switch (std::min<int64_t>(M, k - j)) {
        case 1: multiply_tile<BYTES, M, 1, false>(rows, k, i, j, n, lanes); break;
        case 2: multiply_tile<BYTES, M, 2, false>(rows, k, i, j, n, lanes); break;
        case 3: multiply_tile<BYTES, M, 3, false>(rows, k, i, j, n, lanes); break;
        default: multiply_tile<BYTES, M, M, false>(rows, k, i, j, n, lanes); break;
      }
    }
  }
}

// Adds the lanes of every pair to the float64 sums and clears them.
template <int BYTES, class A>
MTL_INLINE void flush(const int64_t* task, int64_t k, int64_t T, A* lanes, double* out) {
  constexpr int L = BYTES / sizeof(A);
  constexpr int H = BYTES / sizeof(double);
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = i; j < k; ++j) {
      A* lane = lanes + (i * k + j) * L;
      vec<double, H> sums{};
#pragma GCC unroll 2
      for (int part = 0; part < L; part += H) {
        sums += __builtin_convertvector(load_raw<vec<A, H>>(lane + part), vec<double, H>);
      }
      double sum = 0;
#pragma GCC unroll 8
      for (int h = 0; h < H; ++h) sum += sums[h];
      out[task[i] * T + task[j]] += sum;
      store_raw(lane, vec<A, L>{});
    }
  }
}

// Converts columns [x, x + n) of the rows into `block`, clamped, padded with zeros to a multiple of the lanes.
template <int BYTES, bool CLAMP, class S, class A>
MTL_INLINE int64_t stage(const S* const* rows, int64_t k, int64_t x, int64_t n, A limit, A* block, const A** staged) {
  constexpr int L = BYTES / sizeof(A);
  const int64_t padded = (n + L - 1) / L * L;
  for (int64_t t = 0; t < k; ++t) {
    const S* from = rows[t] + x;
    A* to = block + t * padded;
    int64_t c = 0;
    for (; c + L <= n; c += L) {
      auto v = load<L>(from + c);
      store_raw(to + c, CLAMP ? clamp(v, limit) : v);
    }
    if (c < n) {
      S tail[L] = {};
      for (int64_t r = 0; r < n - c; ++r) tail[r] = from[c + r];
      auto v = load<L>(tail);
      store_raw(to + c, CLAMP ? clamp(v, limit) : v);
    }
    staged[t] = to;
  }
  return padded;
}

template <int BYTES, bool CLAMP, class S>
MTL_INLINE void gram_range(const GramJob& job, const Range& range) {
  using A = typename Accumulator<S>::type;
  constexpr int L = BYTES / sizeof(A);
  constexpr bool in_place = std::is_same_v<S, A> && !CLAMP;  // rows can be multiplied where they lie
  const int64_t T = job.grads.tasks();

  const S* rows[kMaxTasks];
  int64_t task[kMaxTasks], k = 0;
  for (int64_t t = 0; t < T; ++t) {
    if (const void* row = job.grads.rows(range.param)[t]) {
      rows[k] = static_cast<const S*>(row) + range.begin;
      task[k++] = t;
    }
  }
  if (k == 0) return;

  A* lanes = reinterpret_cast<A*>(job.workspace.lanes.data());
  A* scratch = reinterpret_cast<A*>(job.workspace.block.data());
  for (int64_t i = 0; i < k * k * L; ++i) lanes[i] = 0;

  const int64_t n = range.end - range.begin;
  const int64_t block = std::clamp<int64_t>(kBlockElements / k / 64 * 64, 64, kMaxBlock);
  int64_t columns = 0;
  for (int64_t x = 0; x < n; x += block) {
    const int64_t m = std::min(block, n - x);
    const int64_t ahead = std::min(block, n - x - m);  // the next block
    for (int64_t t = 0; t < k; ++t) {
      for (int64_t c = 0; c < ahead; c += 64 / sizeof(S)) __builtin_prefetch(rows[t] + x + m + c);
    }
    const A* at[kMaxTasks];
    int64_t whole = 0;
    if constexpr (in_place) {
      whole = m / L * L;
      for (int64_t t = 0; t < k; ++t) at[t] = rows[t] + x;
      multiply_block<BYTES>(at, k, whole, lanes);
    }
    if (whole < m) {
      const int64_t padded =
          stage<BYTES, CLAMP>(rows, k, x + whole, m - whole, static_cast<A>(job.limit), scratch, at);
      multiply_block<BYTES>(at, k, padded, lanes);
    }
    columns += m;
    if (columns >= kFlushProducts * L - kMaxBlock) {
      flush<BYTES>(task, k, T, lanes, job.out);
      columns = 0;
    }
  }
  flush<BYTES>(task, k, T, lanes, job.out);
}

template <int BYTES, bool CLAMP>
MTL_INLINE void gram_ranges(const GramJob& job) {
  for (const Range& range : job.job.ranges) {
    switch (job.grads.dtype(range.param)) {
      case ScalarType::Double: gram_range<BYTES, CLAMP, double>(job, range); break;
      case ScalarType::BFloat16: gram_range<BYTES, CLAMP, bfloat16>(job, range); break;
      case ScalarType::Half: gram_range<BYTES, CLAMP, float16>(job, range); break;
      default: gram_range<BYTES, CLAMP, float>(job, range); break;
    }
  }
}

template <int BYTES>
MTL_INLINE void gram_job(const GramJob& job) {
  if (job.limit < 0) {
    gram_ranges<BYTES, false>(job);
  } else {
    gram_ranges<BYTES, true>(job);
  }
}

MTL_SIMD_ENTRY(gram_job, (const GramJob& job), (job))

}  // namespace

Tensor gram(const OptionalTensors& tensors, int64_t T, const std::vector<int64_t>& segments,
            std::optional<double> clip_value) {
  const TaskGrads grads(tensors, T, segments);
  STD_TORCH_CHECK(grads.any(), "at least one task should have a gradient. Found none.");
  Tensor result = torch::stable::empty({grads.segments(), T, T}, ScalarType::Double);
  double* out = static_cast<double*>(result.mutable_data_ptr());
  std::fill_n(out, grads.segments() * T * T, 0.0);

  const std::vector<Job> jobs = split(grads, /*min_elements=*/16384, /*max_jobs=*/T <= 16 ? 256 : 64);
  std::vector<double> partial(jobs.size() * T * T, 0.0);
  torch::stable::parallel_for(0, static_cast<int64_t>(jobs.size()), 1, [&](int64_t begin, int64_t end) {
    Workspace workspace(T);
    for (int64_t j = begin; j < end; ++j) {
      run_gram_job({grads, jobs[j], clip_value.value_or(-1.0), workspace, partial.data() + j * T * T});
    }
  });

  for (size_t j = 0; j < jobs.size(); ++j) {
    double* G = out + jobs[j].segment * T * T;
    for (int64_t i = 0; i < T * T; ++i) G[i] += partial[j * T * T + i];
  }
  for (int64_t s = 0; s < grads.segments(); ++s) {
    double* G = out + s * T * T;
    for (int64_t i = 0; i < T; ++i) {
      for (int64_t j = 0; j < i; ++j) G[i * T + j] = G[j * T + i];
    }
  }
  return result;
}

}  // namespace mtl_ops::cpu

STABLE_TORCH_LIBRARY_IMPL(mtl_ops, CPU, m) { m.impl("gram", TORCH_BOX(&mtl_ops::cpu::gram)); }
