// gram: the inner products of the task gradients, G_s[i,j] = sum over the parameters p of segment s of <g_ip, g_jp>.
//
// Order of accumulation.  The columns are cut into jobs by shape alone (split).  A job walks its ranges in blocks that fit the first
// cache; a block is multiplied in register tiles of rows against rows, whose vector lanes accumulate float32 products (float64 for
// float64 gradients).  After at most kFlushProducts products a lane, the lanes are added up in float64; a job ends with one float64
// T x T sum, and the jobs are added in their order.  More than kMaxTogether rows are multiplied a group against a group, all of them
// on some columns before the next columns' turn, so that each row comes from memory once.  So the bits depend on the shapes and the level of instruction set, not on the
// number of threads.
//
// Range.  Squares of float32 or bfloat16 elements leave the range of float32 above 1e19, and lose their digits below 1e-19.  Both
// show in the diagonal of G, so nothing is looked for while the rows are read: a segment is multiplied once more, in float64, if the
// square of a task is not finite though its elements are, or less than what may have vanished (kVanished) though not all are 0.
//
// Where the time goes.  Up to about eight tasks the kernel waits for memory.  So while a block is multiplied, the next one is
// fetched, a cache line after each few products: fetched all at once it would fill the queues and the products would wait, and left
// to the processor it would come late, because the rows are visited in turn.
#include <torch/csrc/stable/library.h>

#include <memory>
#include <tuple>

#include "gram_range.h"
#include "jobs.h"
#include "scales.h"
#include "simd.h"

namespace mtl_ops::cpu {
namespace {

constexpr int64_t kBlockElements = 4096;  // of all rows of a block together: 16 KB in float32
constexpr int64_t kMaxBlock = 256;        // columns
constexpr int64_t kColumns = 32;          // a block's length is a multiple of this, for every vector width
constexpr int64_t kFlushProducts = 256;   // a lane, see above
constexpr int64_t kMaxTogether = 64;      // rows whose products have lanes at the same time
constexpr int64_t kGroup = 32;            // rows, of more than that
constexpr int64_t kGroupColumns = 1024;   // of all groups, before the next columns' turn
constexpr int64_t kGroupBlock = 128;      // columns

// The element type products are accumulated in.
template <class S>
using Accumulator = std::conditional_t<std::is_same_v<S, double>, double, float>;

// The memory of one thread: the lanes of every pair of rows, and a block of converted rows.
class Workspace {
 public:
  explicit Workspace(int64_t tasks) {
    const int64_t together = std::min(tasks, kMaxTogether);
    lanes_ = together * together * kLine;
    const int64_t columns = tasks > kMaxTogether ? kGroupBlock : kColumns;
    const int64_t block = std::max(kBlockElements, together * columns) * static_cast<int64_t>(sizeof(double));
    memory_.reset(new std::byte[lanes_ + block + kLine]);
    const auto address = reinterpret_cast<uintptr_t>(memory_.get());
    start_ = memory_.get() + (-address) % kLine;
    std::memset(start_, 0, lanes_);
  }
  template <class A>
  A* lanes() const {
    return reinterpret_cast<A*>(start_);
  }
  template <class A>
  A* block() const {
    return reinterpret_cast<A*>(start_ + lanes_);
  }

 private:
  int64_t lanes_;
  std::unique_ptr<std::byte[]> memory_;
  std::byte* start_;
};

// The tasks that reach a parameter.
struct Reached {
  int64_t k = 0;
  int64_t task[kMaxTasks];

  Reached() = default;
  Reached(const TaskGrads& grads, int64_t param) {
    for (int64_t t = 0; t < grads.tasks(); ++t) {
      if (grads.rows(param)[t]) task[k++] = t;
    }
  }
  bool operator==(const Reached& other) const { return k == other.k && std::equal(task, task + k, other.task); }
};

struct GramJob {
  const TaskGrads& grads;
  const Job& job;
  double limit;  // of the elementwise clamp; negative for none
  const Workspace& workspace;
  double* out;  // (T, T), upper triangle

