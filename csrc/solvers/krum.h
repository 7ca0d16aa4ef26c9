// Krum: of T gradients, those that lie closest to their nearest neighbours.
#pragma once

#include <math.h>

#include "lanes.h"
#include "problem.h"

namespace mtl_ops::solvers {

/// w = 1/m for the m = n_selected tasks whose distances to their k - n_byzantine - 2 nearest neighbours sum to the least.  Of equals
/// the first is taken.  Where tasks are left out, at least one neighbour is looked at, and at most k tasks are selected.
struct Krum {
  int n_byzantine;
  int n_selected;
  bool squared;

  MTL_HD static constexpr int workspace(int T) { return T * T + T; }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int k = problem.count;
    double *distances = arena.reals(k * k), *score = arena.reals(k);
    const int others = k - 1;
    int neighbours = k - n_byzantine - 2;
    if (neighbours < 1) neighbours = 1;
    if (neighbours > others) neighbours = others;
    each(lanes, k, [=, this](int i) {
      double* sorted = distances + i * k;
      sort_distances(problem.gram, k, i, sorted);
      score[i] = 0.0;
      for (int j = 0; j < neighbours; ++j) score[i] += sorted[j];
    });
    const int selected = n_selected < k ? n_selected : k;
    each(lanes, k, [=](int i) {
      int before = 0;
      for (int j = 0; j < k; ++j) before += score[j] < score[i] || (score[j] == score[i] && j < i);
      w[i] = before < selected ? 1.0 / selected : 0.0;
    });
  }

 private:
  /// Distances of task i to the others, in ascending order.
  MTL_HD void sort_distances(const double* gram, int k, int i, double* sorted) const {
    int count = 0;
    for (int j = 0; j < k; ++j) {
      if (j == i) continue;
      const double square = fmax(gram[i * k + i] + gram[j * k + j] - 2.0 * gram[i * k + j], 0.0);
      const double distance = squared ? square : sqrt(square);
      int place = count++;
      for (; place > 0 && sorted[place - 1] > distance; --place) sorted[place] = sorted[place - 1];
      sorted[place] = distance;
    }
  }
};

}  // namespace mtl_ops::solvers
