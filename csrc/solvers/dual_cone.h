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
///
/// A ridge that is not given leaves no trace where the gradients determine v: the problem is solved again with what the ridge draws
/// v to moved from 0 to the last answer, which brings it nearer to the answer without a ridge by a factor ridge/λ, λ an eigenvalue of
/// the cosine matrix (Rockafellar, "Monotone Operators and the Proximal Point Algorithm", SIAM J. Control Optim. 1976).
struct DualCone {
  const double* preference;  // (T,), or null for 1/k
  bool scale_rows;           // the ridge is reg_eps |g_i|² in row i, else reg_eps Σ_k |g_k|² in every row
  double reg_eps;            // negative for one that is taken out again
  double norm_eps;           // below this Σ_k |g_k|² conflict is ignored
  double rounding;           // of G's entries

  static constexpr double kLeastRidge = 1e-6;
  static constexpr int kRounds = 8;
  static constexpr double kSettled = 1e-14;  // what the ridge contributes, as a share of the largest weight

  MTL_HD double preferred(const Problem& problem, int i) const {
    return preference != nullptr ? preference[problem.tasks[i]] : 1.0 / problem.count;
  }

  /// The Gram matrix becomes A = S (G + ridge) S of unit diagonal; s (k,) is the diagonal of S, and r (k,) what of A's diagonal is the
  /// ridge.  False if it is too small.
  template <class Lanes>
  MTL_HD bool prepare(const Lanes& lanes, const Problem& problem, double* s, double* r) const {
    const int n = problem.count;
    double* a = problem.gram;
    const double trace = sum_of(lanes, n, [=](int i) { return a[i * n + i]; });
    if (!(trace > 0.0) || trace < norm_eps) return false;
    const double share = reg_eps >= 0.0 ? reg_eps : fmax(kLeastRidge, noise_of(rounding, n));
    each(lanes, n, [=, this](int i) {
      double& diagonal = a[i * n + i];
      const double ridge = share * (scale_rows ? diagonal : trace);
      diagonal += ridge;
      r[i] = diagonal > 0.0 ? ridge / diagonal : 0.0;
    });
    unit_diagonal(lanes, n, a, s);
    return true;
  }

  /// x = v - u (k,) of the v >= u with vᵀAv least, without the ridge if that is asked for, into `qp`.  `along` is A u.
  template <class Lanes>
  MTL_HD void project(const Lanes& lanes, int n, const double* r, const double* u, const double* along, double* h,
                      double* last, NonNegativeQp<Lanes>& qp) const {
    each(lanes, n, [=](int i) { h[i] = along[i]; });
    qp.minimise(h);
    const double* x = qp.x();
    for (int round = 1; reg_eps < 0.0 && round < kRounds; ++round) {
      each(lanes, n, [=](int i) {
        last[i] = x[i];
        h[i] = along[i] - r[i] * (u[i] + x[i]);
      });
      qp.minimise_again();
      const double change = largest_of(lanes, n, [=](int i) { return r[i] * fabs(x[i] - last[i]); });
      if (change <= kSettled * largest_of(lanes, n, [=](int i) { return u[i] + x[i]; })) return;
    }
  }

  template <class Lanes>
  MTL_HD void prefer(const Lanes& lanes, const Problem& problem, double* w) const {
    each(lanes, problem.count, [=, this](int i) { w[i] = preferred(problem, i); });
  }
};

/// w = v of the projection of Σ_i p_i g_i.
struct DualProj {
  DualCone cone;

  MTL_HD static constexpr int workspace(int T) { return 6 * T + NonNegativeQp<Serial>::workspace(T); }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int n = problem.count;
    cone.prefer(lanes, problem, w);
    double *s = arena.reals(n), *r = arena.reals(n), *u = arena.reals(n), *along = arena.reals(n);
    double *h = arena.reals(n), *last = arena.reals(n);
    if (!cone.prepare(lanes, problem, s, r)) return;
    each(lanes, n, [=](int i) { u[i] = w[i] / s[i]; });
    multiply(lanes, n, problem.gram, u, along);
    NonNegativeQp<Lanes> qp(lanes, n, problem.gram, arena);
    cone.project(lanes, n, r, u, along, h, last, qp);
    const double* x = qp.x();
    each(lanes, n, [=](int i) { w[i] += x[i] * s[i]; });
  }
};

/// w = Σ_i v_i over the projections of the single p_i g_i.
///
/// With A e_i the i-th column of A, row i of the sum is p_i (e_i + S x / s_i): k problems that know nothing of each other.
struct UpGrad {
  DualCone cone;

  MTL_HD static constexpr int workspace(int T) { return 5 * T + NonNegativeQp<Serial>::workspace(T); }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int n = problem.count;
    cone.prefer(lanes, problem, w);
    double *s = arena.reals(n), *r = arena.reals(n), *u = arena.reals(n), *h = arena.reals(n), *last = arena.reals(n);
    if (!cone.prepare(lanes, problem, s, r)) return;
    NonNegativeQp<Lanes> qp(lanes, n, problem.gram, arena);
    const double* x = qp.x();
    for (int i = 0; i < n; ++i) {
      const double share = cone.preferred(problem, i) / s[i];
      if (share == 0.0) continue;
      each(lanes, n, [=](int j) { u[j] = i == j ? 1.0 : 0.0; });
      cone.project(lanes, n, r, u, problem.gram + i * n, h, last, qp);
      each(lanes, n, [=](int j) { w[j] += share * x[j] * s[j]; });
    }
  }
};

}  // namespace mtl_ops::solvers
