// SDMGrad and MoDo: projected gradient steps on the simplex, from weights that are remembered.
//
// Both take the inner products A = J₁J₂ᵀ of the gradients of two independent batches instead of a Gram matrix: A is neither symmetric
// nor positive semidefinite, but A w is an unbiased estimate of G w.
//
// The remembered weights of all tasks sum to 1.  Where some are left out, the others start from their share of it, scaled up to 1,
// and what they end with is scaled down again; the tasks left out keep theirs.

#pragma once

#include <math.h>

#include "linalg.h"
#include "problem.h"

namespace mtl_ops::solvers {

/// The nearest point to y on {x >= 0, Σx = 1}, in place, by dropping whoever is below the common threshold (Michelot, J. Optim. Theory
/// Appl. 1986): each round raises the threshold.
template <class Lanes>
MTL_HD void project_simplex(const Lanes& lanes, int n, double* y) {
  lanes.sync();
  // Where the numbers are large, the 1 would be lost in their sum.
  const double top = largest_of(lanes, n, [=](int i) { return y[i]; });
  each(lanes, n, [=](int i) { y[i] -= top; });
  double threshold = -HUGE_VAL, kept = 0.0;
  for (int round = 0; round < n; ++round) {
    const double above = sum_of(lanes, n, [=](int i) { return y[i] > threshold ? 1.0 : 0.0; });
    if (above == kept) break;
    kept = above;
    threshold = (sum_of(lanes, n, [=](int i) { return y[i] > threshold ? y[i] : 0.0; }) - 1.0) / kept;
  }
  each(lanes, n, [=](int i) { y[i] = fmax(y[i] - threshold, 0.0); });
}

/// The remembered weights (S, T) of one problem.
struct SimplexMemory {
  double* state;

  MTL_HD double& at(const Problem& problem, int i) const {
    return state[problem.segment * problem.total + problem.tasks[i]];
  }

  /// Fills w (k,) with Σw = 1 and returns the share of the k tasks.
  template <class Lanes>
  MTL_HD double recall(const Lanes& lanes, const Problem& problem, double* w) const {
    const int k = problem.count;
    const double share = k == problem.total ? 1.0 : sum_of(lanes, k, [=, this](int i) { return at(problem, i); });
    each(lanes, k, [=, this](int i) { w[i] = share > 0.0 ? at(problem, i) / share : 1.0 / k; });
    return share;
  }

  template <class Lanes>
  MTL_HD void remember(const Lanes& lanes, const Problem& problem, const double* w, double share) const {
    each(lanes, problem.count, [=, this](int i) { at(problem, i) = w[i] * share; });
  }
};

/// A (n x n) becomes Aᵀ, so that A w is a sum of contiguous columns.
template <class Lanes>
MTL_HD void transpose(const Lanes& lanes, int n, double* a) {
  for (int i = 0; i < n; ++i) {
    each(lanes, i, [=](int j) {
      const double below = a[i * n + j];
      a[i * n + j] = a[j * n + i];
      a[j * n + i] = below;
    });
  }
}

/// n_iter momentum steps on ½ |Jᵀ(w + λp)|², each projected; the answer is (w + λp) / (1 + λ).
struct SdmGrad {
  SimplexMemory memory;
  const double* preference;  // (T,), or null for 1/k
  double lr, momentum;
  int n_iter;
  double lam;

  MTL_HD static constexpr int workspace(int T) { return 4 * T; }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int k = problem.count;
    double *pull = arena.reals(k), *mixed = arena.reals(k), *slope = arena.reals(k), *velocity = arena.reals(k);
    double* a = problem.gram;
    const double share = memory.recall(lanes, problem, w);
    each(lanes, k, [=, this](int i) {
      pull[i] = lam * (preference == nullptr ? 1.0 / k : preference[problem.tasks[i]]);
      velocity[i] = 0.0;
    });
    const double length = sum_of(lanes, k, [=](int i) { return sqrt(fmax(a[i * k + i], 0.0)); }) / k;
    // Without a length to measure steps by, w stays.
    const double rate = 1.0 / (length * length);
    transpose(lanes, k, a);
    for (int iteration = 0; length > 0.0 && iteration < n_iter; ++iteration) {
      each(lanes, k, [=](int i) { mixed[i] = w[i] + pull[i]; });
      multiply(lanes, k, a, mixed, slope);
      each(lanes, k, [=, this](int i) {
        velocity[i] = momentum * velocity[i] + rate * slope[i];
        w[i] -= lr * velocity[i];
      });
      project_simplex(lanes, k, w);
    }
    memory.remember(lanes, problem, w, share);
    each(lanes, k, [=, this](int i) { w[i] = (w[i] + pull[i]) / (1.0 + lam); });
  }
};

/// λ becomes the projection of λ - γ (Aλ + ρλ), and is the answer.
struct MoDo {
  SimplexMemory memory;
  double gamma, rho;

  MTL_HD static constexpr int workspace(int T) { return T; }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int k = problem.count;
    double* slope = arena.reals(k);
    const double share = memory.recall(lanes, problem, w);
    transpose(lanes, k, problem.gram);
    multiply(lanes, k, problem.gram, w, slope);
    each(lanes, k, [=, this](int i) { w[i] -= gamma * (slope[i] + rho * w[i]); });
    project_simplex(lanes, k, w);
    memory.remember(lanes, problem, w, share);
  }
};

}  // namespace mtl_ops::solvers
