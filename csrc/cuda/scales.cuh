// task_scales: what each task's gradient is multiplied with before it is merged; see csrc/solvers/scales.h.
//
// Who computes what: one block.  A warp adds up a task's norm over the segments, its lanes taking every 32nd; then the
// threads fill the scales.
#pragma once

#include "../solvers/scales.h"
#include "launch.cuh"

namespace mtl_ops::cuda {

constexpr int kScaleThreads = 1024;

// What the kernel is told.
struct ScaleArguments {
  Payload task_weights;  // (S, T)
  double max_task_norm;
  bool skip_nonfinite;
  double* out;       // (S, T)
  int64_t* skipped;  // (T,), or null

  /// By all threads of a block.
  __device__ void run(int S, int T, const double* gram) const {
    __shared__ double factors[kMaxTasks];
    __shared__ int present[kMaxTasks];
    __shared__ int broken[kMaxTasks];
    const auto* weights = reinterpret_cast<const double*>(task_weights.data());
    const solvers::TaskScales scales{weights, max_task_norm, skip_nonfinite};
    const int lane = threadIdx.x % kWarp;
    for (int t = threadIdx.x / kWarp; t < T; t += kScaleThreads / kWarp) {
      double square = 0;
      bool any = false;
      for (int s = lane; s < S; s += kWarp) {
        if (weights[s * T + t] == 0) continue;
        any = true;
        square += gram[(static_cast<int64_t>(s) * T + t) * T + t];
      }
      for (int mask = kWarp / 2; mask > 0; mask /= 2) square += __shfl_xor_sync(0xffffffffu, square, mask);
      any = __ballot_sync(0xffffffffu, any) != 0;
      if (lane != 0) continue;
      present[t] = any;
      broken[t] = any && !solvers::finite(square);
      factors[t] = scales.factor(square);
      if (skipped != nullptr && broken[t]) ++skipped[t];
    }
    __syncthreads();
    bool skip = false;  // unless no other task is left
    for (int t = 0; t < T && skip_nonfinite; ++t) skip = skip || (present[t] && !broken[t]);
    for (int at = threadIdx.x; at < S * T; at += kScaleThreads) {
      const int t = at % T;
      out[at] = weights[at] == 0 || (skip && broken[t]) ? 0.0 : weights[at] * factors[t];
    }
  }
};

// What the operator is told.
struct ScaleRules {
  const std::vector<double>& task_weights;
  std::optional<double> max_task_norm;
  bool skip_nonfinite;
  std::optional<Tensor> skipped;

  /// The weights, checked.
  const std::vector<double>& weights(int64_t S, int64_t T) const {
    STD_TORCH_CHECK(static_cast<int64_t>(task_weights.size()) == S * T, "task_weights should hold ", S * T,
                    " numbers. Found ", task_weights.size(), ".");
    check_not_negative("max_task_norm", max_task_norm);
    return task_weights;
  }

  double most() const { return max_task_norm.value_or(std::numeric_limits<double>::infinity()); }

  int64_t* skipped_at(int64_t T, const detail::Kind& like) const {
    if (!skipped) return nullptr;
    read_array<int64_t>(*skipped, "skipped", T, like);
    return static_cast<int64_t*>(Tensor(*skipped).mutable_data_ptr());
  }
};

}  // namespace mtl_ops::cuda
