// weigh_*: from the losses (T,) to the weights of the tasks, for methods that need no gradient; in float64.
//
// One warp; the mathematics is in csrc/solvers/losses.h, the same text as on the CPU.
#include "../loss_operators.h"
#include "launch.cuh"

namespace mtl_ops::cuda {
namespace {

template <class Method>
__global__ void __launch_bounds__(kWarp, 1) weigh_tasks(Method method, int T, const double* losses, double* out) {
  solvers::Arena arena(shared_memory<double>());
  method(solvers::Warp{}, T, losses, out, arena);
}

struct OneWarp {
  static constexpr int64_t kMostTasks = kMaxTasks;

  template <class Method>
  static Tensor weigh(const LossArguments& args, const Method& method) {
    const Device device(args.tensor);
    const int T = static_cast<int>(args.T);
    Tensor result = Method::kRows == 1 ? device.new_float64({T}) : device.new_float64({Method::kRows, T});
    launch(device, weigh_tasks<Method>, {1, kWarp, sizeof(double) * Method::workspace(T)}, method, T, args.losses,
           static_cast<double*>(result.mutable_data_ptr()));
    return result;
  }
};

}  // namespace
}  // namespace mtl_ops::cuda

STABLE_TORCH_LIBRARY_IMPL(mtl_ops, CUDA, m) { mtl_ops::LossOperators<mtl_ops::cuda::OneWarp>::implement(m); }
