// solve_*: from the Gram matrices (S, T, T) and the task scales (S, T) to the weights (S, T), w = s * method(s G s),
// in float64.
//
// One warp a segment, its workspace in shared memory; the mathematics is in csrc/solvers, the same text as on the
// CPU.  UPGrad's T problems get a warp each, of one block where it has room for all.
#include <limits>

#include "../solvers/aligned.h"
#include "../solvers/cagrad.h"
#include "../solvers/conicgrad.h"
#include "../solvers/dual_cone.h"
#include "../solvers/equal_angle.h"
#include "../solvers/gradops.h"
#include "../solvers/krum.h"
#include "../solvers/linear.h"
#include "../solvers/mgda.h"
#include "../solvers/newton.h"
#include "../solvers/pcd.h"
#include "../solvers/preference.h"
#include "../solvers/problem.h"
#include "../solvers/sharing.h"
#include "../solvers/simplex.h"
#include "../solvers/surgery.h"
#include "launch.cuh"

namespace mtl_ops::cuda {
namespace {

using solvers::Arena;
using solvers::Warp;

// ---- kernels ------------------------------------------------------------------------------------------------------

template <class Method>
__global__ void __launch_bounds__(kWarp, 1)
    solve_segments(Method method, int T, const double* gram, const double* scale, double* out) {
  const int64_t s = blockIdx.x;
  solvers::solve_segment(Warp{}, method, static_cast<int>(s), T, gram + s * T * T,
                         scale != nullptr ? scale + s * T : nullptr, out + s * T, shared_memory<double>());
}

// UPGrad of which a single task is preferred: one term of the sum.
struct UpGradTerm {
  solvers::UpGrad method;
  int task;

  MTL_HD static constexpr int workspace(int T) { return T + solvers::UpGrad::workspace(T); }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const solvers::Problem& problem, double* w, Arena& arena) const {
    const solvers::DualCone cone = method.cone;
    const int mine = task;
    double* preference = arena.reals(problem.total);
    solvers::each(lanes, problem.total, [=](int t) { preference[t] = 0.0; });
    solvers::each(lanes, problem.count, [=](int i) {
      if (problem.tasks[i] == mine) preference[mine] = cone.preferred(problem, i);
    });
    solvers::UpGrad single = method;
    single.cone.preference = preference;
    single(lanes, problem, w, arena);
  }
};

constexpr int kTermWarps = 8;  // whose workspaces, and registers, one block has room for

// out (S, T), for one segment: by all threads of a block.
__device__ void sum_segment(int64_t s, int T, const double* terms, double* out) {
  for (int t = threadIdx.x; t < T; t += blockDim.x) {
    double sum = 0;
    for (int term = 0; term < T; ++term) sum += terms[(s * T + term) * T + t];
    out[s * T + t] = sum;
  }
}

// terms (S, T, T): term t of segment s, a warp each; and their sums, if a block has all terms of a segment.
__global__ void __launch_bounds__(kTermWarps* kWarp, 1)
    solve_terms(solvers::UpGrad method, int T, const double* gram, const double* scale, double* terms, double* out) {
  const int warps = blockDim.x / kWarp, warp = threadIdx.x / kWarp;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * warps + warp, s = at / T;
  double* workspace = shared_memory<double>() + warp * (T + solvers::segment_workspace<UpGradTerm>(T));
  solvers::solve_segment(Warp{}, UpGradTerm{method, static_cast<int>(at % T)}, static_cast<int>(s), T, gram + s * T * T,
                         scale != nullptr ? scale + s * T : nullptr, terms + at * T, workspace);
  if (warps != T) return;
  __syncthreads();
  sum_segment(s, T, terms, out);
}

__global__ void __launch_bounds__(kMaxTasks) sum_terms(int T, const double* terms, double* out) {
  sum_segment(blockIdx.x, T, terms, out);
}

// ---- arguments ----------------------------------------------------------------------------------------------------

// The Gram matrices, checked, and where they are.
struct Segments {
  Device device;
  int S, T;
  const double* gram;

  explicit Segments(const Tensor& tensor) : device(tensor), S(0), T(0) {
    const GramSizes sizes(tensor, kMaxTasks);
    S = static_cast<int>(sizes.S);
    T = static_cast<int>(sizes.T);
    gram = static_cast<const double*>(tensor.const_data_ptr());
  }

  // A contiguous float64 (or int64) argument of the given number of elements, on the same device.
  template <class Element>
  const Element* array(const Tensor& tensor, const char* name, int64_t numel) const {
    return read_array<Element>(tensor, name, numel, device.kind());
  }

