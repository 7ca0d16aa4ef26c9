// solve_*: from the Gram matrices (S, T, T) and the task scales (S, T) to the weights (S, T), w = s * method(s G s), in float64.
//
// One thread a segment; the mathematics is in csrc/solvers, the same text as on the GPU.  Of more than 64 tasks, UPGrad's problems are
// shared out among the threads, and eigenvalues are LAPACK's.
#include <torch/csrc/stable/library.h>

#include <algorithm>
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
#include "../task_grads.h"
#include "lapack.h"

namespace mtl_ops::cpu {
namespace {

using solvers::Arena;
using solvers::Serial;

// A contiguous float64 (or int64) argument of the given number of elements, where the Gram matrices are.
template <class Element>
const Element* check_array(const Tensor& gram, const Tensor& tensor, const char* name, int64_t numel) {
  return read_array<Element>(tensor, name, numel, detail::Kind(gram));
}

template <class Lanes = Serial, class Method>
Tensor solve(const Tensor& gram, const std::optional<Tensor>& scale, const Method& method) {
  const auto [S, T] = GramSizes(gram, kMaxTasks);
  const double* G = static_cast<const double*>(gram.const_data_ptr());
  const double* scales = scale ? check_array<double>(gram, *scale, "scale", S * T) : nullptr;
  Tensor result = torch::stable::empty({S, T}, ScalarType::Double);
  double* out = static_cast<double*>(result.mutable_data_ptr());
  torch::stable::parallel_for(0, S, 1, [&](int64_t begin, int64_t end) {
    std::vector<double> workspace(T + solvers::segment_workspace<Method>(T));
    for (int64_t s = begin; s < end; ++s) {
      solvers::solve_segment(Lanes{}, method, s, T, G + s * T * T, scales ? scales + s * T : nullptr, out + s * T,
                             workspace.data());
    }
  });
  return result;
}

template <class Method>
Tensor solve_by_eigenvalues(const Tensor& gram, const std::optional<Tensor>& scale, const Method& method) {
  const bool many = WithLapack::takes(static_cast<int>(GramSizes(gram, kMaxTasks).T));
  return many ? solve<WithLapack>(gram, scale, method) : solve(gram, scale, method);
}

// UPGrad's projections of some of the gradients, by their places in the problem.
struct UpGradPart {
  static constexpr int kParts = 8;
  static constexpr int kWhole = 64;  // up to so many tasks are not worth parting

  solvers::UpGrad method;
  int part;

  static constexpr int workspace(int T) { return T + solvers::UpGrad::workspace(T); }

