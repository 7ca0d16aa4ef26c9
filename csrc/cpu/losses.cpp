// weigh_*: from the losses (T,) to the weights of the tasks, for methods that need no gradient; in float64.
//
// One thread; the mathematics is in csrc/solvers/losses.h, the same text as on the GPU.
#include <torch/csrc/stable/library.h>

#include <vector>

#include "../loss_operators.h"

namespace mtl_ops::cpu {
namespace {

struct Thread {
  static constexpr int64_t kMostTasks = kMaxTasks;

  template <class Method>
  static Tensor weigh(const LossArguments& args, const Method& method) {
    const int64_t T = args.T;
    Tensor result = Method::kRows == 1 ? torch::stable::empty({T}, ScalarType::Double)
                                       : torch::stable::empty({Method::kRows, T}, ScalarType::Double);
    std::vector<double> workspace(Method::workspace(static_cast<int>(T)));
    solvers::Arena arena(workspace.data());
    method(solvers::Serial{}, static_cast<int>(T), args.losses, static_cast<double*>(result.mutable_data_ptr()), arena);
    return result;
  }
};

}  // namespace
}  // namespace mtl_ops::cpu

STABLE_TORCH_LIBRARY_IMPL(mtl_ops, CPU, m) { mtl_ops::LossOperators<mtl_ops::cpu::Thread>::implement(m); }
