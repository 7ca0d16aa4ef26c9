// merge_graddrop_, merge_trimmed_mean_, merge_median_, merge_sign_agreement_: the merged gradient of the methods that look at single
// coordinates, out_p = method(s_t g_tp over the tasks t that take part) (+ out_p when accumulating), in one pass.  They return the
// squared norm of the merged gradient.
//
// A task takes part in a parameter if it reaches it and its scale is not 0; of the others nothing is read.  A parameter without tasks
// gets 0.
//
// Order of accumulation.  A block of columns of all rows is converted to float32 (float64 for float64 gradients) in the first cache
// and combined there, over the tasks in their order.  The squared norm is added up in float64, jobs in their order, so its bits depend
// on the shapes and the level of instruction set alone.
#include <torch/csrc/stable/library.h>

#include <cstddef>
#include <memory>

#include "coordinates.h"
#include "first_touch.h"
#include "jobs.h"

namespace mtl_ops::cpu {
namespace {

template <int BYTES, class Method, class A>
MTL_INLINE void combine(const Method& method, const Block<A>& block) {
  method.template combine<BYTES>(block);
}
MTL_SIMD_ENTRY(combine, (const GradDrop& method, const Block<float>& block), (method, block))
MTL_SIMD_ENTRY(combine, (const GradDrop& method, const Block<double>& block), (method, block))
MTL_SIMD_ENTRY(combine, (const TrimmedMean& method, const Block<float>& block), (method, block))
MTL_SIMD_ENTRY(combine, (const TrimmedMean& method, const Block<double>& block), (method, block))
MTL_SIMD_ENTRY(combine, (const SignAgreement& method, const Block<float>& block), (method, block))
MTL_SIMD_ENTRY(combine, (const SignAgreement& method, const Block<double>& block), (method, block))

// A method behind a call for each block, so that what goes round it is compiled once.
struct Combine {
  virtual void operator()(const Block<float>& block) const = 0;
  virtual void operator()(const Block<double>& block) const = 0;
};
template <class Method>
struct CombineBy final : Combine {
  explicit CombineBy(const Method& given) : method(given) {}
  void operator()(const Block<float>& block) const override { run_combine(method, block); }
  void operator()(const Block<double>& block) const override { run_combine(method, block); }
  const Method& method;
};

struct ElementwiseJob {
  const TaskGrads& grads;
  const Job& job;
  const Combine& combine;
  const double* scale;             // (T,), or null
  const Coordinates* coordinates;  // null where their numbers do not matter
  double limit;                    // of the elementwise clamp; negative for none
  bool accumulate, stream;
  void* values;       // (T, kBlock) of the accumulator's type, of the calling thread alone, on a cache line
  double square = 0;  // of the result's norm
};

template <class S>
using Accumulator = std::conditional_t<std::is_same_v<S, double>, double, float>;

// The tasks that take part in a parameter.
template <class S>
struct Rows {
  int64_t k = 0;
  int64_t task[kMaxTasks];
  const S* at[kMaxTasks];
  Accumulator<S> scale[kMaxTasks];

