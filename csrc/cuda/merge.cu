// merge_: the merged gradient, out_p = c * sum over the tasks t of w_s[t] g_tp (+ out_p when accumulating), s being
// p's segment and c = min(1, max_norm / |merged gradient|) with the norm taken from the Gram matrix, sqrt(sum_s w_s'
// G_s w_s).
//
// Who computes what.  Every block makes c for itself, or, of more than a few thousand entries of G, one block has made c
// and c w before.  The tiles of all columns are dealt out to the blocks (csrc/launch/plan.h); a thread has 16 bytes of
// `out` and reads the rows eight vectors at a time.
//
// Order of accumulation.  Element by element over the tasks in their order: in float64 for float32 and float64
// gradients, in float32 for the 16-bit ones, rounded once.  A task whose weight is exactly 0 is not read, so its Inf
// or NaN goes nowhere.
#include "../solvers/problem.h"
#include "terms.cuh"

namespace mtl_ops::cuda {
namespace {

using launch::Span;
using launch::Table;
using launch::Tiles;

constexpr int kThreads = 256;
constexpr int kBlocks = 2;    // on a multiprocessor: with 128 bytes a thread, 64 KB on their way
constexpr int kInFlight = 8;  // loads
constexpr int kClipThreads = 1024;
constexpr int64_t kClipHere = 4096;  // entries of G: 16 a thread

template <class S>
using Accumulator = std::conditional_t<sizeof(S) == 2, float, double>;
template <class S>
using MergeTerms = Terms<S, Accumulator<S>>;

// ---- the clip scale -----------------------------------------------------------------------------------------------

// What c is made of; without `gram` it is 1.
struct Clip {
  const double* weights;  // (S, T)
  const double* gram;     // (S, T, T), or null
  int S, T;
  double max_norm;

  // A norm that is not finite gives NaN: scaled by 0, a broken gradient would look like a sound one.
  __device__ double factor(double square) const {
    return !solvers::finite(square) ? __builtin_nan("") : square > max_norm * max_norm ? max_norm / sqrt(square) : 1.0;
  }

  // This thread's part of the sum over the segments of w' G w, entry by entry; a task of weight 0 takes no part, whatever
  // its row of G holds.
  __device__ double by_entries() const {
    double sum = 0;
    for (int at = threadIdx.x; at < S * T * T; at += kThreads) {
      const int row = at / T;  // s T + i
      const double wi = weights[row], wj = weights[row / T * T + at % T];
      if (wi != 0 && wj != 0) sum += wi * wj * gram[at];
    }
    return sum;
  }

