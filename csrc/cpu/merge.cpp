// merge_: the merged gradient, out_p = c * sum over the tasks t of w_s[t] g_tp (+ out_p when accumulating), s being p's segment and
// c = min(1, max_norm / |merged gradient|) with the norm taken from the Gram matrix, sqrt(sum_s w_s' G_s w_s).
//
// Order of accumulation.  Element by element over the tasks in their order: in float64 for float32 and float64 gradients, in float32
// for the 16-bit ones, rounded once.  A task whose weight is exactly 0 is not read, so its Inf or NaN goes nowhere.
#include <torch/csrc/stable/library.h>

#include "first_touch.h"
#include "jobs.h"
#include "simd.h"

namespace mtl_ops::cpu {
namespace {

constexpr int64_t kBytesAhead = 4096;  // of all rows together, to be on their way from memory: bandwidth times latency

struct MergeJob {
  const TaskGrads& grads;
  const Job& job;
  const double* weights;  // (T,), the clip scale included
  double limit;           // of the elementwise clamp; negative for none
  bool accumulate;
  bool stream;  // past the caches
};

template <class S>
using Accumulator = std::conditional_t<std::is_same_v<S, bfloat16> || std::is_same_v<S, float16>, float, double>;

// The rows that one parameter's sum is made of.
template <class S>
struct Terms {
  int64_t k = 0;
  const S* rows[kMaxTasks];
  Accumulator<S> weights[kMaxTasks];
  double limit;
  bool accumulate;
};

template <int N, class S>
MTL_INLINE vec<Accumulator<S>, N> fetch(const S* p, double limit) {
  auto v = load<N>(p);
  if (limit >= 0) v = clamp(v, static_cast<std::remove_cvref_t<decltype(v[0])>>(limit));
  return convert<Accumulator<S>, N>(v);
}

// U vectors of N columns of all rows, written to `to`.
template <int N, int U, class S>
MTL_INLINE void merge_vectors(const Terms<S>& terms, int64_t x, int64_t ahead, const S* out, S* to) {
  using A = Accumulator<S>;
  vec<A, N> sum[U];
#pragma GCC unroll 8
  for (int u = 0; u < U; ++u) sum[u] = terms.accumulate ? fetch<N>(out + u * N, -1) : vec<A, N>{};
  for (int64_t t = 0; t < terms.k; ++t) {
    const S* row = terms.rows[t] + x;
    if (ahead > 0) __builtin_prefetch(row + ahead);
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u) sum[u] += terms.weights[t] * fetch<N>(row + u * N, terms.limit);
  }
  using F = std::conditional_t<std::is_same_v<S, double>, double, float>;
#pragma GCC unroll 8
  for (int u = 0; u < U; ++u) store<N>(to + u * N, convert<F, N>(sum[u]));
}

template <int BYTES, class S>
MTL_INLINE void merge_range(const MergeJob& job, const Range& range) {
  using A = Accumulator<S>;
  constexpr int64_t line = kLine / sizeof(S);
  constexpr int N = BYTES / sizeof(A);
  Terms<S> terms;
  terms.limit = job.limit;
  terms.accumulate = job.accumulate;
  for (int64_t t = 0; t < job.grads.tasks(); ++t) {
    const void* row = job.grads.rows(range.param)[t];
    if (!row || job.weights[t] == 0) continue;
    terms.rows[terms.k] = static_cast<const S*>(row) + range.begin;
    terms.weights[terms.k++] = static_cast<A>(job.weights[t]);
  }
  if (terms.k == 0 && job.accumulate) return;

  S* out = static_cast<S*>(job.grads.out(range.param)) + range.begin;
  const int64_t n = range.end - range.begin;
  const int64_t ahead = std::clamp<int64_t>(kBytesAhead / (terms.k + 1), 4 * kLine, 16 * kLine) / sizeof(S);
  int64_t x = 0;
  for (; x < n && reinterpret_cast<uintptr_t>(out + x) % kLine != 0; ++x) {
    merge_vectors<1, 1>(terms, x, 0, out + x, out + x);
  }
  for (; x + line <= n; x += line) {
    if (job.stream) {
      alignas(kLine) S merged[line];
      merge_vectors<N, line / N>(terms, x, ahead, out + x, merged);
      stream_line(out + x, merged);
    } else {
      merge_vectors<N, line / N>(terms, x, ahead, out + x, out + x);
    }
  }
  for (; x < n; ++x) merge_vectors<1, 1>(terms, x, 0, out + x, out + x);
}

template <int BYTES>
MTL_INLINE void merge_job(const MergeJob& job) {
  for (const Range& range : job.job.ranges) {
    with_element_type(job.grads.dtype(range.param),
                      [&](auto element) MTL_INLINE_LAMBDA { merge_range<BYTES, decltype(element)>(job, range); });
  }
  if (job.stream) stream_fence();
}

MTL_SIMD_ENTRY(merge_job, (const MergeJob& job), (job))

// sum over the segments of w' G w; a task of weight 0 takes no part, whatever its row of G holds.
double squared_norm(const double* weights, const double* gram, int64_t S, int64_t T) {
  double sum = 0;
  for (int64_t s = 0; s < S; ++s, weights += T, gram += T * T) {
    for (int64_t i = 0; i < T; ++i) {
      for (int64_t j = 0; j < T; ++j) {
        if (weights[i] != 0 && weights[j] != 0) sum += weights[i] * weights[j] * gram[i * T + j];
      }
    }
  }
  return sum;
}

}  // namespace