  // What the lanes hold that is not yet in `out`.
  Reached reached{};
  bool wide = false;  // in float64
  int64_t columns = 0;
};

// The next block, to be fetched while this one is multiplied.
class ReadAhead {
 public:
  ReadAhead(const char* const* rows, int64_t k, int64_t tiles, int64_t element_size)
      : rows_(rows), left_(k), share_((k + tiles - 1) / tiles), size_(element_size) {}
  // Gives the caller some rows to fetch.
  MTL_INLINE ReadAhead next_share() {
    ReadAhead share(*this);
    share.left_ = std::min(share_, left_);
    rows_ += share.left_;
    left_ -= share.left_;
    return share;
  }
  MTL_INLINE void fetch(int64_t column) const {
    for (int64_t r = 0; r < left_; ++r) __builtin_prefetch(rows_[r] + column * size_);
  }

 private:
  const char* const* rows_;
  int64_t left_, share_, size_;
};

// Tiles of rows against rows: 4 x 4 on the diagonal, 4 x kTileColumns off it.  That fills the registers: 10 or 8 sums and 4 or 6 rows
// of 16, with AVX-512 and on aarch64 16 sums and 8 rows of 32.
constexpr int kTileRows = 4;
template <int BYTES>
inline constexpr int kTileColumns =
#if defined(__aarch64__)
    4;
#else
    BYTES == 64 ? 4 : 2;
#endif

template <int BYTES>
MTL_INLINE int64_t count_tiles(int64_t k) {
  int64_t tiles = 0;
  for (int64_t i = 0; i < k; i += kTileRows) {
    tiles += 1 + (std::max<int64_t>(0, k - i - kTileRows) + kTileColumns<BYTES> - 1) / kTileColumns<BYTES>;
  }
  return tiles;
}

// Rows i0..i0+R of the block against rows j0..j0+C.
template <int BYTES, int R, int C, bool DIAGONAL, class S, class A = Accumulator<S>>
MTL_INLINE void multiply_tile(const S* const* rows, int64_t k, int64_t i0, int64_t j0, int64_t n, A* lanes,
                              const ReadAhead& ahead) {
  constexpr int L = BYTES / sizeof(A);
  constexpr int line = kLine / sizeof(S);
  constexpr int step = std::max(line, 2 * L);
  static_assert(kColumns % step == 0);
  using V = vec<A, L>;
  V sum[R][C];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int c = DIAGONAL ? r : 0; c < C; ++c) sum[r][c] = load_raw<V>(lanes + ((i0 + r) * k + j0 + c) * L);
  }
  for (int64_t begin = 0; begin < n; begin += step) {
#pragma GCC unroll 2
    for (int64_t x = begin; x < begin + step; x += line) ahead.fetch(x);
#pragma GCC unroll 8
    for (int half = 0; half < step / L; ++half) {
      const int64_t x = begin + half / 2 * 2 * L;
      V a[R], b[C];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) a[r] = load_half<L>(rows[i0 + r] + x, half % 2);
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) b[c] = DIAGONAL ? a[c % R] : load_half<L>(rows[j0 + c] + x, half % 2);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int c = DIAGONAL ? r : 0; c < C; ++c) sum[r][c] += a[r] * b[c];
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int c = DIAGONAL ? r : 0; c < C; ++c) store_raw(lanes + ((i0 + r) * k + j0 + c) * L, sum[r][c]);
  }
}

