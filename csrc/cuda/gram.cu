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
// shapes, the alignment and the device, and not on what else runs.  Where a job's share is out of the range of float32,
// all of it is float64 (gram_range.cuh).
//
// Launches: one fills the sums of the jobs (two of more than 8 tasks in float32 or bfloat16), and one adds them up; that
// makes the task scales, too, where one block is enough for it.
//
// Tensor cores are not used: they truncate what they add, which biases the norms by more than float32 lanes do.
#include "gram_narrow.cuh"
#include "gram_range.cuh"
#include "gram_wide.cuh"
#include "scales.cuh"

namespace mtl_ops::cuda {
namespace {

// What one block adds up about as quickly as many do: sums of jobs, and entries of G.
constexpr int64_t kOneBlockSums = 32768, kOneBlockEntries = 128;

// How the partial sums of one launch are added up: into gram (S, T, T), or on top of what is there if `add`.
struct Sums {
  Payload runs;  // S + 1 of them
  int S, T;
  const double* partial;  // (pairs, jobs)
  double* gram;
  bool add;

  /// G[s,i,j] = the sum over the jobs of segment s, by one warp, for the k-th of the segments' pairs.
  __device__ void add_up(int k) const {
    const auto* run = reinterpret_cast<const launch::Run*>(runs.data());
    const int pairs = launch::pair_count(T), lane = threadIdx.x % kWarp;
    const int segment = k / pairs, pair = k % pairs;
    const int begin = run[segment].first_job, end = run[segment + 1].first_job;
    const double* row = partial + static_cast<int64_t>(pair) * run[S].first_job;
    double sum = 0;
    for (int job = begin + lane; job < end; job += kWarp) sum += row[job];
    for (int mask = kWarp / 2; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
    if (lane != 0) return;
    const launch::Pair at = launch::pair_at(pair, T);
    double* G = gram + static_cast<int64_t>(segment) * T * T;
    if (add) sum += G[at.i * T + at.j];
    G[at.i * T + at.j] = G[at.j * T + at.i] = sum;
  }
};

__global__ void __launch_bounds__(kThreads) add_jobs(const __grid_constant__ Sums sums) {
  const int k = blockIdx.x * kWarps + threadIdx.x / kWarp;
  if (k < sums.S * launch::pair_count(sums.T)) sums.add_up(k);
}

// The same, and the task scales of what comes out.  One block.
__global__ void __launch_bounds__(kScaleThreads)
    add_jobs_and_scale(const __grid_constant__ Sums sums, const __grid_constant__ ScaleArguments scales) {
  for (int k = threadIdx.x / kWarp; k < sums.S * launch::pair_count(sums.T); k += kScaleThreads / kWarp) sums.add_up(k);
  __syncthreads();
  scales.run(sums.S, sums.T, sums.gram);
}

__global__ void __launch_bounds__(kScaleThreads)
    scale_tasks(const __grid_constant__ ScaleArguments scales, int S, int T, const double* gram) {
  scales.run(S, T, gram);
}

// ---- on the host --------------------------------------------------------------------------------------------------

// What the task scales are asked for, checked, and where they go.
class Scales {
 public:
  Scales(const Device& device, const ScaleRules& rules, int64_t S, int64_t T)
      : result_(device.new_float64({S, T})),
        weights_(device, rules.weights(S, T).data(), rules.task_weights.size() * sizeof(double)) {
    argument_ = {weights_.argument(), rules.most(), rules.skip_nonfinite,
                 static_cast<double*>(result_.mutable_data_ptr()), rules.skipped_at(T, device.kind())};
  }

  const ScaleArguments& argument() const { return argument_; }
  const Tensor& result() const { return result_; }

