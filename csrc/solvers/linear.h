// Sum and mean: weights that do not look at the Gram matrix.
#pragma once

#include "lanes.h"
#include "problem.h"

namespace mtl_ops::solvers {

/// w = 1, or w = 1/k for k tasks that take part.
struct Linear {
  bool mean;

  MTL_HD static constexpr int workspace(int) { return 0; }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena&) const {
    const double weight = mean ? 1.0 / problem.count : 1.0;
    each(lanes, problem.count, [=](int i) { w[i] = weight; });
  }
};

}  // namespace mtl_ops::solvers
