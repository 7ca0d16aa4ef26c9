// PCD: the direction nearest to the gradient of task 0, the primary one, that makes progress for every other.
//
// Varam & AlHajri, "Not All Objectives Are Born Equal: Priority-Constrained Descent for Hierarchical Multi-Objective
// Optimization", TMLR 2026.
//
// On gradients ĝ of about unit length: minimise |d - ĝ_0| subject to <ĝ_j, d> >= τ |ĝ_j|².  Then d = ĝ_0 + Σ x_j ĝ_j, where x >= 0
// minimises ½ xᵀAx + hᵀx, A = <ĝ_i, ĝ_j> over the others and h_j = <ĝ_j, ĝ_0> - τ A_jj.  The result has the length of g_0.

#pragma once

#include <math.h>

#include <cstdint>

#include "linalg.h"
#include "problem.h"
#include "qp.h"

namespace mtl_ops::solvers {

/// w = 0 where task 0 takes no part or has no gradient; w = e_0 where the constraints contradict each other.
struct Pcd {
  double* state;  // (S, 2, T), changed in place: running mean of |g_t|², not yet corrected, and the total weight in it
  double tau;
  double beta;  // of the running mean
  double eps;   // added to the mean

  MTL_HD static constexpr int workspace(int T) { return T * T + 4 * T + NonNegativeQp<Serial>::workspace(T); }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int n = problem.count;
    double *scale = arena.reals(n), *x = arena.reals(n);
    normalise(lanes, problem, scale);
    const double* g = problem.gram;
    if (problem.tasks[0] != 0 || !(g[0] > 0.0)) return each(lanes, n, [=](int i) { w[i] = 0.0; });
    constrain(lanes, problem, scale, x, arena);
    double* v = arena.reals(n);
    each(lanes, n, [=](int i) { x[i] *= scale[i]; });
    multiply(lanes, n, g, x, v);
    const double square = sum_of(lanes, n, [=](int i) { return x[i] * v[i]; });
    const double size = sum_of(lanes, n, [=](int i) { return x[i] * sqrt(g[i * n + i]); });
    // What is left of a d that vanishes has no direction.
    const bool vanished = !(square > 10.0 * kEpsilon * size * size);
    const double stretch = vanished ? 0.0 : sqrt(g[0] / square);
    each(lanes, n, [=](int i) { w[i] = stretch * x[i]; });
  }

 private:
  static constexpr double kDependent = 1e-9;  // well above what is rounding in a Gram matrix of float32 gradients

  /// Updates the running means; scale (k,) is 1 / √(mean + eps).
  template <class Lanes>
  MTL_HD void normalise(const Lanes& lanes, const Problem& problem, double* scale) const {
    const int n = problem.count, T = problem.total;
    double* means = state + static_cast<int64_t>(problem.segment) * 2 * T;
    double* totals = means + T;
    each(lanes, n, [=, this](int i) {
      const int t = problem.tasks[i];
      means[t] = beta * means[t] + (1.0 - beta) * problem.gram[i * n + i];
      totals[t] = beta * totals[t] + (1.0 - beta);
      const double mean = means[t] / totals[t] + eps;
      scale[i] = mean > 0.0 ? 1.0 / sqrt(mean) : 0.0;
    });
  }

  /// x (k,): 1 for the primary task, and the multipliers of the constraints.
  template <class Lanes>
  MTL_HD void constrain(const Lanes& lanes, const Problem& problem, const double* scale, double* x,
                        Arena& arena) const {
    const int n = problem.count, m = n - 1;
    const double* g = problem.gram;
    double *a = arena.reals(m * m), *h = arena.reals(m), *s = arena.reals(m);
    each(lanes, m * m, [=](int at) {
      const int i = at / m + 1, j = at % m + 1;
      a[at] = g[i * n + j] * scale[i < j ? i : j] * scale[i < j ? j : i];
    });
    each(lanes, m, [=, this](int j) { h[j] = g[j + 1] * scale[0] * scale[j + 1] - tau * a[j * m + j]; });
    unit_diagonal(lanes, m, a, s);
    each(lanes, m, [=](int j) { h[j] *= s[j]; });
    NonNegativeQp<Lanes> qp(lanes, m, a, arena, kDependent);
    const bool feasible = qp.minimise(h) == QpStatus::kOptimal;
    const double* multipliers = qp.x();
    each(lanes, n, [=](int i) { x[i] = i == 0 ? 1.0 : feasible ? multipliers[i - 1] * s[i - 1] : 0.0; });
  }
};

}  // namespace mtl_ops::solvers
