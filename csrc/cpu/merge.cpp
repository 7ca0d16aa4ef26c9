// merge_: the merged gradient, out_p = c * sum over the tasks t of w_s[t] g_tp (+ out_p when accumulating), s being p's segment and
// c = min(1, max_norm / |merged gradient|) with the norm taken from the Gram matrix, sqrt(sum_s w_s' G_s w_s).
//
// Order of accumulation.  Element by element over the tasks in their order: in float64 for float32 and float64 gradients, in float32
// for the 16-bit ones, rounded once.  A task whose weight is exactly 0 is not read, so its Inf or NaN goes nowhere.
#include "../task_grads.h"
#include "simd.h"

#include <cmath>

#include <torch/csrc/stable/library.h>

namespace mtl_ops::cpu {
namespace {

constexpr int64_t kBlockBytes = 1024;  // of each row, read ahead

struct MergeJob {
  const TaskGrads& grads;
  const Job& job;
  const double* weights;  // (T,), the clip scale included
  double limit;           // of the elementwise clamp; negative for none
  bool accumulate;
};

template <class S>
struct Accumulator {
  using type = double;
};
template <>
struct Accumulator<bfloat16> {
  using type = float;
};
template <>
struct Accumulator<float16> {
  using type = float;
};

// N elements as the accumulator's type, clamped first.
template <int N, bool CLAMP, class A, class S>
MTL_INLINE vec<A, N> fetch(const S* p, double limit) {
  auto v = load<N>(p);
  if constexpr (CLAMP) v = clamp(v, static_cast<std::remove_cvref_t<decltype(v[0])>>(limit));
  return __builtin_convertvector(v, vec<A, N>);
}

template <int N, class A, class S>
MTL_INLINE void put(S* p, const vec<A, N>& v) {
  using F = std::conditional_t<std::is_same_v<S, double>, double, float>;
  store<N>(p, __builtin_convertvector(v, vec<F, N>));
}

// U vectors of N columns of all k rows: enough independent sums to hide the latency of an addition.
template <int N, int U, bool CLAMP, class A, class S>
MTL_INLINE void merge_vectors(const S* const* rows, const A* weights, int64_t k, int64_t x, double limit,
                              bool accumulate, S* out) {
  vec<A, N> sum[U];
#pragma GCC unroll 4
  for (int u = 0; u < U; ++u) {
    sum[u] = accumulate ? fetch<N, false, A>(out + x + u * N, limit) : vec<A, N>{};
  }
  for (int64_t t = 0; t < k; ++t) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) sum[u] += weights[t] * fetch<N, CLAMP, A>(rows[t] + x + u * N, limit);
  }
#pragma GCC unroll 4
  for (int u = 0; u < U; ++u) put<N, A>(out + x + u * N, sum[u]);
}

template <int BYTES, bool CLAMP, class S>
MTL_INLINE void merge_range(const MergeJob& job, const Range& range) {
  using A = typename Accumulator<S>::type;
  constexpr int N = BYTES / sizeof(A);
  constexpr int U = 4;

  const S* rows[kMaxTasks];
  A weights[kMaxTasks];
  int64_t k = 0;
  for (int64_t t = 0; t < job.grads.tasks(); ++t) {
    const void* row = job.grads.rows(range.param)[t];
    if (!row || job.weights[t] == 0) continue;
    rows[k] = static_cast<const S*>(row) + range.begin;
    weights[k++] = static_cast<A>(job.weights[t]);
  }
  if (k == 0 && job.accumulate) return;
  S* out = static_cast<S*>(job.grads.out(range.param)) + range.begin;

  const int64_t n = range.end - range.begin;
  constexpr int64_t block = kBlockBytes / sizeof(S);
  static_assert(block % (U * N) == 0);
  int64_t x = 0;
  for (; x + block <= n; x += block) {
    const int64_t ahead = std::min(block, n - x - block);
    for (int64_t t = 0; t < k; ++t) {
      for (int64_t c = 0; c < ahead; c += 64 / sizeof(S)) __builtin_prefetch(rows[t] + x + block + c);
    }
    for (int64_t c = 0; c < block; c += U * N) {
      merge_vectors<N, U, CLAMP>(rows, weights, k, x + c, job.limit, job.accumulate, out);
    }
  }
  for (; x + N <= n; x += N) merge_vectors<N, 1, CLAMP>(rows, weights, k, x, job.limit, job.accumulate, out);
  for (; x < n; ++x) merge_vectors<1, 1, CLAMP>(rows, weights, k, x, job.limit, job.accumulate, out);
}