  void operator()(const Serial& lanes, const solvers::Problem& problem, double* w, Arena& arena) const {
    const int k = problem.count;
    const int size = k <= kWhole ? k : (k + kParts - 1) / kParts;
    double* preference = arena.reals(problem.total);
    std::fill_n(preference, problem.total, 0.0);
    for (int i = std::min(k, part * size); i < std::min(k, (part + 1) * size); ++i) {
      preference[problem.tasks[i]] = method.cone.preferred(problem, i);
    }
    solvers::UpGrad some = method;
    some.cone.preference = preference;
    some(lanes, problem, w, arena);
  }
};

Tensor solve_in_parts(const Tensor& gram, const std::optional<Tensor>& scale, const solvers::UpGrad& method) {
  constexpr int parts = UpGradPart::kParts;
  const auto [S, T] = GramSizes(gram, kMaxTasks);
  const double* G = static_cast<const double*>(gram.const_data_ptr());
  const double* scales = scale ? check_array<double>(gram, *scale, "scale", S * T) : nullptr;
  Tensor result = torch::stable::empty({S, T}, ScalarType::Double);
  double* out = static_cast<double*>(result.mutable_data_ptr());
  std::vector<double> terms(S * parts * T);
  torch::stable::parallel_for(0, S * parts, 1, [&](int64_t begin, int64_t end) {
    std::vector<double> workspace(T + solvers::segment_workspace<UpGradPart>(T));
    for (int64_t at = begin; at < end; ++at) {
      const int64_t s = at / parts;
      const UpGradPart part{method, static_cast<int>(at % parts)};
      solvers::solve_segment(Serial{}, part, s, T, G + s * T * T, scales ? scales + s * T : nullptr,
                             terms.data() + at * T, workspace.data());
    }
  });
  std::fill_n(out, S * T, 0.0);
  for (int64_t at = 0; at < S * parts; ++at) {
    for (int64_t t = 0; t < T; ++t) out[at / parts * T + t] += terms[at * T + t];
  }
  return result;
}

const double* check_preference(const Tensor& gram, const std::optional<Tensor>& preference) {
  return preference ? check_array<double>(gram, *preference, "preference", GramSizes(gram, kMaxTasks).T) : nullptr;
}

solvers::Wishes check_wishes(const Tensor& gram, const Tensor& losses, const std::optional<Tensor>& preference) {
  return {check_array<double>(gram, losses, "losses", GramSizes(gram, kMaxTasks).T),
          check_preference(gram, preference)};
}

// What a method remembers of each segment's tasks, to be changed in place.
double* check_state(const Tensor& gram, Tensor& state, int64_t numbers_per_task = 1) {
  const auto [S, T] = GramSizes(gram, kMaxTasks);
  check_array<double>(gram, state, "state", S * T * numbers_per_task);
  return static_cast<double*>(state.mutable_data_ptr());
}

solvers::Orders check_orders(const Tensor& gram, const Tensor& orders) {
  const auto [S, T] = GramSizes(gram, kMaxTasks);
  const int length = orders_length(orders);
  return {check_array<int64_t>(gram, orders, "orders", S * T * length), length};
}

}  // namespace

Tensor solve_sum(const Tensor& gram, const std::optional<Tensor>& scale) {
  return solve(gram, scale, solvers::Linear{false});
}

Tensor solve_mean(const Tensor& gram, const std::optional<Tensor>& scale) {
  return solve(gram, scale, solvers::Linear{true});
}

Tensor solve_pcgrad(const Tensor& gram, const std::optional<Tensor>& scale, const Tensor& orders, bool mean) {
  return solve(gram, scale, solvers::PcGrad{check_orders(gram, orders), mean});
}

Tensor solve_gradvac(const Tensor& gram, const std::optional<Tensor>& scale, const Tensor& orders, Tensor rho,
                     double beta, double eps, double tol) {
  double* state = check_state(gram, rho, GramSizes(gram, kMaxTasks).T);
  return solve(gram, scale, solvers::GradVac{check_orders(gram, orders), state, beta, eps, tol});
}

Tensor solve_adaptive_sharing(const Tensor& gram, const std::optional<Tensor>& scale, Tensor cosines, double beta) {
  return solve(gram, scale, solvers::AdaptiveSharing{check_state(gram, cosines, GramSizes(gram, kMaxTasks).T), beta});
}

Tensor solve_mgda(const Tensor& gram, const std::optional<Tensor>& scale, const std::optional<Tensor>& min_weights) {
  const int64_t T = GramSizes(gram, kMaxTasks).T;
  const double* least = min_weights ? check_array<double>(gram, *min_weights, "min_weights", T) : nullptr;
  return solve(gram, scale, solvers::MgdaAbove{least});
}

Tensor solve_mgda_frank_wolfe(const Tensor& gram, const std::optional<Tensor>& scale, double epsilon,
                              int64_t max_iters) {
  return solve(gram, scale, solvers::MgdaFrankWolfe{epsilon, check_count("max_iters", max_iters)});
}

Tensor solve_online_pcgrad(const Tensor& gram, const std::optional<Tensor>& scale, const Tensor& order) {
  const auto [S, T] = GramSizes(gram, kMaxTasks);
  return solve(gram, scale, solvers::OnlinePcGrad{check_array<int64_t>(gram, order, "order", S * T)});
}

Tensor solve_conicgrad(const Tensor& gram, const std::optional<Tensor>& scale, double c) {
  return solve(gram, scale, solvers::ConicGrad{c});
}

Tensor solve_gradops(const Tensor& gram, const std::optional<Tensor>& scale, double alpha, bool project_all,
                     std::optional<double> rank_tol, double rounding) {
  return solve_by_eigenvalues(gram, scale, solvers::GradOps{alpha, project_all, {rank_tol.value_or(-1.0), rounding}});
}

Tensor solve_dibs_mtl(const Tensor& gram, const std::optional<Tensor>& scale, int64_t steps, double step) {
  return solve(gram, scale, solvers::DibsMtl{check_count("steps", steps, 1), step});
}

Tensor solve_epo(const Tensor& gram, const std::optional<Tensor>& scale, const Tensor& losses,
                 const std::optional<Tensor>& preference, double tol, bool relax) {
  return solve(gram, scale, solvers::Epo{check_wishes(gram, losses, preference), tol, relax});
}

Tensor solve_pmgda(const Tensor& gram, const std::optional<Tensor>& scale, const Tensor& losses,
                   const std::optional<Tensor>& preference, double h_tol, double sigma) {
  return solve(gram, scale, solvers::Pmgda{check_wishes(gram, losses, preference), h_tol, sigma});
}

Tensor solve_ferero(const Tensor& gram, const std::optional<Tensor>& scale, const Tensor& losses,
                    const std::optional<Tensor>& preference, double kappa, double rounding) {
  return solve_by_eigenvalues(gram, scale, solvers::Ferero{check_wishes(gram, losses, preference), kappa, rounding});
}

Tensor solve_cagrad(const Tensor& gram, const std::optional<Tensor>& scale, double c, int64_t rescale,
                    double norm_eps) {
  return solve(gram, scale, solvers::CaGrad{c, check_count("rescale", rescale), norm_eps});
}

Tensor solve_upgrad(const Tensor& gram, const std::optional<Tensor>& scale, const std::optional<Tensor>& preference,
                    bool scale_rows, std::optional<double> reg_eps, double norm_eps, double rounding) {
  const solvers::DualCone cone{check_preference(gram, preference), scale_rows, reg_eps.value_or(-1.0), norm_eps,
                               rounding};
  const solvers::UpGrad method{cone};
  return GramSizes(gram, kMaxTasks).T > UpGradPart::kWhole ? solve_in_parts(gram, scale, method)
                                                           : solve(gram, scale, method);
}

Tensor solve_dualproj(const Tensor& gram, const std::optional<Tensor>& scale, const std::optional<Tensor>& preference,
                      bool scale_rows, std::optional<double> reg_eps, double norm_eps, double rounding) {
  const solvers::DualCone cone{check_preference(gram, preference), scale_rows, reg_eps.value_or(-1.0), norm_eps,
                               rounding};
  return solve(gram, scale, solvers::DualProj{cone});
}

Tensor solve_pcd(const Tensor& gram, const std::optional<Tensor>& scale, Tensor state, double tau, double beta,
                 double eps) {
  return solve(gram, scale, solvers::Pcd{check_state(gram, state, 2), tau, beta, eps});
}

Tensor solve_imtl_g(const Tensor& gram, const std::optional<Tensor>& scale, bool avoid_ascent,
                    std::optional<double> rank_tol, double rounding) {
  return solve_by_eigenvalues(gram, scale, solvers::ImtlG{avoid_ascent, {rank_tol.value_or(-1.0), rounding}});
}

Tensor solve_config(const Tensor& gram, const std::optional<Tensor>& scale, const std::optional<Tensor>& preference,
                    std::optional<double> rank_tol, double rounding) {
  return solve_by_eigenvalues(gram, scale,
                              solvers::Config{check_preference(gram, preference), {rank_tol.value_or(-1.0), rounding}});
}

Tensor solve_aligned_mtl(const Tensor& gram, const std::optional<Tensor>& scale,
                         const std::optional<Tensor>& preference, int64_t scale_mode, std::optional<double> rank_tol,
                         double rounding) {
  STD_TORCH_CHECK(scale_mode >= 0 && scale_mode <= 2, "scale_mode should be 0, 1 or 2. Found ", scale_mode, ".");
  const auto scale_of = static_cast<solvers::AlignedMtl::Scale>(scale_mode);
  return solve_by_eigenvalues(
      gram, scale,
      solvers::AlignedMtl{check_preference(gram, preference), scale_of, {rank_tol.value_or(-1.0), rounding}});
}

Tensor solve_nash_mtl(const Tensor& gram, const std::optional<Tensor>& scale, std::optional<double> max_norm,
                      std::optional<double> reg_eps, double rounding) {
  const double limit = max_norm.value_or(std::numeric_limits<double>::infinity());
  return solve(gram, scale, solvers::NashMtl{limit, {reg_eps.value_or(-1.0), rounding}});
}

Tensor solve_fairgrad(const Tensor& gram, const std::optional<Tensor>& scale, double alpha,
                      std::optional<double> reg_eps, double rounding) {
  return solve(gram, scale, solvers::FairGrad{alpha, {reg_eps.value_or(-1.0), rounding}});
}

Tensor solve_krum(const Tensor& gram, const std::optional<Tensor>& scale, int64_t n_byzantine, int64_t n_selected,
                  bool squared) {
  return solve(
      gram, scale,
      solvers::Krum{check_count("n_byzantine", n_byzantine), check_count("n_selected", n_selected, 1), squared});
}

Tensor solve_sdmgrad(const Tensor& gram, const std::optional<Tensor>& scale, Tensor state,
                     const std::optional<Tensor>& preference, double lr, double momentum, int64_t n_iter, double lam) {
  const solvers::SimplexMemory memory{check_state(gram, state)};
  return solve(
      gram, scale,
      solvers::SdmGrad{memory, check_preference(gram, preference), lr, momentum, check_count("n_iter", n_iter), lam});
}

Tensor solve_modo(const Tensor& gram, const std::optional<Tensor>& scale, Tensor state, double gamma, double rho) {
  return solve(gram, scale, solvers::MoDo{solvers::SimplexMemory{check_state(gram, state)}, gamma, rho});
}

}  // namespace mtl_ops::cpu

