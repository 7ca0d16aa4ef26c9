// IMTL-G and ConFIG: updates that make the same angle with, or the same progress on, every task.
#pragma once

#include "eigen.h"

namespace mtl_ops::solvers {

/// What both start from: the decomposed cosine matrix C, and the inverse lengths s that lead to it from G.
template <class Lanes>
struct Cosines {
  Lanes lanes;
  int k;
  double noise;  // of an eigenvalue
  double *s, *x, *cx;
  Eigen<Lanes> eigen;
  int rank = 0;

  MTL_HD static constexpr int workspace(int k) { return 3 * k + Eigen<Lanes>::workspace(k); }

  /// `gram` becomes C.
  MTL_HD Cosines(const Lanes& lanes, int k, double* gram, const RankTolerance& tolerance, Arena& arena)
      : lanes(lanes),
        k(k),
        noise(noise_of(tolerance.rounding, k)),
        s(arena.reals(k)),
        x(arena.reals(k)),
        cx(arena.reals(k)),
        eigen(lanes, k, arena) {
    unit_diagonal(lanes, k, gram, s);
    eigen.decompose(gram);
    rank = eigen.rank(tolerance.of(k));
  }

  /// x = C⁺p, and w_i = (Σ_j n_j (Cx)_j / xᵀCx) x_i / n_i with n = 1/s: the direction whose inner products with the unit gradients
  /// are p, as long as the projections of the gradients on it together.
  MTL_HD void config(const double* p, double* w) {
    eigen.apply(rank, [](double lambda) { return 1.0 / lambda; }, p, x);
    eigen.apply(rank, [](double) { return 1.0; }, p, cx);
    const double square = sum_of(lanes, k, [this](int i) { return x[i] * cx[i]; });
    const double size = sum_of(lanes, k, [=](int i) { return p[i] * p[i]; });
    const double projections = sum_of(lanes, k, [this](int i) { return cx[i] / s[i]; });
    // With p orthogonal to the range of C there is no such direction.
    const double length = square > fmax(1e-24, noise * noise) * size ? projections / square : 0.0;
    each(lanes, k, [=, this](int i) { w[i] = length * x[i] * s[i]; });
  }
};

struct Config {
  const double* preference;  // (T,), or null for 1
  RankTolerance tolerance;

  MTL_HD static constexpr int workspace(int T) { return T + Cosines<Serial>::workspace(T); }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    double* p = arena.reals(problem.count);
    each(lanes, problem.count, [=, this](int i) { p[i] = preference == nullptr ? 1.0 : preference[problem.tasks[i]]; });
    Cosines<Lanes> cosines(lanes, problem.count, problem.gram, tolerance, arena);
    cosines.config(p, w);
  }
};

/// What is more is the rounding of rows of 16 bits; that of float32 lies in the products.
inline constexpr double k16Bits = 0x1p-22;

struct ImtlG {
  bool avoid_ascent;  // answers with ConFIG where equal projections by weights that sum to 1 would go uphill
  RankTolerance tolerance;

  MTL_HD static constexpr int workspace(int T) { return T + Cosines<Serial>::workspace(T); }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int k = problem.count;
    double* gram = problem.gram;
    double* p = arena.reals(k);
    each(lanes, k, [=](int i) { p[i] = 1.0; });
    const int nonzero = static_cast<int>(sum_of(lanes, k, [=](int i) { return gram[i * k + i] > 0.0 ? 1.0 : 0.0; }));
    Cosines<Lanes> cosines(lanes, k, gram, tolerance, arena);
    cosines.config(p, w);

    double *v = cosines.x, *s = cosines.s;
    double zero = fmax(1e-12, cosines.noise);  // what a sum of v may be and yet be rounding, as a share of its terms
    if (cosines.rank == nonzero) {
      each(lanes, k, [=](int i) { v[i] *= s[i]; });  // G⁻¹n, without the condition that the lengths add to that of C
    } else {
      // Where G 1 = 0 the sum is 0; what the null space is off in C counts n_i⁻¹ there.
      const double longest = largest_of(lanes, k, [=](int i) { return 1.0 / s[i]; });
      zero = fmax(zero, fmin(1e-3, cosines.noise * longest * largest_of(lanes, k, [=](int i) { return s[i]; })));
      // Rows rounded to 16 bits move an eigenvalue that was 0 by the square of what they move its vector.
      if (tolerance.rounding > k16Bits) zero = fmax(zero, sqrt(cosines.noise));
      restore_lengths(lanes, k, s, gram, p);
      cosines.eigen.decompose(gram, tolerance.of(k));
      const int rank = cosines.rank < cosines.eigen.count() ? cosines.rank : cosines.eigen.count();
      cosines.eigen.apply(rank, [](double lambda) { return 1.0 / lambda; }, p, v);
    }
    const double sum = sum_of(lanes, k, [=](int i) { return v[i]; });
    const double size = sum_of(lanes, k, [=](int i) { return fabs(v[i]); });
    const bool balanced = fabs(sum) <= zero * size;
    if (avoid_ascent && (balanced || sum < 0.0)) return;
    each(lanes, k, [=](int i) { w[i] = balanced ? 0.0 : v[i] / sum; });
  }
};

}  // namespace mtl_ops::solvers
