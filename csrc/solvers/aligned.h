// Aligned-MTL: the gradients are turned into orthogonal ones of equal length, as near to the old as can be, before they are summed.
#pragma once

#include "eigen.h"

namespace mtl_ops::solvers {

/// w = √σ V Λ^{-1/2} Vᵀ p over the R eigenvalues of G that count, R being the rank of the cosine matrix, and σ one of them or their
/// mean.
struct AlignedMtl {
  enum Scale { kMin, kMedian, kRmse };

  const double* preference;  // (T,), or null for 1/k
  Scale scale;
  RankTolerance tolerance;

  MTL_HD static constexpr int workspace(int T) { return 2 * T + Eigen<Serial>::workspace(T); }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int k = problem.count;
    double *s = arena.reals(k), *p = arena.reals(k);
    Eigen<Lanes> eigen(lanes, k, arena);
    unit_diagonal(lanes, k, problem.gram, s);
    int rank = eigen.rank_of(problem.gram, tolerance.of(k));
    restore_lengths(lanes, k, s, problem.gram, p);
    eigen.decompose(problem.gram, tolerance.of(k));
    rank = rank < eigen.count() ? rank : eigen.count();

    each(lanes, k, [=, this](int i) { p[i] = preference == nullptr ? 1.0 / k : preference[problem.tasks[i]]; });
    if (rank == 0) {
      each(lanes, k, [=](int i) { w[i] = p[i]; });
      return;
    }
    const double common = common_square(lanes, eigen, rank);
    eigen.apply(rank, [=](double lambda) { return sqrt(common / lambda); }, p, w);
  }

 private:
  /// σ: the squared length that all the gradients get.
  template <class Lanes>
  MTL_HD double common_square(const Lanes& lanes, const Eigen<Lanes>& eigen, int rank) const {
    if (scale == kMin) return eigen.value(rank - 1);
    if (scale == kMedian) return eigen.value(rank / 2);  // the lower one of two
    return sum_of(lanes, rank, [&](int i) { return eigen.value(i); }) / rank;
  }
};

}  // namespace mtl_ops::solvers
