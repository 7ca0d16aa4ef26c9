// UPGrad and DualProj: projections on the dual cone of the gradients, {d : <d, g_i> >= 0 for all i}.
//
// The projection of Jᵀu is Jᵀv with v = u + z, where z >= 0 minimises ½ zᵀGz + (Gu)ᵀz.
//
// UPGrad: Quinton & Rey, "Jacobian Descent for Multi-Objective Optimization", arXiv 2406.16232.
// DualProj: Lopez-Paz & Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017, equation 11.

#pragma once

#include "linalg.h"
#include "problem.h"
#include "qp.h"

namespace mtl_ops::solvers {

/// What both have in common: the preference p and the ridge that keeps weights finite where the cone is {0}.
struct DualCone {
  const double* preference;  // (T,), or null for 1/k
  bool scale_rows;           // the ridge is reg_eps |g_i|² in row i, else reg_eps Σ_k |g_k|² in every row
  double reg_eps;
  double norm_eps;  // below this Σ_k |g_k|² conflict is ignored

  MTL_HD double preferred(const Problem& problem, int i) const {
    return preference != nullptr ? preference[problem.tasks[i]] : 1.0 / problem.count;
  }

  /// The Gram matrix becomes A = S (G + ridge) S of unit diagonal; s (k,) is the diagonal of S.  False if it is too small.
  template <class Lanes>
  MTL_HD bool prepare(const Lanes& lanes, const Problem& problem, double* s) const {
    const int n = problem.count;
    double* a = problem.gram;
    const double trace = sum_of(lanes, n, [=](int i) { return a[i * n + i]; });
    if (!(trace > 0.0) || trace < norm_eps) return false;
    each(lanes, n, [=, this](int i) {
      double& diagonal = a[i * n + i];
      diagonal += reg_eps * (scale_rows ? diagonal : trace);
    });
    unit_diagonal(lanes, n, a, s);
    return true;
  }

  template <class Lanes>
  MTL_HD void prefer(const Lanes& lanes, const Problem& problem, double* w) const {
    each(lanes, problem.count, [=, this](int i) { w[i] = preferred(problem, i); });
  }
};

/// w = v of the projection of Σ_i p_i g_i.
struct DualProj {
  DualCone cone;

  MTL_HD static constexpr int workspace(int T) { return 3 * T + NonNegativeQp<Serial>::workspace(T); }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int n = problem.count;
    cone.prefer(lanes, problem, w);
    double *s = arena.reals(n), *u = arena.reals(n), *h = arena.reals(n);
    if (!cone.prepare(lanes, problem, s)) return;
    each(lanes, n, [=](int i) { u[i] = w[i] / s[i]; });
    multiply(lanes, n, problem.gram, u, h);
    NonNegativeQp<Lanes> qp(lanes, n, problem.gram, arena);
    qp.minimise(h);
    const double* x = qp.x();
    each(lanes, n, [=](int i) { w[i] += x[i] * s[i]; });
  }
};

/// w = Σ_i v_i over the projections of the single p_i g_i.
///
/// With h the i-th column of A, row i of the sum is p_i (e_i + S x / s_i): k problems that know nothing of each other.
struct UpGrad {
  DualCone cone;

  MTL_HD static constexpr int workspace(int T) { return T + NonNegativeQp<Serial>::workspace(T); }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int n = problem.count;
    cone.prefer(lanes, problem, w);
    double* s = arena.reals(n);
    if (!cone.prepare(lanes, problem, s)) return;
    NonNegativeQp<Lanes> qp(lanes, n, problem.gram, arena);
    const double* x = qp.x();
    for (int i = 0; i < n; ++i) {
      const double share = cone.preferred(problem, i) / s[i];
      if (share == 0.0) continue;
      qp.minimise(problem.gram + i * n);
      each(lanes, n, [=](int j) { w[j] += share * x[j] * s[j]; });
    }
  }
};

}  // namespace mtl_ops::solvers