  Rows(const ElementwiseJob& job, const Range& range) {
    for (int64_t t = 0; t < job.grads.tasks(); ++t) {
      const void* row = job.grads.rows(range.param)[t];
      if (!row || (job.scale && job.scale[t] == 0)) continue;
      task[k] = t;
      at[k] = static_cast<const S*>(row) + range.begin;
      scale[k++] = job.scale ? static_cast<Accumulator<S>>(job.scale[t]) : 1;
    }
  }
};

// A block of one row, scaled and clamped.
template <int BYTES, class S, class A>
MTL_INLINE void stage_row(const S* from, A scale, double limit, A* to) {
  constexpr int N = BYTES / sizeof(A);
#pragma GCC unroll 4
  for (int64_t c = 0; c < kBlock; c += N) {
    auto v = load<N>(from + c);
    if (limit >= 0) v = clamp(v, static_cast<A>(limit));
    store_raw(to + c, v * scale);
  }
}

// Columns [x, x + n) of the rows, padded with zeros to a whole block.
template <int BYTES, class S, class A>
MTL_INLINE void stage(const Rows<S>& rows, int64_t x, int64_t n, double limit, A* values) {
  for (int64_t t = 0; t < rows.k; ++t) {
    const S* from = rows.at[t] + x;
    A* to = values + t * kBlock;
    if (n == kBlock) {
#pragma GCC unroll 8
      for (int64_t line = 0; line < kBlock; line += kLine / sizeof(S)) __builtin_prefetch(from + kBlock + line);
      stage_row<BYTES>(from, rows.scale[t], limit, to);
    } else {
      S part[kBlock] = {};
      std::memcpy(part, from, n * sizeof(S));
      stage_row<BYTES>(part, rows.scale[t], limit, to);
    }
  }
}

template <int BYTES, class A>
MTL_INLINE double sum_of_squares(const A* merged) {
  constexpr int H = BYTES / sizeof(double);
  vec<double, H> sums{};
  for (int64_t c = 0; c < kBlock; c += H) {
    const auto v = convert<double, H>(load_raw<vec<A, H>>(merged + c));
    sums += v * v;
  }
  double sum = 0;
  for (int h = 0; h < H; ++h) sum += sums[h];
  return sum;
}

// A block of the result, added to what is there when accumulating.
template <int BYTES, class S, class A>
MTL_INLINE void write_block(const A* merged, bool accumulate, S* to) {
  constexpr int N = BYTES / sizeof(A);
#pragma GCC unroll 4
  for (int64_t c = 0; c < kBlock; c += N) {
    auto v = load_raw<vec<A, N>>(merged + c);
    if (accumulate) v += load<N>(to + c);
    store<N>(to + c, v);
  }
}

// Writes n columns of the result.
template <int BYTES, class S, class A>
MTL_INLINE void write(const ElementwiseJob& job, const A* merged, int64_t n, S* out) {
  if (n < kBlock) {
    S part[kBlock] = {};
    std::memcpy(part, out, n * sizeof(S));
    write_block<BYTES>(merged, job.accumulate, part);
    std::memcpy(out, part, n * sizeof(S));
  } else if (job.stream && reinterpret_cast<uintptr_t>(out) % kLine == 0) {
    alignas(kLine) S part[kBlock];
    write_block<BYTES>(merged, false, part);
    for (int64_t c = 0; c < kBlock; c += kLine / sizeof(S)) stream_line(out + c, part + c);
  } else {
    write_block<BYTES>(merged, job.accumulate, out);
  }
}

template <int BYTES, class S>
MTL_INLINE void elementwise_range(ElementwiseJob& job, const Range& range) {
  using A = Accumulator<S>;
  const Rows<S> rows(job, range);
  if (rows.k == 0 && job.accumulate) return;
  S* out = static_cast<S*>(job.grads.out(range.param)) + range.begin;
  const int64_t first = job.coordinates ? job.coordinates->first(range.param) + range.begin : 0;
  const int64_t n = range.end - range.begin;

  A* values = static_cast<A*>(job.values);
  alignas(kLine) A merged[kBlock] = {};
  // all blocks but the first begin on a group of random numbers, or on a cache line
  int64_t m = kBlock - (job.coordinates ? first % kBlock : reinterpret_cast<uintptr_t>(out) % kLine / sizeof(S));
  for (int64_t x = 0; x < n; x += m, m = kBlock) {
    m = std::min(m, n - x);
    if (rows.k > 0) {
      stage<BYTES>(rows, x, m, job.limit, values);
      job.combine(Block<A>{rows.k, rows.task, values, first + x, m, merged});
      job.square += sum_of_squares<BYTES>(merged);
    }
    write<BYTES>(job, merged, m, out + x);
  }
}

template <int BYTES>
MTL_INLINE void elementwise_job(ElementwiseJob& job) {
  for (const Range& range : job.job.ranges) {
    with_element_type(job.grads.dtype(range.param),
                      [&](auto element) MTL_INLINE_LAMBDA { elementwise_range<BYTES, decltype(element)>(job, range); });
  }
  if (job.stream) stream_fence();
}
MTL_SIMD_ENTRY(elementwise_job, (ElementwiseJob & job), (job))

// The arguments that all of these operators have.
struct Call {
  const std::vector<Tensor>& out;
  const OptionalTensors& tensors;
  const std::optional<Tensor>& scale;
  const std::vector<int64_t>& segments;
  std::optional<double> clip_value;
  bool accumulate;

