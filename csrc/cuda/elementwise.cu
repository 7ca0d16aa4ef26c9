// merge_graddrop_, merge_trimmed_mean_, merge_median_, merge_sign_agreement_: the merged gradient of the methods that
// look at single coordinates, out_p = method(s_t g_tp over the tasks t that take part) (+ out_p when accumulating),
// in one pass.  They return the squared norm of the merged gradient.
//
// A task takes part in a parameter if it reaches it and its scale is not 0; of the others nothing is read.  A
// parameter without tasks gets 0.
//
// Who computes what.  The tiles of all columns are dealt out to the blocks (csrc/launch/plan.h); a thread merges a
// few coordinates of a tile, in float32 (float64 for float64 gradients), over the tasks in their order.
//
// Order of accumulation.  The squared norm is added up in float64, a thread's coordinates in their order, then the
// threads of a block, then the blocks.
#include "coordinates.cuh"
#include "terms.cuh"

namespace mtl_ops::cuda {
namespace {

using launch::Span;
using launch::Table;
using launch::Tiles;

constexpr int kThreads = 256;

// A thread's coordinates of a tile: as many as leave kRows values of each in 32 registers, and four where they come
// in groups.
template <class S, class Method>
constexpr int kElements =
    Method::kGroup != 0
        ? 4
        : std::max(1, std::min(static_cast<int>(128 / sizeof(Compute<S>)) / Method::kRows, Vector<S>::kSize));

// Blocks on a multiprocessor: one where the values of a coordinate take more than that.
template <class S, class Method>
constexpr int kBlocks = Method::kRows * sizeof(Compute<S>) > 128 ? 1 : 2;

// Rows that are loaded before any is used: 32 registers of them.
template <class S, class Method>
constexpr int kAtOnce = std::min(Method::kRows, (sizeof(S) == 8 ? 16 : 32) / kElements<S, Method>);

// Up to 16 bytes of neighbouring elements, in one load.
template <class S, int E>
struct alignas(sizeof(S) * E) Pack {
  S at[E];
};

// Where a thread's elements lie in the tile.  In a whole tile they are neighbours; otherwise those of neighbouring
// threads are.
template <int E>
struct Places {
  int64_t first;
  int step;
  __device__ int64_t operator[](int e) const { return first + e * step; }
};

template <class S, class Method>
__device__ Places<kElements<S, Method>> places_in(const Span& span) {
  constexpr int E = kElements<S, Method>;
  const int thread = threadIdx.x;
  if constexpr (Method::kGroup != 0) {
    constexpr int together = Method::kGroup / E;
    return {span.origin + thread / together * Method::kGroup + thread % together, together};
  } else {
    return span.vectors ? Places<E>{span.origin + thread * E, 1} : Places<E>{span.begin + thread, kThreads};
  }
}

// The elements of a row at the thread's places, 0 where there are none.
template <class S, int E>
__device__ Pack<S, E> load_pack(const S* row, const Span& span, const Places<E>& places) {
  if (span.vectors) return *reinterpret_cast<const Pack<S, E>*>(row + places.first);
  Pack<S, E> pack;
#pragma unroll
  for (int e = 0; e < E; ++e) {
    pack.at[e] = places[e] >= span.begin && places[e] < span.end ? row[places[e]] : S(0);
  }
  return pack;
}

template <class S, int E>
__device__ void store_pack(const Pack<S, E>& pack, S* row, const Span& span, const Places<E>& places) {
  if (span.vectors) {
    *reinterpret_cast<Pack<S, E>*>(row + places.first) = pack;
    return;
  }
#pragma unroll
  for (int e = 0; e < E; ++e) {
    if (places[e] >= span.begin && places[e] < span.end) row[places[e]] = pack.at[e];
  }
}

// What the methods make of the thread's coordinates.
template <class S, class Method, class A>
__device__ void merge_places(const Method& method, const Terms<S, A>& terms, double limit, const Span& span,
                             int64_t coordinate, const Places<kElements<S, Method>>& places,
                             A (&merged)[kElements<S, Method>]) {
  constexpr int E = kElements<S, Method>, K = Method::kRows, C = kAtOnce<S, Method>;
  typename Method::template State<A> states[E];
  for (int first = 0; first < terms.count; first += K) {
#pragma unroll
    for (int begin = 0; begin < K; begin += C) {
      const int left = terms.count - first - begin;
      Pack<S, E> packs[C];
#pragma unroll
      for (int r = 0; r < C; ++r) {
        if (r < left) packs[r] = load_pack<S, E>(terms.rows[first + begin + r], span, places);
      }
#pragma unroll
      for (int r = 0; r < C; ++r) {
        if (r >= left) break;
        const A weight = terms.weights[first + begin + r];
        const int task = terms.tasks[first + begin + r];
#pragma unroll
        for (int e = 0; e < E; ++e) method.add(states[e], begin + r, take<A>(packs[r].at[e], limit) * weight, task);
      }
    }
  }
  A uniforms[E] = {};
  if constexpr (Method::kGroup != 0) {
    method.draw(coordinate + places.first, coordinate + span.begin, coordinate + span.end, uniforms);
  }
#pragma unroll
  for (int e = 0; e < E; ++e) merged[e] = terms.count > 0 ? method.finish(states[e], terms.count, uniforms[e]) : A(0);
}

// The table has T rows and the output for every column; scale (S, T) or null.  squares (jobs,): of each block's
// coordinates.
template <class S, class Method>
__global__ void __launch_bounds__(kThreads, kBlocks<S, Method>)
    merge_coordinates(const __grid_constant__ TableArgument argument, const __grid_constant__ Method method, int T,
                      const double* scale, double limit, bool accumulate, double* squares) {
  using A = Compute<S>;
  constexpr int E = kElements<S, Method>;
  __shared__ Terms<S, A> terms;
  const Table table = argument.table();
  int column = -1;
  double square = 0;
  for (Tiles tiles(table, blockIdx.x); !tiles.done(); tiles.next()) {
    if (tiles.column() != column) {
      column = tiles.column();
      __syncthreads();  // nobody reads the last column's terms any more
      if (threadIdx.x < kWarp) {
        const int64_t segment = table.columns[column].segment;
        terms.gather(table.row(column), scale != nullptr ? scale + segment * T : nullptr, T);
      }
      __syncthreads();
    }
    S* out = static_cast<S*>(table.row(column)[T]);
    const Span span = tiles.span();
    const auto places = places_in<S, Method>(span);
    A merged[E];
    merge_places<S>(method, terms, limit, span, table.columns[column].coordinate, places, merged);
    Pack<S, E> result;
    if (accumulate) result = load_pack<S, E>(out, span, places);
#pragma unroll
    for (int e = 0; e < E; ++e) {
      if (places[e] >= span.begin && places[e] < span.end) square += static_cast<double>(merged[e]) * merged[e];
      result.at[e] = static_cast<S>(accumulate ? merged[e] + take<A>(result.at[e], -1) : merged[e]);
    }
    store_pack<S, E>(result, out, span, places);
  }
  square = block_sum<kThreads>(square);
  if (threadIdx.x == 0) squares[blockIdx.x] = square;
}

// result () = the sum of n squares; added to what is there if `add`.
__global__ void __launch_bounds__(kThreads) add_squares(const double* squares, int n, double* result, bool add) {
  double sum = 0;
  for (int i = threadIdx.x; i < n; i += kThreads) sum += squares[i];
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) *result = add ? *result + sum : sum;
}

// ---- on the host --------------------------------------------------------------------------------------------------

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

template <class S, class Method>
launch::Plan make_plan(const TaskGrads& grads, const std::vector<int64_t>& params, const Coordinates* coordinates) {
  const int T = static_cast<int>(grads.tasks());
  launch::Plan plan(T + 1, sizeof(S), kThreads * kElements<S, Method>);
  std::vector<const void*> pointers(T + 1);
  for (const int64_t p : params) {
    std::copy_n(grads.rows(p), T, pointers.begin());
    pointers[T] = grads.out(p);
    if constexpr (Method::kGroup != 0) {
      plan.add_grouped(grads.numel(p), grads.segment(p), pointers.data(), coordinates->first(p), Method::kGroup);
    } else {
      plan.add(grads.numel(p), grads.segment(p), pointers.data());
    }
  }
  return plan;
}

template <class Method>
Tensor merge(const Call& call, const Method& method, const Coordinates* coordinates = nullptr,
             const std::optional<Tensor>& uniforms = std::nullopt) {
  const int64_t T = call.tasks();
  check_not_negative("clip_value", call.clip_value);
  const TaskGrads grads(call.tensors, {T, kMaxTasks}, call.segments, &call.out, Method::layout);
  const double* scale = read_scale(call.scale, grads.segments(), T, grads.kind());
  if (call.scale) grads.check_apart(*call.scale, "scale");
  check_place_of_uniforms(uniforms, grads);
  const Device device(*grads.any());
  Tensor result = device.new_float64({});
  auto* square = static_cast<double*>(result.mutable_data_ptr());
  bool add = false;
  for_each_dtype(grads, [&](ScalarType dtype, const std::vector<int64_t>& params, bool) {
    dispatch(dtype, [&](auto tag) {
      using S = typename decltype(tag)::type;
      launch::Plan plan = make_plan<S, Method>(grads, params, coordinates);
      plan.cut_whole(device.processors() * kBlocks<S, Method>);
      const DeviceTable table(device, plan);
      const Tensor partial = device.new_float64({plan.jobs()});
      auto* squares = static_cast<double*>(partial.mutable_data_ptr());
      launch(device, merge_coordinates<S, Method>, {plan.jobs(), kThreads}, table.argument(), method,
             static_cast<int>(T), scale, call.clip_value.value_or(-1.0), call.accumulate, squares);
      launch(device, add_squares, {1, kThreads}, squares, plan.jobs(), square, add);
    });
    add = true;
  });
  if (!add) torch::stable::zero_(result);
  grads.write_back();
  return result;
}

Tensor merge_trimmed_mean(const Call& call, int trim) {
  const auto with = [&](auto rows) { return merge(call, TrimmedMean<decltype(rows)::value>{trim}); };
  const int64_t T = call.tasks();
  if (T <= 4) return with(std::integral_constant<int, 4>{});
  if (T <= 8) return with(std::integral_constant<int, 8>{});
  if (T <= 16) return with(std::integral_constant<int, 16>{});
  if (T <= 32) return with(std::integral_constant<int, 32>{});
  return with(std::integral_constant<int, kMaxTasks>{});
}

}  // namespace