// All pairs of the k rows over n columns, a multiple of kColumns; with `left`, a multiple of kTileRows, only those of one of the first
// `left` rows and one of the others.
template <int BYTES, class S, class A = Accumulator<S>>
MTL_INLINE void multiply_block(const S* const* rows, int64_t k, int64_t left, int64_t n, A* lanes, ReadAhead ahead) {
  constexpr int R = kTileRows, C = kTileColumns<BYTES>;
  for (int64_t i = 0; i < (left > 0 ? left : k); i += R) {
    const ReadAhead share = ahead.next_share();
    switch (left > 0 ? 0 : std::min<int64_t>(R, k - i)) {
      case 0:
        break;
      case 1:
        multiply_tile<BYTES, 1, 1, true>(rows, k, i, i, n, lanes, share);
        break;
      case 2:
        multiply_tile<BYTES, 2, 2, true>(rows, k, i, i, n, lanes, share);
        break;
      case 3:
        multiply_tile<BYTES, 3, 3, true>(rows, k, i, i, n, lanes, share);
        break;
      default:
        multiply_tile<BYTES, R, R, true>(rows, k, i, i, n, lanes, share);
        break;
    }
    for (int64_t j = left > 0 ? left : i + R; j < k; j += C) {
      const ReadAhead share = ahead.next_share();
      switch (std::min<int64_t>(C, k - j)) {
        case 1:
          multiply_tile<BYTES, R, 1, false>(rows, k, i, j, n, lanes, share);
          break;
        case 2:
          multiply_tile<BYTES, R, 2, false>(rows, k, i, j, n, lanes, share);
          break;
        case 3:
          multiply_tile<BYTES, R, std::min(C, 3), false>(rows, k, i, j, n, lanes, share);
          break;
        default:
          multiply_tile<BYTES, R, C, false>(rows, k, i, j, n, lanes, share);
          break;
      }
    }
  }
}

// Behind a call, so that each is compiled once: a block is long enough for that.
#define MTL_MULTIPLY(S)                                                                                          \
  MTL_SIMD_ENTRY(                                                                                                \
      multiply_block,                                                                                            \
      (const S* const* rows, int64_t k, int64_t left, int64_t n, Accumulator<S>* lanes, const ReadAhead& ahead), \
      (rows, k, left, n, lanes, ahead))
MTL_MULTIPLY(float)
MTL_MULTIPLY(double)
MTL_MULTIPLY(bfloat16)
#undef MTL_MULTIPLY

// Adds the lanes of every pair of k rows, or of the first `left` and the others, to the float64 sums and clears them.
template <int BYTES, class A>
MTL_INLINE void flush_lanes(const int64_t* task, int64_t k, int64_t left, int64_t T, A* lanes, double* out) {
  constexpr int L = BYTES / sizeof(A);
  constexpr int H = BYTES / sizeof(double);
  for (int64_t i = 0; i < (left > 0 ? left : k); ++i) {
    for (int64_t j = std::max(i, left); j < k; ++j) {
      A* lane = lanes + (i * k + j) * L;
      vec<double, H> sums{};
#pragma GCC unroll 2
      for (int part = 0; part < L; part += H) {
        sums += convert<double, H>(load_raw<vec<A, H>>(lane + part));
      }
      double sum = 0;
#pragma GCC unroll 8
      for (int h = 0; h < H; ++h) sum += sums[h];
      out[task[i] * T + task[j]] += sum;
      store_raw(lane, vec<A, L>{});
    }
  }
}

template <int BYTES>
MTL_INLINE void flush(GramJob& job) {
  if (job.columns == 0) return;
  if (job.wide) {
    flush_lanes<BYTES>(job.reached.task, job.reached.k, 0, job.grads.tasks(), job.workspace.lanes<double>(), job.out);
  } else {
    flush_lanes<BYTES>(job.reached.task, job.reached.k, 0, job.grads.tasks(), job.workspace.lanes<float>(), job.out);
  }
  job.columns = 0;
}

// Converts 2 L elements, clamped.
template <int L, class S, class A>
MTL_INLINE void stage_two(const S* from, double limit, A* to) {
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    const auto v = convert<A, L>(load_half<L>(from, half));
    store_raw(to + half * L, limit < 0 ? v : clamp(v, static_cast<A>(limit)));
  }
}

