// Per-task scales s (S, T): the task's weight, times its clip factor min(1, max_task_norm / |g_t|), or 0 where the task takes no part.
//
// A task's norm is that of its whole gradient, over all segments.  A task that takes part in any segment and whose norm is not
// finite is left out of all of them if `skip_nonfinite` says so, unless no other would be left: then the problem stays as it is, its
// answer is NaN, and whoever looks at the merged gradient (a GradScaler, say) sees that the step is lost.
#pragma once

#include <math.h>

#include <cstdint>

#include "lanes.h"
#include "problem.h"

namespace mtl_ops::solvers {

struct TaskScales {
  const double* task_weights;  // (S, T), 0 where the task takes no part
  double max_task_norm;        // infinity for none
  bool skip_nonfinite;

  MTL_HD static constexpr int workspace(int T) { return 2 * ints_size(T); }

  /// What clips a task whose norm over all segments has this square.
  MTL_HD double factor(double square) const {
    const double norm = sqrt(square);
    return norm > max_task_norm ? max_task_norm / norm : 1.0;
  }

  /// Fills scale (S, T), and adds 1 to skipped[t] (T,), unless it is null, for every t that takes part with a non-finite norm.
  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, int S, int T, const double* gram, double* scale, int64_t* skipped,
                         Arena& arena) const {
    int* present = arena.ints(T);
    int* broken = arena.ints(T);
    each(lanes, T, [=, this](int t) {
      double square = 0.0;
      bool any = false;
      for (int s = 0; s < S; ++s) {
        const double weight = task_weights[s * T + t];
        if (weight == 0.0) continue;
        any = true;
        square += gram[(s * T + t) * T + t];
      }
      present[t] = any;
      broken[t] = any && !finite(square);
      const double clip = factor(square);
      for (int s = 0; s < S; ++s) {
        const double weight = task_weights[s * T + t];
        scale[s * T + t] = weight == 0.0 ? 0.0 : weight * clip;
      }
      if (skipped != nullptr && broken[t]) ++skipped[t];
    });
    if (!skip_nonfinite) return;
    const double left = sum_of(lanes, T, [=](int t) { return present[t] && !broken[t] ? 1.0 : 0.0; });
    if (left == 0.0) return;
    each(lanes, S * T, [=](int at) {
      if (broken[at % T]) scale[at] = 0.0;
    });
  }
};

}  // namespace mtl_ops::solvers