STABLE_TORCH_LIBRARY_IMPL(mtl_ops, CPU, m) {
  m.impl("solve_sum", TORCH_BOX(&mtl_ops::cpu::solve_sum));
  m.impl("solve_mean", TORCH_BOX(&mtl_ops::cpu::solve_mean));
  m.impl("solve_pcgrad", TORCH_BOX(&mtl_ops::cpu::solve_pcgrad));
  m.impl("solve_gradvac", TORCH_BOX(&mtl_ops::cpu::solve_gradvac));
  m.impl("solve_adaptive_sharing", TORCH_BOX(&mtl_ops::cpu::solve_adaptive_sharing));
  m.impl("solve_mgda", TORCH_BOX(&mtl_ops::cpu::solve_mgda));
  m.impl("solve_mgda_frank_wolfe", TORCH_BOX(&mtl_ops::cpu::solve_mgda_frank_wolfe));
  m.impl("solve_online_pcgrad", TORCH_BOX(&mtl_ops::cpu::solve_online_pcgrad));
  m.impl("solve_conicgrad", TORCH_BOX(&mtl_ops::cpu::solve_conicgrad));
  m.impl("solve_gradops", TORCH_BOX(&mtl_ops::cpu::solve_gradops));
  m.impl("solve_dibs_mtl", TORCH_BOX(&mtl_ops::cpu::solve_dibs_mtl));
  m.impl("solve_epo", TORCH_BOX(&mtl_ops::cpu::solve_epo));
  m.impl("solve_pmgda", TORCH_BOX(&mtl_ops::cpu::solve_pmgda));
  m.impl("solve_ferero", TORCH_BOX(&mtl_ops::cpu::solve_ferero));
  m.impl("solve_cagrad", TORCH_BOX(&mtl_ops::cpu::solve_cagrad));
  m.impl("solve_upgrad", TORCH_BOX(&mtl_ops::cpu::solve_upgrad));
  m.impl("solve_dualproj", TORCH_BOX(&mtl_ops::cpu::solve_dualproj));
  m.impl("solve_pcd", TORCH_BOX(&mtl_ops::cpu::solve_pcd));
  m.impl("solve_imtl_g", TORCH_BOX(&mtl_ops::cpu::solve_imtl_g));
  m.impl("solve_config", TORCH_BOX(&mtl_ops::cpu::solve_config));
  m.impl("solve_aligned_mtl", TORCH_BOX(&mtl_ops::cpu::solve_aligned_mtl));
  m.impl("solve_nash_mtl", TORCH_BOX(&mtl_ops::cpu::solve_nash_mtl));
  m.impl("solve_fairgrad", TORCH_BOX(&mtl_ops::cpu::solve_fairgrad));
  m.impl("solve_krum", TORCH_BOX(&mtl_ops::cpu::solve_krum));
  m.impl("solve_sdmgrad", TORCH_BOX(&mtl_ops::cpu::solve_sdmgrad));
  m.impl("solve_modo", TORCH_BOX(&mtl_ops::cpu::solve_modo));
}