// Converts columns [x, x + n) of the rows into `block`, clamped, padded with zeros to a multiple of kColumns.
template <int BYTES, class S, class A>
MTL_INLINE int64_t stage(const S* const* rows, int64_t k, int64_t x, int64_t n, double limit, A* block,
                         const A** staged) {
  constexpr int L = BYTES / sizeof(A);
  static_assert(kColumns % (2 * L) == 0);
  const int64_t padded = (n + kColumns - 1) / kColumns * kColumns;
  const int64_t whole = n / kColumns * kColumns;
  for (int64_t t = 0; t < k; ++t) {
    A* to = block + t * padded;
    for (int64_t c = 0; c < whole; c += 2 * L) stage_two<L>(rows[t] + x + c, limit, to + c);
    if (whole < n) {
      S tail[kColumns] = {};
      std::memcpy(tail, rows[t] + x + whole, (n - whole) * sizeof(S));
      for (int64_t c = whole; c < padded; c += 2 * L) stage_two<L>(tail + c - whole, limit, to + c);
    }
    staged[t] = to;
  }
  return padded;
}

// Some rows, and what of their products is wanted: see multiply_block.
struct Group {
  int64_t k, left;
  int64_t task[kMaxTogether];

  // Of all rows those from i and from j on, or from i alone.
  Group(const Reached& reached, int64_t i, int64_t j) : k(0), left(0) {
    for (int64_t t = i; t < std::min(i + kGroup, reached.k); ++t) task[k++] = reached.task[t];
    if (i == j) return;
    left = k;
    for (int64_t t = j; t < std::min(j + kGroup, reached.k); ++t) task[k++] = reached.task[t];
  }
};

// Columns [begin, end) of a group.
template <int BYTES, class S, class A>
MTL_INLINE void gram_group(GramJob& job, int64_t param, const Group& group, int64_t begin, int64_t end, bool in_place) {
  const S* rows[kMaxTogether];
  for (int64_t i = 0; i < group.k; ++i) rows[i] = static_cast<const S*>(job.grads.rows(param)[group.task[i]]);
  A* lanes = job.workspace.lanes<A>();
  const ReadAhead none(nullptr, 0, 1, sizeof(S));
  for (int64_t x = begin; x < end; x += kGroupBlock) {
    const int64_t m = std::min(kGroupBlock, end - x);
    const int64_t whole = in_place ? m / kColumns * kColumns : 0;
    if constexpr (std::is_same_v<A, Accumulator<S>> && !std::is_same_v<S, float16>) {
      const S* at[kMaxTogether];
      for (int64_t i = 0; i < group.k; ++i) at[i] = rows[i] + x;
      if (whole > 0) run_multiply_block(at, group.k, group.left, whole, lanes, none);
    }
    if (whole < m) {
      const A* at[kMaxTogether];
      const int64_t padded = stage<BYTES>(rows, group.k, x + whole, m - whole, job.limit, job.workspace.block<A>(), at);
      run_multiply_block(at, group.k, group.left, padded, lanes, none);
    }
  }
  flush_lanes<BYTES>(group.task, group.k, group.left, job.grads.tasks(), lanes, job.out);
}

// More rows than there are lanes for.
template <int BYTES, class S, class A>
MTL_INLINE void gram_in_groups(GramJob& job, const Range& range, const Reached& reached, bool in_place) {
  static_assert(kGroup % kTileRows == 0 && 2 * kGroup == kMaxTogether);
  constexpr int64_t columns = std::min<int64_t>(kGroupColumns, kFlushProducts * (BYTES / sizeof(A)));
  flush<BYTES>(job);
  for (int64_t x = range.begin; x < range.end; x += columns) {
    const int64_t end = std::min(x + columns, range.end);
    for (int64_t i = 0; i < reached.k; i += kGroup) {
      for (int64_t j = i; j < reached.k; j += kGroup) {
        gram_group<BYTES, S, A>(job, range.param, Group(reached, i, j), x, end, in_place);
      }
    }
  }
}