 private:
  Tensor result_;
  DevicePayload weights_;
  ScaleArguments argument_;
};

// What is the same for all dtypes of one call.
struct GramCall {
  const Device& device;
  const TaskGrads& grads;
  int T;
  double limit;          // of the elementwise clamp; negative for none
  double* out;           // (S, T, T)
  const Scales* scales;  // to make of it, or null
};

// Which of the launches for one dtype after the other it is.
struct Turn {
  bool first, last;
};

launch::Plan make_plan(const GramCall& call, const std::vector<int64_t>& params, int element_size, int width) {
  launch::Plan plan(call.T, element_size, width);
  for (const int64_t p : params) plan.add(call.grads.numel(p), call.grads.segment(p), call.grads.rows(p));
  return plan;
}

void scale(const GramCall& call) {
  launch(call.device, scale_tasks, {1, kScaleThreads}, call.scales->argument(), static_cast<int>(call.grads.segments()),
         call.T, static_cast<const double*>(call.out));
}

void add_up(const GramCall& call, const launch::Plan& plan, const double* partial, Turn turn) {
  const auto& runs = plan.runs();
  const DevicePayload payload(call.device, runs.data(), runs.size() * sizeof(launch::Run));
  const Sums sums{payload.argument(), static_cast<int>(call.grads.segments()), call.T, partial, call.out, !turn.first};
  const int64_t rows = call.grads.segments() * launch::pair_count(call.T);
  const bool scale_now = turn.last && call.scales != nullptr;
  if (scale_now && rows <= kOneBlockEntries && rows * plan.jobs() <= kOneBlockSums) {
    return launch(call.device, add_jobs_and_scale, {1, kScaleThreads}, sums, call.scales->argument());
  }
  launch(call.device, add_jobs, {(rows + kWarps - 1) / kWarps, kThreads}, sums);
  if (scale_now) scale(call);
}

// `multiply` launches the kernel that fills partial.
template <class F>
void run_plan(const GramCall& call, const launch::Plan& plan, Turn turn, F multiply) {
  const Tensor partial = call.device.new_float64({launch::pair_count(call.T) * static_cast<int64_t>(plan.jobs())});
  auto* sums = static_cast<double*>(partial.mutable_data_ptr());
  multiply(sums);
  add_up(call, plan, sums, turn);
}

template <class S, int K>
void run_narrow(const GramCall& call, const std::vector<int64_t>& params, Turn turn) {
  launch::Plan plan = make_plan(call, params, sizeof(S), Narrow<S, K>::kWidth);
  plan.cut_by_segment(call.grads.segments(), call.device.processors() * kBlocks);
  run_plan(call, plan, turn, [&](double* partial) {
    with_table<K == kNarrow>(call.device, plan, [&](const auto& table) {
      using Argument = std::decay_t<decltype(table)>;
      launch(call.device, gram_narrow<S, K, Argument>, {plan.jobs(), kThreads}, table, call.T, call.limit, partial);
    });
  });
}

template <class S>
void run_wide(const GramCall& call, const std::vector<int64_t>& params, Turn turn) {
  const Teams teams{call.T, Wide<S>::kRows};
  const int stages = block_bytes<S>(3, teams.warps()) <= call.device.shared_limit() ? 3 : 2;
  const size_t shared = block_bytes<S>(stages, teams.warps());
  const int64_t blocks = call.device.processors() * teams.blocks(shared, call.device.shared_of_processor());
  // Blocks of different kinds take different times: more of them than run at once even that out.
  const int64_t jobs = teams.kinds() == 1 ? blocks : std::max<int64_t>(1, 4 * blocks / teams.kinds());
  launch::Plan plan = make_plan(call, params, sizeof(S), teams.steps() * Wide<S>::kStep);
  plan.cut_by_segment(call.grads.segments(), jobs);
  run_plan(call, plan, turn, [&](double* partial) {
    const DeviceTable table(call.device, plan);
    launch(call.device, gram_wide<S>, {plan.jobs() * teams.kinds(), teams.warps() * kWarp, shared}, table.argument(),
           teams, stages, call.limit, partial);
    if constexpr (kNeedsRange<S>) {
      launch(call.device, mend_jobs<S>, {plan.jobs(), kThreads}, table.argument(), call.T, call.limit, partial);
    }
  });
}

void measure(const GramCall& call) {
  bool any = false;
  for_each_dtype(call.grads, [&](ScalarType dtype, const std::vector<int64_t>& params, bool last) {
    const Turn turn{!any, last};
    dispatch(dtype, [&](auto tag) {
      using S = typename decltype(tag)::type;
      if (call.T <= 2) {
        run_narrow<S, 2>(call, params, turn);
      } else if (call.T <= 4) {
        run_narrow<S, 4>(call, params, turn);
      } else if (call.T <= kNarrow) {
        run_narrow<S, kNarrow>(call, params, turn);
      } else {
        run_wide<S>(call, params, turn);
      }
    });
    any = true;
  });
}

// The Gram matrices, and the task scales that follow from them, if there are any rules.
std::pair<Tensor, std::optional<Tensor>> gram_of(const OptionalTensors& tensors, int64_t T,
                                                 const std::vector<int64_t>& segments, std::optional<double> clip_value,
                                                 const ScaleRules* rules) {
  check_not_negative("clip_value", clip_value);
  const TaskGrads grads(tensors, {T, kMaxTasks}, segments);
  STD_TORCH_CHECK(grads.any(), "at least one task should have a gradient. Found none.");
  const Device device(*grads.any());
  Tensor result = grads.new_float64({grads.segments(), T, T});
  std::optional<Scales> scales;
  if (rules != nullptr) scales.emplace(device, *rules, grads.segments(), T);
  const GramCall call{device,
                      grads,
                      static_cast<int>(T),
                      clip_value.value_or(-1.0),
                      static_cast<double*>(result.mutable_data_ptr()),
                      scales ? &*scales : nullptr};
  if (grads.has_elements()) {
    measure(call);
  } else {
    torch::stable::zero_(result);
    if (scales) scale(call);
  }
  if (!scales) return {result, std::nullopt};
  return {result, scales->result()};
}

}  // namespace

Tensor gram(const OptionalTensors& tensors, int64_t T, const std::vector<int64_t>& segments,
            std::optional<double> clip_value) {
  return gram_of(tensors, T, segments, clip_value, nullptr).first;
}

std::tuple<Tensor, Tensor> gram_and_scales(const OptionalTensors& tensors, int64_t T,
                                           const std::vector<int64_t>& segments, std::optional<double> clip_value,
                                           const std::vector<double>& task_weights, std::optional<double> max_task_norm,
                                           bool skip_nonfinite, std::optional<Tensor> skipped) {
  const ScaleRules rules{task_weights, max_task_norm, skip_nonfinite, skipped};
  const auto [gram, scales] = gram_of(tensors, T, segments, clip_value, &rules);
  return {gram, *scales};
}

Tensor task_scales(const Tensor& gram, const std::vector<double>& task_weights, std::optional<double> max_task_norm,
                   bool skip_nonfinite, std::optional<Tensor> skipped) {
  const GramSizes sizes(gram, kMaxTasks);
  const Device device(gram);
  const Scales scales(device, {task_weights, max_task_norm, skip_nonfinite, skipped}, sizes.S, sizes.T);
  launch(device, scale_tasks, {1, kScaleThreads}, scales.argument(), static_cast<int>(sizes.S),
         static_cast<int>(sizes.T), static_cast<const double*>(gram.const_data_ptr()));
  return scales.result();
}

}  // namespace mtl_ops::cuda

STABLE_TORCH_LIBRARY_IMPL(mtl_ops, CUDA, m) {
  m.impl("gram", TORCH_BOX(&mtl_ops::cuda::gram));
  m.impl("gram_and_scales", TORCH_BOX(&mtl_ops::cuda::gram_and_scales));
  m.impl("task_scales", TORCH_BOX(&mtl_ops::cuda::task_scales));
}