Tensor merge_graddrop_(const std::vector<Tensor>& out, const OptionalTensors& grads, const std::optional<Tensor>& scale,
                       const std::vector<int64_t>& segments, std::optional<double> clip_value, bool accumulate,
                       const std::vector<double>& leak, int64_t seed, int64_t offset,
                       const std::optional<Tensor>& uniforms, const std::vector<int64_t>& first,
                       const std::optional<Tensor>& counter) {
  const Call call{out, grads, scale, segments, clip_value, accumulate};
  check_leak(leak, call.tasks());
  STD_TORCH_CHECK(leak.size() <= kMaxTasks, "T should be between 1 and ", kMaxTasks, ". Found T = ", leak.size(), ".");
  const int64_t* count = read_counter(counter, out);
  GradDrop method{nullptr, false, static_cast<uint64_t>(seed), static_cast<uint64_t>(offset), count, false, {}};
  std::copy(leak.begin(), leak.end(), method.leak);
  method.leaks = std::any_of(leak.begin(), leak.end(), [](double share) { return share != 0; });
  const Coordinates coordinates(out, first);
  if (uniforms) {
    coordinates.check_uniforms(*uniforms);
    method.wide = uniforms->scalar_type() == ScalarType::Double;
    method.uniforms = uniforms->const_data_ptr();
  }
  return merge(call, method, &coordinates, uniforms);
}

