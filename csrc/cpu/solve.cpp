// solve_*: from the Gram matrices (S, T, T) and the task scales (S, T) to the weights (S, T), w = s * method(s G s), in float64.
//
// One thread a segment; the mathematics is in csrc/solvers, the same text as on the GPU.
#include "../solvers/linear.h"
#include "../solvers/problem.h"
#include "../solvers/scales.h"
#include "../task_grads.h"

#include <limits>

#include <torch/csrc/stable/library.h>

namespace mtl_ops::cpu {
namespace {

using solvers::Arena;
using solvers::Serial;

struct Sizes {
  int64_t S, T;
};

Sizes check_gram(const Tensor& gram) {
  STD_TORCH_CHECK(gram.dim() == 3 && gram.size(1) == gram.size(2) && gram.scalar_type() == ScalarType::Double &&
                      gram.is_contiguous(),
                  "gram should be a contiguous float64 tensor of shape (S, T, T).");
  STD_TORCH_CHECK(gram.size(1) >= 1 && gram.size(1) <= kMaxTasks, "T should be between 1 and ", kMaxTasks,
                  ". Found T = ", gram.size(1), ".");
  return {gram.size(0), gram.size(1)};
}

// A contiguous float64 (or int64) argument of the given number of elements.
template <class Element>
const Element* check_array(const Tensor& tensor, const char* name, int64_t numel) {
  constexpr ScalarType dtype = std::is_same_v<Element, double> ? ScalarType::Double : ScalarType::Long;
  STD_TORCH_CHECK(tensor.scalar_type() == dtype && tensor.is_contiguous() && tensor.numel() == numel, name,
                  " should be contiguous, ", dtype == ScalarType::Double ? "float64" : "int64", ", of ", numel,
                  " elements.");
  return static_cast<const Element*>(tensor.const_data_ptr());
}

template <class Method>
Tensor solve(const Tensor& gram, const std::optional<Tensor>& scale, const Method& method) {
  const auto [S, T] = check_gram(gram);
  const double* G = static_cast<const double*>(gram.const_data_ptr());
  const double* scales = scale ? check_array<double>(*scale, "scale", S * T) : nullptr;
  Tensor result = torch::stable::empty({S, T}, ScalarType::Double);
  double* out = static_cast<double*>(result.mutable_data_ptr());
  torch::stable::parallel_for(0, S, 1, [&](int64_t begin, int64_t end) {
    std::vector<double> workspace(T + solvers::segment_workspace<Method>(T));
    for (int64_t s = begin; s < end; ++s) {
      solvers::solve_segment(Serial{}, method, s, T, G + s * T * T, scales ? scales + s * T : nullptr, out + s * T,
                             workspace.data());
    }
  });
  return result;
}

}  // namespace

Tensor task_scales(const Tensor& gram, const std::vector<double>& task_weights, std::optional<double> max_task_norm,
                   bool skip_nonfinite, std::optional<Tensor> skipped) {
  const auto [S, T] = check_gram(gram);
  STD_TORCH_CHECK(static_cast<int64_t>(task_weights.size()) == S * T, "task_weights should hold ", S * T,
                  " numbers. Found ", task_weights.size(), ".");
  if (skipped) check_array<int64_t>(*skipped, "skipped", T);
  Tensor result = torch::stable::empty({S, T}, ScalarType::Double);
  const solvers::TaskScales scales{task_weights.data(),
                                   max_task_norm.value_or(std::numeric_limits<double>::infinity()), skip_nonfinite};
  std::vector<double> workspace(solvers::TaskScales::workspace(T));
  Arena arena(workspace.data());
  scales(Serial{}, S, T, static_cast<const double*>(gram.const_data_ptr()),
         static_cast<double*>(result.mutable_data_ptr()),
         skipped ? static_cast<int64_t*>(skipped->mutable_data_ptr()) : nullptr, arena);
  return result;
}

Tensor solve_sum(const Tensor& gram, const std::optional<Tensor>& scale) {
  return solve(gram, scale, solvers::Linear{false});
}

Tensor solve_mean(const Tensor& gram, const std::optional<Tensor>& scale) {
  return solve(gram, scale, solvers::Linear{true});
}

}  // namespace mtl_ops::cpu

STABLE_TORCH_LIBRARY_IMPL(mtl_ops, CPU, m) {
  m.impl("task_scales", TORCH_BOX(&mtl_ops::cpu::task_scales));
  m.impl("solve_sum", TORCH_BOX(&mtl_ops::cpu::solve_sum));
  m.impl("solve_mean", TORCH_BOX(&mtl_ops::cpu::solve_mean));
}