  // The same row by row.
  __device__ double by_rows() const {
    double sum = 0;
    for (int row = threadIdx.x; row < S * T; row += kClipThreads) {
      const double wi = weights[row];
      if (wi == 0) continue;
      const double* g = gram + static_cast<int64_t>(row) * T;
      const double* w = weights + row / T * T;
      for (int j = 0; j < T; ++j) {
        if (w[j] != 0) sum += wi * w[j] * g[j];
      }
    }
    return sum;
  }
};

// scale () and scaled (S, T) = scale * weights, of many segments.  One block.
__global__ void __launch_bounds__(kClipThreads) scale_weights(Clip clip, double* scale, double* scaled) {
  double factor = 1;
  if (clip.gram != nullptr) factor = clip.factor(block_sum<kClipThreads>(clip.by_rows()));
  if (threadIdx.x == 0) *scale = factor;
  for (int at = threadIdx.x; at < clip.S * clip.T; at += kClipThreads) scaled[at] = factor * clip.weights[at];
}

// ---- the merged gradient ------------------------------------------------------------------------------------------

// K rows at a time, in as many vectors of columns as make kInFlight loads.
template <class S, int K>
struct Merge {
  using A = Accumulator<S>;
  static constexpr int kVectors = kInFlight / K;
  static constexpr int kSize = Vector<S>::kSize;
  static constexpr int kWidth = kThreads * kVectors * kSize;  // of a tile
};

template <class S, int K>
__device__ void merge_vectors(const MergeTerms<S>& terms, int64_t begin, double limit, bool accumulate, S* out) {
  using Shape = Merge<S, K>;
  using A = typename Shape::A;
  const int64_t x = begin + threadIdx.x * Shape::kSize;
  constexpr int stride = kThreads * Shape::kSize;
  A sum[Shape::kVectors][Shape::kSize] = {};
  if (accumulate) {
#pragma unroll
    for (int v = 0; v < Shape::kVectors; ++v) {
      const Vector<S> old{*reinterpret_cast<const uint4*>(out + x + v * stride)};
#pragma unroll
      for (int e = 0; e < Shape::kSize; ++e) sum[v][e] = take<A>(old[e], -1);
    }
  }
  for (int first = 0; first < terms.count; first += K) {
    const int left = terms.count - first;
    Vector<S> values[K][Shape::kVectors];
#pragma unroll
    for (int r = 0; r < K; ++r) {
#pragma unroll
      for (int v = 0; v < Shape::kVectors; ++v) {
        if (r < left)
          values[r][v].bits = __ldcs(reinterpret_cast<const uint4*>(terms.rows[first + r] + x + v * stride));
      }
    }
#pragma unroll
    for (int r = 0; r < K; ++r) {
      if (r >= left) break;
      const A weight = terms.weights[first + r];
#pragma unroll
      for (int v = 0; v < Shape::kVectors; ++v) {
#pragma unroll
        for (int e = 0; e < Shape::kSize; ++e) sum[v][e] += weight * take<A>(values[r][v][e], limit);
      }
    }
  }
#pragma unroll
  for (int v = 0; v < Shape::kVectors; ++v) {
    Vector<S> merged;
#pragma unroll
    for (int e = 0; e < Shape::kSize; ++e) merged.set(e, static_cast<S>(sum[v][e]));
    *reinterpret_cast<uint4*>(out + x + v * stride) = merged.bits;
  }
}

// Of a tile that is not whole or not aligned: element by element, those of neighbouring threads next to each other.
template <class S>
__device__ void merge_elements(const MergeTerms<S>& terms, const Span& span, double limit, bool accumulate, S* out) {
  using A = Accumulator<S>;
  for (int64_t x = span.begin + threadIdx.x; x < span.end; x += kThreads) {
    A sum = accumulate ? take<A>(out[x], -1) : A(0);
#pragma unroll 8
    for (int r = 0; r < terms.count; ++r) sum += terms.weights[r] * take<A>(terms.rows[r][x], limit);
    out[x] = static_cast<S>(sum);
  }
}

// The table has T rows and the output for every column.  scale (): c goes there.
template <class S, int K, class Argument>
__global__ void __launch_bounds__(kThreads, kBlocks)
    merge_columns(const __grid_constant__ Argument argument, Clip clip, double* scale, double limit, bool accumulate) {
  __shared__ MergeTerms<S> terms;
  __shared__ double factor;
  const Table table = argument.table();
  const int T = clip.T;
  double square = 0;
  if (clip.gram != nullptr) square = block_sum<kThreads>(clip.by_entries());
  if (threadIdx.x == 0) {
    factor = clip.gram != nullptr ? clip.factor(square) : 1.0;
    if (blockIdx.x == 0 && scale != nullptr) *scale = factor;
  }
  int column = -1;
  S* out = nullptr;
  for (Tiles tiles(table, blockIdx.x); !tiles.done(); tiles.next()) {
    if (tiles.column() != column) {
      column = tiles.column();
      out = static_cast<S*>(table.row(column)[T]);
      __syncthreads();  // nobody reads the last column's terms any more
      if (threadIdx.x < kWarp) {
        terms.gather(table.row(column), clip.weights + static_cast<int64_t>(table.columns[column].segment) * T, T,
                     factor);
      }
      __syncthreads();
    }
    const Span span = tiles.span();
    if (span.vectors) {
      merge_vectors<S, K>(terms, span.begin, limit, accumulate, out);
    } else {
      merge_elements(terms, span, limit, accumulate, out);
    }
  }
}

// ---- on the host --------------------------------------------------------------------------------------------------

// What is the same for all dtypes of one call.
struct MergeCall {
  const Device& device;
  const TaskGrads& grads;
  Clip clip;
  double* scale;  // where c is written, unless it is there
  double limit;   // of the elementwise clamp; negative for none
  bool accumulate;
};

template <class S, int K>
void run(const MergeCall& call, const std::vector<int64_t>& params) {
  const int T = call.clip.T;
  launch::Plan plan(T + 1, sizeof(S), Merge<S, K>::kWidth);
  std::vector<const void*> pointers(T + 1);
  for (const int64_t p : params) {
    std::copy_n(call.grads.rows(p), T, pointers.begin());
    pointers[T] = call.grads.out(p);
    plan.add(call.grads.numel(p), call.grads.segment(p), pointers.data());
  }
  plan.cut_whole(call.device.processors() * kBlocks);
  with_table<K == kInFlight>(call.device, plan, [&](const auto& table) {
    using Argument = std::decay_t<decltype(table)>;
    launch(call.device, merge_columns<S, K, Argument>, {plan.jobs(), kThreads}, table, call.clip, call.scale,
           call.limit, call.accumulate);
  });
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
  const double* G = nullptr;
  if (max_norm) {
    STD_TORCH_CHECK(gram, "max_norm needs the Gram matrix.");
    G = read_matrix(*gram, "gram", 3, grads.kind());
    STD_TORCH_CHECK(gram->size(0) == S && gram->size(1) == T && gram->size(2) == T, "gram should have shape (", S, ", ",
                    T, ", ", T, ").");
  }
  check_count("S", S * T);
  const Device device(*grads.any());
  Tensor result = device.new_float64({});
  auto* scale = static_cast<double*>(result.mutable_data_ptr());
  Clip clip{w, G, static_cast<int>(S), static_cast<int>(T), max_norm.value_or(0.0)};
  std::optional<Tensor> scaled;
  if ((G != nullptr && S * T * T > kClipHere) || !grads.has_elements()) {
    scaled = device.new_float64({S, T});
    auto* weights_of_all = static_cast<double*>(scaled->mutable_data_ptr());
    launch(device, scale_weights, {1, kClipThreads}, clip, scale, weights_of_all);
    clip.weights = weights_of_all;
    clip.gram = nullptr;
    scale = nullptr;
  }
  const MergeCall call{device, grads, clip, scale, clip_value.value_or(-1.0), accumulate};
  for_each_dtype(grads, [&](ScalarType dtype, const std::vector<int64_t>& params, bool) {
    dispatch(dtype, [&](auto tag) {
      using Element = typename decltype(tag)::type;
      if (T <= 2) {
        run<Element, 2>(call, params);
      } else if (T <= 4) {
        run<Element, 4>(call, params);
      } else {
        run<Element, kInFlight>(call, params);
      }
    });
  });
  grads.write_back();
  return result;
}

}  // namespace mtl_ops::cuda

STABLE_TORCH_LIBRARY_IMPL(mtl_ops, CUDA, m) { m.impl("merge_", TORCH_BOX(&mtl_ops::cuda::merge_)); }
