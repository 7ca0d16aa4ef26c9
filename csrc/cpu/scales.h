// task_scales: what each task's gradient is multiplied with before it is merged; see csrc/solvers/scales.h.
#pragma once

#include <limits>
#include <optional>
#include <vector>

#include "../arguments.h"
#include "../solvers/scales.h"

namespace mtl_ops::cpu {

inline Tensor task_scales(const Tensor& gram, const std::vector<double>& task_weights,
                          std::optional<double> max_task_norm, bool skip_nonfinite, std::optional<Tensor> skipped) {
  const auto [S, T] = GramSizes(gram, kMaxTasks);
  check_not_negative("max_task_norm", max_task_norm);
  STD_TORCH_CHECK(static_cast<int64_t>(task_weights.size()) == S * T, "task_weights should hold ", S * T,
                  " numbers. Found ", task_weights.size(), ".");
  if (skipped) read_array<int64_t>(*skipped, "skipped", T, detail::Kind(gram));
  Tensor result = torch::stable::empty({S, T}, ScalarType::Double);
  const solvers::TaskScales scales{task_weights.data(), max_task_norm.value_or(std::numeric_limits<double>::infinity()),
                                   skip_nonfinite};
  std::vector<double> workspace(solvers::TaskScales::workspace(T));
  solvers::Arena arena(workspace.data());
  scales(solvers::Serial{}, S, T, static_cast<const double*>(gram.const_data_ptr()),
         static_cast<double*>(result.mutable_data_ptr()),
         skipped ? static_cast<int64_t*>(skipped->mutable_data_ptr()) : nullptr, arena);
  return result;
}

}  // namespace mtl_ops::cpu