// A is double where products of narrower elements are out of the range of float32.
template <int BYTES, class S, class A = Accumulator<S>>
MTL_INLINE void gram_range(GramJob& job, const Range& range) {
  constexpr int L = BYTES / sizeof(A);
  constexpr bool wide = std::is_same_v<A, double>;
  const Reached reached(job.grads, range.param);
  const int64_t k = reached.k;
  if (k == 0) return;
  // float16 is multiplied from a copy: it takes too long to convert to do it in every tile
  constexpr bool as_stored = std::is_same_v<A, Accumulator<S>> && !std::is_same_v<S, float16>;
  const bool in_place = job.limit < 0 && as_stored;
  if (k > kMaxTogether) return gram_in_groups<BYTES, S, A>(job, range, reached, in_place);
  if (job.wide != wide || !(job.reached == reached)) {
    flush<BYTES>(job);
    job.wide = wide;
    job.reached = reached;
  }

  const S* rows[kMaxTogether];
  for (int64_t i = 0; i < k; ++i) {
    rows[i] = static_cast<const S*>(job.grads.rows(range.param)[reached.task[i]]) + range.begin;
  }
  A* lanes = job.workspace.lanes<A>();
  const int64_t n = range.end - range.begin;
  const int64_t block = std::clamp<int64_t>(kBlockElements / k / kColumns * kColumns, kColumns, kMaxBlock);
  const int64_t tiles = count_tiles<BYTES>(k);
  for (int64_t x = 0; x < n; x += block) {
    const int64_t m = std::min(block, n - x);
    if (job.columns + m > kFlushProducts * L) flush<BYTES>(job);
    job.columns += m;

    const char* next[kMaxTogether];
    for (int64_t i = 0; i < k; ++i) next[i] = reinterpret_cast<const char*>(rows[i] + x + m);
    const ReadAhead ahead(next, x + m < n ? k : 0, tiles, sizeof(S));
    const int64_t whole = in_place ? m / kColumns * kColumns : 0;
    if constexpr (as_stored) {
      const S* at[kMaxTogether];
      for (int64_t i = 0; i < k; ++i) at[i] = rows[i] + x;
      if (whole > 0) run_multiply_block(at, k, 0, whole, lanes, ahead);
    }
    if (whole < m) {
      const A* at[kMaxTogether];
      const int64_t padded = stage<BYTES>(rows, k, x + whole, m - whole, job.limit, job.workspace.block<A>(), at);
      run_multiply_block(at, k, 0, padded, lanes, ahead);
    }
  }
}

template <int BYTES>
MTL_INLINE void gram_job(GramJob& job) {
  for (const Range& range : job.job.ranges) {
    with_element_type(job.grads.dtype(range.param),
                      [&](auto element) MTL_INLINE_LAMBDA { gram_range<BYTES, decltype(element)>(job, range); });
  }
  flush<BYTES>(job);
}

MTL_SIMD_ENTRY(gram_job, (GramJob & job), (job))

// The same, but with products of float32 and bfloat16 elements in float64.
template <int BYTES>
MTL_INLINE void gram_job_in_float64(GramJob& job) {
  for (const Range& range : job.job.ranges) {
    with_element_type(job.grads.dtype(range.param), [&](auto element) MTL_INLINE_LAMBDA {
      using S = decltype(element);
      if constexpr (std::is_same_v<S, float16>) {
        gram_range<BYTES, S>(job, range);
      } else {
        gram_range<BYTES, S, double>(job, range);
      }
    });
  }
  flush<BYTES>(job);
}

MTL_SIMD_ENTRY(gram_job_in_float64, (GramJob & job), (job))