  const double* scale(const std::optional<Tensor>& tensor) const {
    return tensor ? array<double>(*tensor, "scale", static_cast<int64_t>(S) * T) : nullptr;
  }

  const double* preference(const std::optional<Tensor>& tensor) const {
    return tensor ? array<double>(*tensor, "preference", T) : nullptr;
  }

  solvers::Wishes wishes(const Tensor& losses, const std::optional<Tensor>& given) const {
    return {array<double>(losses, "losses", T), preference(given)};
  }

  // What a method remembers of each segment's tasks, to be changed in place.
  double* state(Tensor& tensor, int64_t numbers_per_task = 1) const {
    array<double>(tensor, "state", static_cast<int64_t>(S) * T * numbers_per_task);
    return static_cast<double*>(tensor.mutable_data_ptr());
  }

  solvers::Orders orders(const Tensor& tensor) const {
    const int length = orders_length(tensor);
    return {array<int64_t>(tensor, "orders", static_cast<int64_t>(S) * T * length), length};
  }
};

template <class Method>
size_t workspace_bytes(int T) {
  return sizeof(double) * (T + solvers::segment_workspace<Method>(T));
}

template <class Method>
Tensor solve(const Segments& segments, const std::optional<Tensor>& scale, const Method& method) {
  const double* scales = segments.scale(scale);
  Tensor result = segments.device.new_float64({segments.S, segments.T});
  if (segments.S == 0) return result;
  launch(segments.device, solve_segments<Method>, {segments.S, kWarp, workspace_bytes<Method>(segments.T)}, method,
         segments.T, segments.gram, scales, static_cast<double*>(result.mutable_data_ptr()));
  return result;
}

}  // namespace

Tensor solve_sum(const Tensor& gram, const std::optional<Tensor>& scale) {
  return solve(Segments(gram), scale, solvers::Linear{false});
}

Tensor solve_mean(const Tensor& gram, const std::optional<Tensor>& scale) {
  return solve(Segments(gram), scale, solvers::Linear{true});
}

Tensor solve_pcgrad(const Tensor& gram, const std::optional<Tensor>& scale, const Tensor& orders, bool mean) {
  const Segments segments(gram);
  return solve(segments, scale, solvers::PcGrad{segments.orders(orders), mean});
}

Tensor solve_gradvac(const Tensor& gram, const std::optional<Tensor>& scale, const Tensor& orders, Tensor rho,
                     double beta, double eps, double tol) {
  const Segments segments(gram);
  double* state = segments.state(rho, segments.T);
  return solve(segments, scale, solvers::GradVac{segments.orders(orders), state, beta, eps, tol});
}

Tensor solve_adaptive_sharing(const Tensor& gram, const std::optional<Tensor>& scale, Tensor cosines, double beta) {
  const Segments segments(gram);
  return solve(segments, scale, solvers::AdaptiveSharing{segments.state(cosines, segments.T), beta});
}

Tensor solve_mgda(const Tensor& gram, const std::optional<Tensor>& scale, const std::optional<Tensor>& min_weights) {
  const Segments segments(gram);
  const double* least = min_weights ? segments.array<double>(*min_weights, "min_weights", segments.T) : nullptr;
  return solve(segments, scale, solvers::MgdaAbove{least});
}

Tensor solve_mgda_frank_wolfe(const Tensor& gram, const std::optional<Tensor>& scale, double epsilon,
                              int64_t max_iters) {
  return solve(Segments(gram), scale, solvers::MgdaFrankWolfe{epsilon, check_count("max_iters", max_iters)});
}

Tensor solve_online_pcgrad(const Tensor& gram, const std::optional<Tensor>& scale, const Tensor& order) {
  const Segments segments(gram);
  const int64_t count = static_cast<int64_t>(segments.S) * segments.T;
  return solve(segments, scale, solvers::OnlinePcGrad{segments.array<int64_t>(order, "order", count)});
}

Tensor solve_conicgrad(const Tensor& gram, const std::optional<Tensor>& scale, double c) {
  return solve(Segments(gram), scale, solvers::ConicGrad{c});
}

Tensor solve_gradops(const Tensor& gram, const std::optional<Tensor>& scale, double alpha, bool project_all,
                     std::optional<double> rank_tol, double rounding) {
  return solve(Segments(gram), scale, solvers::GradOps{alpha, project_all, {rank_tol.value_or(-1.0), rounding}});
}

Tensor solve_dibs_mtl(const Tensor& gram, const std::optional<Tensor>& scale, int64_t steps, double step) {
  return solve(Segments(gram), scale, solvers::DibsMtl{check_count("steps", steps, 1), step});
}