  int64_t tasks() const {
    STD_TORCH_CHECK(!out.empty(), "out should hold at least one tensor. Found none.");
    return static_cast<int64_t>(tensors.size() / out.size());
  }
};

template <class Method>
Tensor merge(const Call& call, const Method& method, const Coordinates* coordinates = nullptr,
             const std::optional<Tensor>& uniforms = std::nullopt) {
  const int64_t T = call.tasks();
  check_not_negative("clip_value", call.clip_value);
  const TaskGrads grads(call.tensors, {T, kMaxTasks}, call.segments, &call.out, Method::layout);
  const double* scale = read_scale(call.scale, grads.segments(), T, grads.kind());
  if (call.scale) grads.check_apart(*call.scale, "scale");
  check_place_of_uniforms(uniforms, grads);
  const std::vector<Job> jobs = split(grads, /*min_elements=*/16384, /*max_jobs=*/256);
  const bool stream = !call.accumulate && outgrows_cache(grads);
  if (stream) ask_for_large_pages(grads);
  const CombineBy<Method> combine(method);
  std::vector<double> squares(jobs.size());
  run_jobs(jobs, [&](int64_t begin, int64_t end) {
    struct alignas(kLine) Line {
      std::byte bytes[kLine];
    };
    const std::unique_ptr<Line[]> values(new Line[T * kBlock * sizeof(double) / kLine]);
    for (int64_t j = begin; j < end; ++j) {
      const double* factors = scale ? scale + jobs[j].segment * T : nullptr;
      const double limit = call.clip_value.value_or(-1.0);
      ElementwiseJob job{grads, jobs[j], combine, factors, coordinates, limit, call.accumulate, stream, values.get()};
      run_elementwise_job(job);
      squares[j] = job.square;
    }
  });
  grads.write_back();

  Tensor result = grads.new_float64({});
  double& square = *static_cast<double*>(result.mutable_data_ptr());
  square = 0;
  for (const double part : squares) square += part;
  return result;
}

}  // namespace

Tensor merge_graddrop_(const std::vector<Tensor>& out, const OptionalTensors& grads, const std::optional<Tensor>& scale,
                       const std::vector<int64_t>& segments, std::optional<double> clip_value, bool accumulate,
                       const std::vector<double>& leak, int64_t seed, int64_t offset,
                       const std::optional<Tensor>& uniforms, const std::vector<int64_t>& first,
                       const std::optional<Tensor>& counter) {
  const Call call{out, grads, scale, segments, clip_value, accumulate};
  check_leak(leak, call.tasks());
  const bool leaks = std::any_of(leak.begin(), leak.end(), [](double share) { return share != 0; });
  const Coordinates coordinates(out, first);
  const int64_t* count = read_counter(counter, out);
  const uint64_t place = static_cast<uint64_t>(offset) + static_cast<uint64_t>(count ? *count : 0);  // wraps
  const Uniforms source(uniforms, seed, static_cast<int64_t>(place), coordinates);
  return merge(call, GradDrop{source, leak, leaks}, &coordinates, uniforms);
}

Tensor merge_trimmed_mean_(const std::vector<Tensor>& out, const OptionalTensors& grads,
                           const std::optional<Tensor>& scale, const std::vector<int64_t>& segments,
                           std::optional<double> clip_value, bool accumulate, int64_t trim) {
  STD_TORCH_CHECK(trim >= 0, "trim should not be negative. Found ", trim, ".");
  return merge({out, grads, scale, segments, clip_value, accumulate}, TrimmedMean{trim});
}

Tensor merge_median_(const std::vector<Tensor>& out, const OptionalTensors& grads, const std::optional<Tensor>& scale,
                     const std::vector<int64_t>& segments, std::optional<double> clip_value, bool accumulate) {
  return merge({out, grads, scale, segments, clip_value, accumulate}, TrimmedMean{kMaxTasks});
}

Tensor merge_sign_agreement_(const std::vector<Tensor>& out, const OptionalTensors& grads,
                             const std::optional<Tensor>& scale, const std::vector<int64_t>& segments,
                             std::optional<double> clip_value, bool accumulate, double tau, bool mean) {
  check_not_negative("tau", tau);
  return merge({out, grads, scale, segments, clip_value, accumulate}, SignAgreement{tau, mean});
}

}  // namespace mtl_ops::cpu

STABLE_TORCH_LIBRARY_IMPL(mtl_ops, CPU, m) {
  m.impl("merge_graddrop_", TORCH_BOX(&mtl_ops::cpu::merge_graddrop_));
  m.impl("merge_trimmed_mean_", TORCH_BOX(&mtl_ops::cpu::merge_trimmed_mean_));
  m.impl("merge_median_", TORCH_BOX(&mtl_ops::cpu::merge_median_));
  m.impl("merge_sign_agreement_", TORCH_BOX(&mtl_ops::cpu::merge_sign_agreement_));
}