// Adds what `run` makes of each job to the sums of its segment, (S, T, T), in the order of the jobs.
void add_jobs(const TaskGrads& grads, const std::vector<Job>& jobs, double limit, void (*run)(GramJob&), double* out) {
  const int64_t T = grads.tasks();
  std::vector<double> partial(jobs.size() * T * T, 0.0);
  run_jobs(jobs, [&](int64_t begin, int64_t end) {
    const Workspace workspace(T);
    for (int64_t j = begin; j < end; ++j) {
      GramJob job{grads, jobs[j], limit, workspace, partial.data() + j * T * T};
      run(job);
    }
  });
  for (size_t j = 0; j < jobs.size(); ++j) {
    double* G = out + jobs[j].segment * T * T;
    for (int64_t i = 0; i < T * T; ++i) G[i] += partial[j * T * T + i];
  }
}

// Replaces the sums of the segments that float32 cannot hold.
void mend_range(const TaskGrads& grads, const std::vector<Job>& jobs, double limit, double* out) {
  const int64_t T = grads.tasks();
  OutOfRange wrong(grads, out);
  if (!wrong.any()) return;
  run_jobs(jobs, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) wrong.look_at(jobs[j]);
  });
  std::vector<Job> again;
  for (const Job& job : jobs) {
    if (!wrong.has(job)) continue;
    std::fill_n(out + job.segment * T * T, T * T, 0.0);
    again.push_back(job);
  }
  if (again.empty()) return;
  add_jobs(grads, again, limit, run_gram_job_in_float64, out);
}

// Each of them holds T x T sums: 32 MB together, or four.
int64_t most_jobs(int64_t T) {
  if (T <= kMaxTogether) return T <= 16 ? 256 : 64;
  return std::clamp<int64_t>((int64_t{1} << 22) / (T * T), 4, 64);
}

void mirror(double* G, int64_t T) {
  for (int64_t i = 0; i < T; ++i) {
    for (int64_t j = 0; j < i; ++j) G[i * T + j] = G[j * T + i];
  }
}

}  // namespace

Tensor gram(const OptionalTensors& tensors, int64_t T, const std::vector<int64_t>& segments,
            std::optional<double> clip_value) {
  check_not_negative("clip_value", clip_value);
  const TaskGrads grads(tensors, {T, kMaxTasks}, segments);
  STD_TORCH_CHECK(grads.any(), "at least one task should have a gradient. Found none.");
  const int64_t S = grads.segments();
  Tensor result = grads.new_float64({S, T, T});
  double* out = static_cast<double*>(result.mutable_data_ptr());
  std::fill_n(out, S * T * T, 0.0);

  const std::vector<Job> jobs = split(grads, /*min_elements=*/T <= kMaxTogether ? 16384 : kCut, most_jobs(T));
  add_jobs(grads, jobs, clip_value.value_or(-1.0), run_gram_job, out);
  mend_range(grads, jobs, clip_value.value_or(-1.0), out);
  for (int64_t s = 0; s < S; ++s) mirror(out + s * T * T, T);
  return result;
}

std::tuple<Tensor, Tensor> gram_and_scales(const OptionalTensors& tensors, int64_t T,
                                           const std::vector<int64_t>& segments, std::optional<double> clip_value,
                                           const std::vector<double>& task_weights, std::optional<double> max_task_norm,
                                           bool skip_nonfinite, std::optional<Tensor> skipped) {
  const Tensor G = gram(tensors, T, segments, clip_value);
  return {G, task_scales(G, task_weights, max_task_norm, skip_nonfinite, skipped)};
}

}  // namespace mtl_ops::cpu

STABLE_TORCH_LIBRARY_IMPL(mtl_ops, CPU, m) {
  m.impl("gram", TORCH_BOX(&mtl_ops::cpu::gram));
  m.impl("gram_and_scales", TORCH_BOX(&mtl_ops::cpu::gram_and_scales));
  m.impl("task_scales", TORCH_BOX(&mtl_ops::cpu::task_scales));
}