Tensor solve_epo(const Tensor& gram, const std::optional<Tensor>& scale, const Tensor& losses,
                 const std::optional<Tensor>& preference, double tol, bool relax) {
  const Segments segments(gram);
  return solve(segments, scale, solvers::Epo{segments.wishes(losses, preference), tol, relax});
}

Tensor solve_pmgda(const Tensor& gram, const std::optional<Tensor>& scale, const Tensor& losses,
                   const std::optional<Tensor>& preference, double h_tol, double sigma) {
  const Segments segments(gram);
  return solve(segments, scale, solvers::Pmgda{segments.wishes(losses, preference), h_tol, sigma});
}

Tensor solve_ferero(const Tensor& gram, const std::optional<Tensor>& scale, const Tensor& losses,
                    const std::optional<Tensor>& preference, double kappa, double rounding) {
  const Segments segments(gram);
  return solve(segments, scale, solvers::Ferero{segments.wishes(losses, preference), kappa, rounding});
}

Tensor solve_cagrad(const Tensor& gram, const std::optional<Tensor>& scale, double c, int64_t rescale,
                    double norm_eps) {
  return solve(Segments(gram), scale, solvers::CaGrad{c, check_count("rescale", rescale), norm_eps});
}

Tensor solve_upgrad(const Tensor& gram, const std::optional<Tensor>& scale, const std::optional<Tensor>& preference,
                    bool scale_rows, std::optional<double> reg_eps, double norm_eps, double rounding) {
  const Segments segments(gram);
  const int S = segments.S, T = segments.T;
  const double* scales = segments.scale(scale);
  const solvers::UpGrad method{
      {segments.preference(preference), scale_rows, reg_eps.value_or(-1.0), norm_eps, rounding}};
  const Tensor terms = segments.device.new_float64({S, T, T});
  Tensor result = segments.device.new_float64({S, T});
  if (S == 0) return result;
  auto* term = static_cast<double*>(terms.mutable_data_ptr());
  auto* sums = static_cast<double*>(result.mutable_data_ptr());
  const int warps = T <= kTermWarps ? T : 1;
  const int64_t blocks = static_cast<int64_t>(S) * T / warps;
  launch(segments.device, solve_terms, {blocks, warps * kWarp, warps * workspace_bytes<UpGradTerm>(T)}, method, T,
         segments.gram, scales, term, sums);
  if (warps != T) launch(segments.device, sum_terms, {S, static_cast<int>(kMaxTasks)}, T, term, sums);
  return result;
}

Tensor solve_dualproj(const Tensor& gram, const std::optional<Tensor>& scale, const std::optional<Tensor>& preference,
                      bool scale_rows, std::optional<double> reg_eps, double norm_eps, double rounding) {
  const Segments segments(gram);
  const solvers::DualCone cone{segments.preference(preference), scale_rows, reg_eps.value_or(-1.0), norm_eps, rounding};
  return solve(segments, scale, solvers::DualProj{cone});
}

Tensor solve_pcd(const Tensor& gram, const std::optional<Tensor>& scale, Tensor state, double tau, double beta,
                 double eps) {
  const Segments segments(gram);
  return solve(segments, scale, solvers::Pcd{segments.state(state, 2), tau, beta, eps});
}

Tensor solve_imtl_g(const Tensor& gram, const std::optional<Tensor>& scale, bool avoid_ascent,
                    std::optional<double> rank_tol, double rounding) {
  return solve(Segments(gram), scale, solvers::ImtlG{avoid_ascent, {rank_tol.value_or(-1.0), rounding}});
}

Tensor solve_config(const Tensor& gram, const std::optional<Tensor>& scale, const std::optional<Tensor>& preference,
                    std::optional<double> rank_tol, double rounding) {
  const Segments segments(gram);
  return solve(segments, scale, solvers::Config{segments.preference(preference), {rank_tol.value_or(-1.0), rounding}});
}

Tensor solve_aligned_mtl(const Tensor& gram, const std::optional<Tensor>& scale,
                         const std::optional<Tensor>& preference, int64_t scale_mode, std::optional<double> rank_tol,
                         double rounding) {
  STD_TORCH_CHECK(scale_mode >= 0 && scale_mode <= 2, "scale_mode should be 0, 1 or 2. Found ", scale_mode, ".");
  const Segments segments(gram);
  const auto scale_of = static_cast<solvers::AlignedMtl::Scale>(scale_mode);
  return solve(segments, scale,
               solvers::AlignedMtl{segments.preference(preference), scale_of, {rank_tol.value_or(-1.0), rounding}});
}

Tensor solve_nash_mtl(const Tensor& gram, const std::optional<Tensor>& scale, std::optional<double> max_norm,
                      std::optional<double> reg_eps, double rounding) {
  const double limit = max_norm.value_or(std::numeric_limits<double>::infinity());
  return solve(Segments(gram), scale, solvers::NashMtl{limit, {reg_eps.value_or(-1.0), rounding}});
}

