// Adaptive sharing: how related two tasks are, by the average of their gradients' cosines, sets how much of one's gradient enters
// the other's update.  The definition is this package's own, see mtl_ops/methods/adaptive_sharing.py.

#pragma once

#include <math.h>

#include "linalg.h"
#include "problem.h"

namespace mtl_ops::solvers {

/// w_j = Σ_i r_ij / (Σ_m r_im)², with r the average cosines C clamped to [0, 1] and r_ii = 1.
///
/// C_ij moves to the cosine of g_i and g_j wherever neither is zero; the first time it is that cosine.
struct AdaptiveSharing {
  double* cosines;  // (S, T, T), NaN for tasks that never met; changed in place
  double beta;

  MTL_HD static constexpr int workspace(int T) { return 2 * T; }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int k = problem.count, T = problem.total;
    double *related = problem.gram, *norms = arena.reals(k), *shares = arena.reals(k);
    each(lanes, k, [=](int i) { norms[i] = sqrt(fmax(related[i * k + i], 0.0)); });
    double* averages = cosines + static_cast<int64_t>(problem.segment) * T * T;
    each(lanes, k * k, [=, this](int at) {
      const int i = at / k, j = at % k;
      double& average = averages[problem.tasks[i] * T + problem.tasks[j]];
      if (norms[i] > 0.0 && norms[j] > 0.0) {
        const double cosine = related[at] / norms[i] / norms[j];
        average = average == average ? beta * average + (1.0 - beta) * cosine : cosine;
      }
      related[at] = i == j ? 1.0 : average == average ? fmin(fmax(average, 0.0), 1.0) : 0.0;
    });
    each(lanes, k, [=](int i) {
      double relatives = 0.0;
      for (int j = 0; j < k; ++j) relatives += related[i * k + j];
      shares[i] = 1.0 / (relatives * relatives);
    });
    each(lanes, k, [=](int j) {
      double weight = 0.0;
      for (int i = 0; i < k; ++i) weight += related[i * k + j] * shares[i];
      w[j] = weight;
    });
  }
};

}  // namespace mtl_ops::solvers