Tensor merge_(std::vector<Tensor> out, const OptionalTensors& tensors, const Tensor& weights,
              const std::optional<Tensor>& gram, const std::vector<int64_t>& segments, std::optional<double> max_norm,
              std::optional<double> clip_value, bool accumulate) {
  STD_TORCH_CHECK(weights.dim() == 2, "weights should be a contiguous float64 tensor of 2 dimensions.");
  check_not_negative("max_norm", max_norm);
  check_not_negative("clip_value", clip_value);
  const int64_t S = weights.size(0), T = weights.size(1);
  const TaskGrads grads(tensors, {T, kMaxTasks}, segments, &out);
  const double* w = read_matrix(weights, "weights", 2, grads.kind());
  STD_TORCH_CHECK(S >= grads.segments(), "weights should have a row for each of the ", grads.segments(),
                  " segments. Found ", S, ".");

  double scale = 1;
  if (max_norm) {
    STD_TORCH_CHECK(gram, "max_norm needs the Gram matrix.");
    const double* G = read_matrix(*gram, "gram", 3, grads.kind());
    STD_TORCH_CHECK(gram->size(0) == S && gram->size(1) == T && gram->size(2) == T, "gram should have shape (", S, ", ",
                    T, ", ", T, ").");
    scale = clip_scale(squared_norm(w, G, S, T), *max_norm);
  }
  std::vector<double> scaled(w, w + S * T);
  for (double& v : scaled) v *= scale;

  const std::vector<Job> jobs = split(grads, /*min_elements=*/16384, /*max_jobs=*/256);
  const bool stream = !accumulate && outgrows_cache(grads);
  if (stream) ask_for_large_pages(grads);
  run_jobs(jobs, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      run_merge_job(
          {grads, jobs[j], scaled.data() + jobs[j].segment * T, clip_value.value_or(-1.0), accumulate, stream});
    }
  });
  grads.write_back();

  Tensor result = grads.new_float64({});
  *static_cast<double*>(result.mutable_data_ptr()) = scale;
  return result;
}

}  // namespace mtl_ops::cpu

STABLE_TORCH_LIBRARY_IMPL(mtl_ops, CPU, m) { m.impl("merge_", TORCH_BOX(&mtl_ops::cpu::merge_)); }