Tensor solve_fairgrad(const Tensor& gram, const std::optional<Tensor>& scale, double alpha,
                      std::optional<double> reg_eps, double rounding) {
  return solve(Segments(gram), scale, solvers::FairGrad{alpha, {reg_eps.value_or(-1.0), rounding}});
}

Tensor solve_krum(const Tensor& gram, const std::optional<Tensor>& scale, int64_t n_byzantine, int64_t n_selected,
                  bool squared) {
  const solvers::Krum krum{check_count("n_byzantine", n_byzantine), check_count("n_selected", n_selected, 1), squared};
  return solve(Segments(gram), scale, krum);
}

Tensor solve_sdmgrad(const Tensor& gram, const std::optional<Tensor>& scale, Tensor state,
                     const std::optional<Tensor>& preference, double lr, double momentum, int64_t n_iter, double lam) {
  const Segments segments(gram);
  const solvers::SimplexMemory memory{segments.state(state)};
  const solvers::SdmGrad sdmgrad{memory,   segments.preference(preference), lr,
                                 momentum, check_count("n_iter", n_iter),   lam};
  return solve(segments, scale, sdmgrad);
}

Tensor solve_modo(const Tensor& gram, const std::optional<Tensor>& scale, Tensor state, double gamma, double rho) {
  const Segments segments(gram);
  return solve(segments, scale, solvers::MoDo{{segments.state(state)}, gamma, rho});
}

}  // namespace mtl_ops::cuda

STABLE_TORCH_LIBRARY_IMPL(mtl_ops, CUDA, m) {
  m.impl("solve_sum", TORCH_BOX(&mtl_ops::cuda::solve_sum));
  m.impl("solve_mean", TORCH_BOX(&mtl_ops::cuda::solve_mean));
  m.impl("solve_pcgrad", TORCH_BOX(&mtl_ops::cuda::solve_pcgrad));
  m.impl("solve_gradvac", TORCH_BOX(&mtl_ops::cuda::solve_gradvac));
  m.impl("solve_adaptive_sharing", TORCH_BOX(&mtl_ops::cuda::solve_adaptive_sharing));
  m.impl("solve_mgda", TORCH_BOX(&mtl_ops::cuda::solve_mgda));
  m.impl("solve_mgda_frank_wolfe", TORCH_BOX(&mtl_ops::cuda::solve_mgda_frank_wolfe));
  m.impl("solve_online_pcgrad", TORCH_BOX(&mtl_ops::cuda::solve_online_pcgrad));
  m.impl("solve_conicgrad", TORCH_BOX(&mtl_ops::cuda::solve_conicgrad));
  m.impl("solve_gradops", TORCH_BOX(&mtl_ops::cuda::solve_gradops));
  m.impl("solve_dibs_mtl", TORCH_BOX(&mtl_ops::cuda::solve_dibs_mtl));
  m.impl("solve_epo", TORCH_BOX(&mtl_ops::cuda::solve_epo));
  m.impl("solve_pmgda", TORCH_BOX(&mtl_ops::cuda::solve_pmgda));
  m.impl("solve_ferero", TORCH_BOX(&mtl_ops::cuda::solve_ferero));
  m.impl("solve_cagrad", TORCH_BOX(&mtl_ops::cuda::solve_cagrad));
  m.impl("solve_upgrad", TORCH_BOX(&mtl_ops::cuda::solve_upgrad));
  m.impl("solve_dualproj", TORCH_BOX(&mtl_ops::cuda::solve_dualproj));
  m.impl("solve_pcd", TORCH_BOX(&mtl_ops::cuda::solve_pcd));
  m.impl("solve_imtl_g", TORCH_BOX(&mtl_ops::cuda::solve_imtl_g));
  m.impl("solve_config", TORCH_BOX(&mtl_ops::cuda::solve_config));
  m.impl("solve_aligned_mtl", TORCH_BOX(&mtl_ops::cuda::solve_aligned_mtl));
  m.impl("solve_nash_mtl", TORCH_BOX(&mtl_ops::cuda::solve_nash_mtl));
  m.impl("solve_fairgrad", TORCH_BOX(&mtl_ops::cuda::solve_fairgrad));
  m.impl("solve_krum", TORCH_BOX(&mtl_ops::cuda::solve_krum));
  m.impl("solve_sdmgrad", TORCH_BOX(&mtl_ops::cuda::solve_sdmgrad));
  m.impl("solve_modo", TORCH_BOX(&mtl_ops::cuda::solve_modo));
}