template <int BYTES, bool CLAMP>
MTL_INLINE void merge_ranges(const MergeJob& job) {
  for (const Range& range : job.job.ranges) {
    switch (job.grads.dtype(range.param)) {
      case ScalarType::Double: merge_range<BYTES, CLAMP, double>(job, range); break;
      case ScalarType::BFloat16: merge_range<BYTES, CLAMP, bfloat16>(job, range); break;
      case ScalarType::Half: merge_range<BYTES, CLAMP, float16>(job, range); break;
      default: merge_range<BYTES, CLAMP, float>(job, range); break;
    }
  }
}

template <int BYTES>
MTL_INLINE void merge_job(const MergeJob& job) {
  if (job.limit < 0) {
    merge_ranges<BYTES, false>(job);
  } else {
    merge_ranges<BYTES, true>(job);
  }
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

const double* check_matrix(const Tensor& tensor, const char* name, int64_t dim) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Double && tensor.is_contiguous() && tensor.is_cpu() &&
                      tensor.dim() == dim,
                  name, " should be a contiguous float64 tensor of ", dim, " dimensions on the gradients' device.");
  return static_cast<const double*>(tensor.const_data_ptr());
}

}  // namespace

Tensor merge_(std::vector<Tensor> out, const OptionalTensors& tensors, const Tensor& weights,
              const std::optional<Tensor>& gram, const std::vector<int64_t>& segments,
              std::optional<double> max_norm, std::optional<double> clip_value, bool accumulate) {
  const int64_t T = weights.dim() == 2 ? weights.size(1) : 0;
  const TaskGrads grads(tensors, T, segments, &out);
  const double* w = check_matrix(weights, "weights", 2);
  const int64_t S = weights.size(0);
  STD_TORCH_CHECK(S >= grads.segments(), "weights should have a row for each of the ", grads.segments(),
                  " segments. Found ", S, ".");

  double scale = 1;
  if (max_norm) {
    STD_TORCH_CHECK(gram, "max_norm needs the Gram matrix.");
    const double* G = check_matrix(*gram, "gram", 3);
    STD_TORCH_CHECK(gram->size(0) == S && gram->size(1) == T && gram->size(2) == T, "gram should have shape (", S, ", ",
                    T, ", ", T, ").");
    const double square = squared_norm(w, G, S, T);
    if (std::isnan(square)) {
      scale = square;
    } else if (square > *max_norm * *max_norm) {
      scale = *max_norm / std::sqrt(square);
    }
  }
  std::vector<double> scaled(w, w + S * T);
  for (double& v : scaled) v *= scale;

  const std::vector<Job> jobs = split(grads, /*min_elements=*/16384, /*max_jobs=*/256);
  torch::stable::parallel_for(0, static_cast<int64_t>(jobs.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      run_merge_job({grads, jobs[j], scaled.data() + jobs[j].segment * T, clip_value.value_or(-1.0), accumulate});
    }
  });
  grads.write_back();

  Tensor result = torch::stable::empty({}, ScalarType::Double);
  *static_cast<double*>(result.mutable_data_ptr()) = scale;
  return result;
}

}  // namespace mtl_ops::cpu

STABLE_TORCH_LIBRARY_IMPL(mtl_ops, CPU, m) { m.impl("merge_", TORCH_BOX(&mtl_ops::cpu::merge_)); }
