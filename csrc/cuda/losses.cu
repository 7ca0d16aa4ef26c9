// weigh_*: from the losses (T,) to the weights of the tasks, for methods that need no gradient; in float64.
//
// One warp; the mathematics is in csrc/solvers/losses.h, the same text as on the CPU.
#include "../solvers/losses.h"
#include "launch.cuh"

namespace mtl_ops::cuda {
namespace {

template <class Method>
__global__ void __launch_bounds__(kWarp, 1) weigh_tasks(Method method, int T, const double* losses, double* out) {
  solvers::Arena arena(shared_memory<double>());
  method(solvers::Warp{}, T, losses, out, arena);
}

template <class Method>
Tensor weigh(const LossArguments& args, const Method& method) {
  const Device device(args.tensor);
  const int T = static_cast<int>(args.T);
  Tensor result = Method::kRows == 1 ? device.new_float64({T}) : device.new_float64({Method::kRows, T});
  launch(device, weigh_tasks<Method>, {1, kWarp, sizeof(double) * Method::workspace(T)}, method, T, args.losses,
         static_cast<double*>(result.mutable_data_ptr()));
  return result;
}

}  // namespace

Tensor weigh_famo(const Tensor& losses, Tensor logits, Tensor adam, Tensor before, const std::optional<Tensor>& least,
                  double lr, double weight_decay, bool improve, bool after) {
  const LossArguments args(losses, kMaxTasks);
  return weigh(args,
               solvers::Famo{args.state("logits", logits), args.state("adam", adam, 3), args.state("before", before),
                             args.numbers("least", least), lr, weight_decay, improve, after});
}

Tensor weigh_dwa(const Tensor& losses, Tensor means, Tensor sums, Tensor counts, Tensor calls, double temperature,
                 int64_t window) {
  const LossArguments args(losses, kMaxTasks);
  return weigh(args, solvers::Dwa{args.state("means", means, 2), args.state("sums", sums), args.state("counts", counts),
                                  args.count("calls", calls), temperature, check_count("window", window)});
}

Tensor weigh_geometric(const Tensor& losses) { return weigh(LossArguments(losses, kMaxTasks), solvers::Geometric{}); }

Tensor weigh_stch(const Tensor& losses, const std::optional<Tensor>& preference, const std::optional<Tensor>& reference,
                  double mu, bool logarithmic) {
  const LossArguments args(losses, kMaxTasks);
  return weigh(args, solvers::Stch{args.numbers("preference", preference), args.numbers("reference", reference), mu,
                                   logarithmic});
}

Tensor weigh_softadapt(const Tensor& losses, Tensor recent, double beta, int64_t variant, int64_t order) {
  const LossArguments args(losses, kMaxTasks);
  STD_TORCH_CHECK(variant >= 0 && variant <= 2, "variant should be 0, 1 or 2. Found ", variant, ".");
  const int places = check_count("order", order, 1);
  return weigh(args, solvers::SoftAdapt{args.state("recent", recent, int64_t{places} + 1), places, beta,
                                        static_cast<solvers::SoftAdapt::Variant>(variant)});
}

Tensor weigh_relobralo(const Tensor& losses, Tensor balance, Tensor initial, Tensor previous, const Tensor& drawn,
                       double alpha, double rho, double temperature) {
  const LossArguments args(losses, kMaxTasks);
  return weigh(
      args, solvers::ReLoBRaLo{args.state("balance", balance), args.state("initial", initial),
                               args.state("previous", previous), args.number("drawn", drawn), alpha, rho, temperature});
}

Tensor weigh_ldc_mtl(const Tensor& losses, const Tensor& scales, std::optional<Tensor> initial, double lam) {
  const LossArguments args(losses, kMaxTasks);
  return weigh(
      args, solvers::LdcMtl{args.numbers("scales", scales), initial ? args.state("initial", *initial) : nullptr, lam});
}

Tensor weigh_log_scales(const Tensor& losses, const Tensor& scales, double factor, double rate) {
  const LossArguments args(losses, kMaxTasks);
  return weigh(args, solvers::LogScales{args.numbers("scales", scales), factor, rate});
}

}  // namespace mtl_ops::cuda

STABLE_TORCH_LIBRARY_IMPL(mtl_ops, CUDA, m) {
  m.impl("weigh_famo", TORCH_BOX(&mtl_ops::cuda::weigh_famo));
  m.impl("weigh_dwa", TORCH_BOX(&mtl_ops::cuda::weigh_dwa));
  m.impl("weigh_geometric", TORCH_BOX(&mtl_ops::cuda::weigh_geometric));
  m.impl("weigh_stch", TORCH_BOX(&mtl_ops::cuda::weigh_stch));
  m.impl("weigh_log_scales", TORCH_BOX(&mtl_ops::cuda::weigh_log_scales));
  m.impl("weigh_softadapt", TORCH_BOX(&mtl_ops::cuda::weigh_softadapt));
  m.impl("weigh_relobralo", TORCH_BOX(&mtl_ops::cuda::weigh_relobralo));
  m.impl("weigh_ldc_mtl", TORCH_BOX(&mtl_ops::cuda::weigh_ldc_mtl));
}
