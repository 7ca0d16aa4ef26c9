// gram: the inner products of the task gradients, G_s[i,j] = sum over the parameters p of segment s of <g_ip, g_jp>.
//
// Who computes what.  The tiles of a segment's columns are dealt out to jobs, a block each (csrc/launch/plan.h).  Up
// to 8 tasks, every thread holds all products of a few columns of all rows in registers (gram_narrow.cuh).  With
// more, a block stages the rows in shared memory and each of its warps holds the products of 8 rows with 8
// (gram_wide.cuh): up to 32 tasks every row is read once; with more, once for every pair of sets of 32, by blocks
// that run side by side, so that all but the first find it in the second-level cache.  (Of float64 gradients: 4 rows
// with 4, and sets of 16.)
//
// Order of accumulation.  A thread's lanes add up float32 products (float64 for float64 gradients), at most
// kFlushProducts each; then a warp adds two and two of its lanes in the same type, and what that gives in float64;
// the warps of a block are added in their order, and the jobs of a segment in theirs.  So the bits depend on the
// shapes, the alignment and the device, and not on what else runs.  Where that is out of the range of float32, all of
// it is float64 (gram_range.cuh).
//
// Tensor cores are not used: they truncate what they add, which biases the norms by more than float32 lanes do.
#include "gram_narrow.cuh"
#include "gram_range.cuh"
#include "gram_wide.cuh"

namespace mtl_ops::cuda {
namespace {

// G[s,i,j] = the sum over the jobs of segment s, a warp each; added to what is there if `add`.
__global__ void __launch_bounds__(kThreads)
    add_jobs(const __grid_constant__ TableArgument argument, int T, const double* partial, double* gram, bool add) {
  const Table table = argument.table();
  const int pairs = launch::pair_count(T), blocks = launch::ceil_div(pairs, kWarps);
  const int segment = blockIdx.x / blocks;
  const int pair = blockIdx.x % blocks * kWarps + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (pair >= pairs) return;
  const int begin = table.runs[segment].first_job, end = table.runs[segment + 1].first_job;
  const double* row = partial + static_cast<int64_t>(pair) * table.runs[table.run_count].first_job;
  double sum = 0;
  for (int job = begin + lane; job < end; job += kWarp) sum += row[job];
  for (int mask = kWarp / 2; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
  if (lane != 0) return;
  const launch::Pair at = launch::pair_at(pair, T);
  double* G = gram + static_cast<int64_t>(segment) * T * T;
  if (add) sum += G[at.i * T + at.j];
  G[at.i * T + at.j] = G[at.j * T + at.i] = sum;
}

// ---- on the host --------------------------------------------------------------------------------------------------

// What is the same for all dtypes of one call.
struct GramCall {
  const Device& device;
  const TaskGrads& grads;
  int T;
  double limit;  // of the elementwise clamp; negative for none
  double* out;   // (S, T, T)
};

launch::Plan make_plan(const GramCall& call, const std::vector<int64_t>& params, int element_size, int width) {
  launch::Plan plan(call.T, element_size, width);
  for (const int64_t p : params) plan.add(call.grads.numel(p), call.grads.segment(p), call.grads.rows(p));
  return plan;
}

// `multiply` launches the kernel that fills partial.
template <class S, class F>
void run_plan(const GramCall& call, const launch::Plan& plan, bool add, F multiply) {
  const DeviceTable table(call.device, plan);
  const int64_t pairs = launch::pair_count(call.T);
  const Tensor partial = call.device.new_float64({pairs * plan.jobs()});
  auto* sums = static_cast<double*>(partial.mutable_data_ptr());
  multiply(table.argument(), sums);
  if constexpr (kNeedsRange<S>) {
    constexpr int64_t words = sizeof(Squares) / sizeof(double);
    const Tensor memory = call.device.new_float64({words * plan.jobs()});
    auto* squares = static_cast<Squares*>(memory.mutable_data_ptr());
    launch(call.device, look_for_range<S>, {plan.jobs(), kThreads}, table.argument(), call.T,
           static_cast<const double*>(sums), squares);
    launch(call.device, mend_range<S>, {plan.jobs(), kThreads}, table.argument(), call.T, call.limit,
           static_cast<const Squares*>(squares), sums);
  }
  const int64_t blocks = call.grads.segments() * launch::ceil_div(static_cast<int>(pairs), kWarps);
  launch(call.device, add_jobs, {blocks, kThreads}, table.argument(), call.T,
         static_cast<const double*>(partial.const_data_ptr()), call.out, add);
}

template <class S, int K>
void run_narrow(const GramCall& call, const std::vector<int64_t>& params, bool add) {
  launch::Plan plan = make_plan(call, params, sizeof(S), Narrow<S, K>::kWidth);
  plan.cut_by_segment(call.grads.segments(), call.device.processors() * kBlocks);
  run_plan<S>(call, plan, add, [&](const TableArgument& table, double* partial) {
    launch(call.device, gram_narrow<S, K>, {plan.jobs(), kThreads}, table, call.T, call.limit, partial);
  });
}

template <class S>
void run_wide(const GramCall& call, const std::vector<int64_t>& params, bool add) {
  const Teams teams{call.T, Wide<S>::kRows};
  const int stages = block_bytes<S>(3, teams.warps()) <= call.device.shared_limit() ? 3 : 2;
  const size_t shared = block_bytes<S>(stages, teams.warps());
  const int64_t blocks = call.device.processors() * teams.blocks(shared, call.device.shared_of_processor());
  // Blocks of different kinds take different times: more of them than run at once even that out.
  const int64_t jobs = teams.kinds() == 1 ? blocks : std::max<int64_t>(1, 4 * blocks / teams.kinds());
  launch::Plan plan = make_plan(call, params, sizeof(S), teams.steps() * Wide<S>::kStep);
  plan.cut_by_segment(call.grads.segments(), jobs);
  run_plan<S>(call, plan, add, [&](const TableArgument& table, double* partial) {
    launch(call.device, gram_wide<S>, {plan.jobs() * teams.kinds(), teams.warps() * kWarp, shared}, table, teams,
           stages, call.limit, partial);
  });
}

}  // namespace

Tensor gram(const OptionalTensors& tensors, int64_t T, const std::vector<int64_t>& segments,
            std::optional<double> clip_value) {
  check_not_negative("clip_value", clip_value);
  const TaskGrads grads(tensors, {T, kMaxTasks}, segments);
  STD_TORCH_CHECK(grads.any(), "at least one task should have a gradient. Found none.");
  const Device device(*grads.any());
  Tensor result = grads.new_float64({grads.segments(), T, T});
  const GramCall call{device, grads, static_cast<int>(T), clip_value.value_or(-1.0),
                      static_cast<double*>(result.mutable_data_ptr())};
  bool add = false;
  for_each_dtype(grads, [&](ScalarType dtype, const std::vector<int64_t>& params) {
    dispatch(dtype, [&](auto tag) {
      using S = typename decltype(tag)::type;
      if (T <= 2) {
        run_narrow<S, 2>(call, params, add);
      } else if (T <= 4) {
        run_narrow<S, 4>(call, params, add);
      } else if (T <= kNarrow) {
        run_narrow<S, kNarrow>(call, params, add);
      } else {
        run_wide<S>(call, params, add);
      }
    });
    add = true;
  });
  if (!add) torch::stable::zero_(result);
  return result;
}

}  // namespace mtl_ops::cuda

STABLE_TORCH_LIBRARY_IMPL(mtl_ops, CUDA, m) { m.impl("gram", TORCH_BOX(&mtl_ops::cuda::gram)); }