Tensor merge_trimmed_mean_(const std::vector<Tensor>& out, const OptionalTensors& grads,
                           const std::optional<Tensor>& scale, const std::vector<int64_t>& segments,
                           std::optional<double> clip_value, bool accumulate, int64_t trim) {
  STD_TORCH_CHECK(trim >= 0, "trim should not be negative. Found ", trim, ".");
  return merge_trimmed_mean({out, grads, scale, segments, clip_value, accumulate},
                            static_cast<int>(std::min(trim, kMaxTasks)));
}

Tensor merge_median_(const std::vector<Tensor>& out, const OptionalTensors& grads, const std::optional<Tensor>& scale,
                     const std::vector<int64_t>& segments, std::optional<double> clip_value, bool accumulate) {
  return merge_trimmed_mean({out, grads, scale, segments, clip_value, accumulate}, kMaxTasks);
}

Tensor merge_sign_agreement_(const std::vector<Tensor>& out, const OptionalTensors& grads,
                             const std::optional<Tensor>& scale, const std::vector<int64_t>& segments,
                             std::optional<double> clip_value, bool accumulate, double tau, bool mean) {
  check_not_negative("tau", tau);
  return merge({out, grads, scale, segments, clip_value, accumulate}, SignAgreement{tau, mean});
}

}  // namespace mtl_ops::cuda

STABLE_TORCH_LIBRARY_IMPL(mtl_ops, CUDA, m) {
  m.impl("merge_graddrop_", TORCH_BOX(&mtl_ops::cuda::merge_graddrop_));
  m.impl("merge_trimmed_mean_", TORCH_BOX(&mtl_ops::cuda::merge_trimmed_mean_));
  m.impl("merge_median_", TORCH_BOX(&mtl_ops::cuda::merge_median_));
  m.impl("merge_sign_agreement_", TORCH_BOX(&mtl_ops::cuda::merge_sign_agreement_));
}
