// GradOPS and DiBS-MTL: functions of the cosines of the gradients.

#pragma once

#include <math.h>

#include "equal_angle.h"

namespace mtl_ops::solvers {

/// w = Σ_i r_i c_i: what of g_i is orthogonal to all the others, where it conflicts with one, and r its share of the progress to the
/// power alpha.
///
/// Zhu, Zhao, Wu, Wang, Deng, Xu, Zheng, "Gradient Deconfliction via Orthogonal Projections onto Subspaces For
/// Multi-task Learning", WSDM 2025.
///
/// With unit gradients U and C = UUᵀ, that part of ĝ_i is Uᵀ C⁺e_i / (C⁺)_ii; it is 0 where g_i depends on the others, and e_i has a part in
/// the null space of C.
struct GradOps {
  double alpha;
  bool all;  // projects whether there is conflict or not
  RankTolerance tolerance;

  MTL_HD static constexpr int workspace(int T) { return 3 * T + Cosines<Serial>::workspace(T); }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int n = problem.count;
    double *share = arena.reals(n), *factor = arena.reals(n), *v = arena.reals(n);
    Cosines<Lanes> cosines(lanes, n, problem.gram, tolerance, arena);
    each(lanes, n, [=](int i) { share[i] = 1.0; });
    add_up(lanes, n, problem.gram, share, cosines, factor, v);
    if (alpha != 0.0) {
      weigh(lanes, n, problem.gram, v, cosines, share);
      add_up(lanes, n, problem.gram, share, cosines, factor, v);
    }
    const double* s = cosines.s;
    each(lanes, n, [=](int i) { w[i] = v[i] * s[i]; });
  }

 private:
  static constexpr double kDependent = 1e-8;  // squared length of e_i in the null space
  static constexpr double kGain = 1e-8;       // of |g_i|: what is less is no progress

  /// v (n,): Σ_i r_i g_i' in terms of the unit gradients, which is C⁺ of one vector and what is not projected.
  template <class Lanes>
  MTL_HD void add_up(const Lanes& lanes, int n, const double* cosine, const double* share,
                     const Cosines<Lanes>& cosines, double* factor, double* v) const {
    const double* s = cosines.s;
    const GradOps mine = *this;
    double* kept = cosines.cx;
    const auto& eigen = cosines.eigen;
    const int rank = cosines.rank;
    each(lanes, n, [=, &eigen](int i) {
      factor[i] = kept[i] = 0.0;
      if (!(cosine[i * n + i] > 0.0)) return;
      const double length = share[i] / s[i];
      bool conflicts = mine.all;
      for (int k = 0; k < n; ++k) conflicts = conflicts || cosine[i * n + k] < 0.0;
      if (!conflicts) {
        kept[i] = length;
      } else if (1.0 - eigen.diagonal(rank, [](double) { return 1.0; }, i) <= kDependent) {
        factor[i] = length / eigen.diagonal(rank, [](double lambda) { return 1.0 / lambda; }, i);
      }
    });
    eigen.apply(rank, [](double lambda) { return 1.0 / lambda; }, factor, v);
    each(lanes, n, [=](int i) { v[i] += kept[i]; });
  }

  /// r_i = R_i^alpha over their mean, R_i = <ĝ_i, Σ_j g_j'>.
  template <class Lanes>
  MTL_HD void weigh(const Lanes& lanes, int n, const double* cosine, const double* v, const Cosines<Lanes>& cosines,
                    double* share) const {
    const double *s = cosines.s, power = alpha;
    double* gain = cosines.x;
    multiply(lanes, n, cosine, v, gain);
    const auto gains = [=](int i) { return cosine[i * n + i] > 0.0 && gain[i] > kGain / s[i]; };
    const double count = sum_of(lanes, n, [=](int i) { return gains(i) ? 1.0 : 0.0; });
    const double mean = sum_of(lanes, n, [=](int i) { return gains(i) ? log(gain[i]) : 0.0; }) / count;
    each(lanes, n, [=](int i) { share[i] = gains(i) ? exp(power * (log(gain[i]) - mean)) : 0.0; });
    const double total = sum_of(lanes, n, [=](int i) { return share[i]; });
    each(lanes, n, [=](int i) { share[i] *= total > 0.0 ? count / total : 0.0; });
  }
};

/// w_i = y_i / n_i after some steps y <- y + step |x + ĝ_i|, x = -Σ y_i ĝ_i, or the first that carries x out of the unit ball.
///
/// Murthy, Gupta, Karabag, Fridovich-Keil, Topcu, "Monotonic Transformation Invariant Multi-task Learning", arXiv 2509.23948, 2025.
struct DibsMtl {
  int steps;
  double step;

  MTL_HD static constexpr int workspace(int T) { return 3 * T; }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int n = problem.count;
    double *s = arena.reals(n), *y = arena.reals(n), *v = arena.reals(n), *cosine = problem.gram;
    unit_diagonal(lanes, n, cosine, s);
    each(lanes, n, [=](int i) { y[i] = v[i] = 0.0; });
    double square = 0.0;
    const double rate = step;
    for (int round = 0; round < steps && square <= 1.0; ++round) {
      each(lanes, n, [=](int i) {
        if (cosine[i * n + i] > 0.0) y[i] += rate * sqrt(fmax(square - 2.0 * v[i] + 1.0, 0.0));
      });
      if (round + 1 == steps) break;
      multiply(lanes, n, cosine, y, v);
      square = sum_of(lanes, n, [=](int i) { return y[i] * v[i]; });
    }
    each(lanes, n, [=](int i) { w[i] = y[i] * s[i]; });
  }
};

}  // namespace mtl_ops::solvers
