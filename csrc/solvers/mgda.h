// MGDA: the point of least norm in the convex hull of the gradients.
//
// Désidéri, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization", C. R. Acad. Sci. Paris 2012;
// Sener & Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018, Algorithm 2 (Frank-Wolfe).

#pragma once

#include "linalg.h"
#include "problem.h"
#include "qp.h"

namespace mtl_ops::solvers {

/// w >= 0, Σw = 1 with wᵀGw least, by a finite method.
struct Mgda {
  MTL_HD static constexpr int workspace(int T) { return 3 * T + NonNegativeQp<Serial>::workspace(T); }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    solve(lanes, problem, w, arena);
  }

 private:
  template <class Lanes>
  MTL_HD_CALLED static void solve(Lanes lanes, Problem problem, double* w, Arena arena) {
    const int n = problem.count;
    if (spread_over_zeros(lanes, problem, w)) return;
    double *s = arena.reals(n), *e = arena.reals(n), *h = arena.reals(n);
    unit_diagonal(lanes, n, problem.gram, s);
    const double longest = largest_of(lanes, n, [=](int i) { return s[i]; });
    each(lanes, n, [=](int i) {
      e[i] = s[i] / longest;
      h[i] = 0.0;
    });
    NonNegativeQp<Lanes> qp(lanes, n, problem.gram, arena);
    qp.minimise(h, e, 1.0, false);
    const double* x = qp.x();
    const double total = sum_of(lanes, n, [=](int i) { return x[i] * e[i]; });
    each(lanes, n, [=](int i) { w[i] = x[i] * e[i] / total; });
  }

  /// A gradient of length 0 is the point of least norm; several of them share the weight.
  template <class Lanes>
  MTL_HD static bool spread_over_zeros(const Lanes& lanes, const Problem& problem, double* w) {
    const int n = problem.count;
    const auto zero = [=](int i) { return !(problem.gram[i * n + i] > 0.0); };
    const double zeros = sum_of(lanes, n, [=](int i) { return zero(i) ? 1.0 : 0.0; });
    if (zeros == 0.0) return false;
    each(lanes, n, [=](int i) { w[i] = zero(i) ? 1.0 / zeros : 0.0; });
    return true;
  }
};

/// w >= c, Σw = 1 with wᵀGw least: w = c + x, with ½ xᵀGx + (Gc)ᵀx least on x >= 0, Σx = 1 - Σc.
///
/// Lin, Chen, Pei et al., "A Pareto-Efficient Algorithm for Multiple Objective Optimization in E-Commerce Recommendation", RecSys 2019.
struct MgdaAbove {
  const double* least;  // c (T,), or null for 0

  MTL_HD static constexpr int workspace(int T) { return 4 * T + NonNegativeQp<Serial>::workspace(T); }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int n = problem.count;
    if (least == nullptr) return Mgda{}(lanes, problem, w, arena);
    double *c = arena.reals(n), *s = arena.reals(n), *e = arena.reals(n), *h = arena.reals(n);
    const double* given = least;
    each(lanes, n, [=](int i) { c[i] = given[problem.tasks[i]]; });
    const double rest = 1.0 - sum_of(lanes, n, [=](int i) { return c[i]; });
    const double* g = problem.gram;
    const bool nothing = !(largest_of(lanes, n, [=](int i) { return g[i * n + i]; }) > 0.0);
    if (!(rest > kNothing) || nothing) {
      return each(lanes, n, [=](int i) { w[i] = c[i] + (rest > kNothing ? rest / n : 0.0); });
    }
    multiply(lanes, n, g, c, h);
    unit_diagonal(lanes, n, problem.gram, s);
    const double longest = largest_of(lanes, n, [=](int i) { return s[i]; });
    each(lanes, n, [=](int i) {
      e[i] = s[i] / longest;
      h[i] *= s[i] * (longest / rest);  // of the x that is Σx = 1, in units of s / longest
    });
    NonNegativeQp<Lanes> qp(lanes, n, problem.gram, arena);
    qp.minimise(h, e, 1.0, false);
    const double* x = qp.x();
    const double total = sum_of(lanes, n, [=](int i) { return x[i] * e[i]; });
    each(lanes, n, [=](int i) { w[i] = c[i] + x[i] * e[i] * (rest / total); });
  }

 private:
  static constexpr double kNothing = 1e-12;
};

/// Without c, by Frank & Wolfe with exact line search, from equal weights, until a step is shorter than `epsilon`.
struct MgdaFrankWolfe {
  double epsilon;
  int max_iters;

  MTL_HD static constexpr int workspace(int T) { return T; }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int n = problem.count;
    double* v = arena.reals(n);
    each(lanes, n, [=](int i) { w[i] = 1.0 / n; });
    for (int iteration = 0; iteration < max_iters; ++iteration) {
      multiply(lanes, n, problem.gram, w, v);
      const Least worst = least_of(lanes, n, [](int) { return true; }, [=](int i) { return v[i]; });
      const double square = sum_of(lanes, n, [=](int i) { return w[i] * v[i]; });
      const double step = line_search(square, worst.value, problem.gram[worst.index * n + worst.index]);
      each(lanes, n, [=](int i) { w[i] = (1.0 - step) * w[i] + (i == worst.index ? step : 0.0); });
      if (step < epsilon) break;
    }
  }

 private:
  /// The t in [0, 1] of the shortest d + t (g - d), from |d|², <d, g> and |g|².
  MTL_HD static double line_search(double d_d, double d_g, double g_g) {
    if (g_g <= d_g) return 1.0;
    if (d_d <= d_g) return 0.0;
    return (d_d - d_g) / (d_d + g_g - 2.0 * d_g);
  }
};

}  // namespace mtl_ops::solvers
