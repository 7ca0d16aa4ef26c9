// From a segment's Gram matrix and task scales to the problem a method sees, and back.
//
// A task whose scale is 0 is left out: the method gets the k x k matrix G'_ij = s_i G_ij s_j of the others, and its answer w'
// becomes w = s w' with 0 for the tasks left out.  So a task missing from a batch is not a zero gradient, which would put 0
// into the convex hull and stop MGDA and CAGrad.

#pragma once

#include "lanes.h"

namespace mtl_ops::solvers {

/// How many doubles hold `n` ints.
MTL_HD constexpr int ints_size(int n) { return (n + 1) / 2; }

/// Hands out pieces of the workspace, one after the other; there is nothing to free.
class Arena {
 public:
  MTL_HD explicit Arena(double* start) : next_(start) {}

  MTL_HD double* reals(int n) {
    double* piece = next_;
    next_ += n;
    return piece;
  }

  MTL_HD int* ints(int n) { return reinterpret_cast<int*>(reals(ints_size(n))); }

 private:
  double* next_;
};

/// What a method solves.  `gram` is the method's own copy, to overwrite as it likes.
struct Problem {
  int count;            // k: tasks that take part
  int total;            // T: tasks of the segment
  int segment;          // which of the S segments
  double* gram;         // k x k, row-major
  const int* tasks;     // k: the task in place i
  const int* position;  // T: the place of task t, or -1 if it is left out
};

MTL_HD inline bool finite(double value) { return value - value == 0.0; }

MTL_HD constexpr int problem_workspace(int T) { return T * T + T + 2 * ints_size(T); }

/// Carves the k-task problem out of a segment; says whether all of it is finite.
template <class Lanes>
MTL_HD bool reduce_problem(const Lanes& lanes, int T, const double* gram, const double* scale, Arena& arena,
                           Problem& problem) {
  double* reduced = arena.reals(T * T);
  int* tasks = arena.ints(T);
  int* position = arena.ints(T);
  const int count = select(lanes, T, [=](int t) { return scale == nullptr || scale[t] != 0.0; }, tasks);
  each(lanes, T, [=](int t) { position[t] = -1; });
  each(lanes, count, [=](int i) { position[tasks[i]] = i; });

  double bad = 0.0;
  each(lanes, count * count, [&](int at) {
    const int a = tasks[at / count], b = tasks[at % count];
    double value = gram[a * T + b];
    // The lower task's scale first on both sides of the diagonal, so that a symmetric G stays symmetric to the last bit.
    if (scale != nullptr) value = value * scale[a < b ? a : b] * scale[a < b ? b : a];
    reduced[at] = value;
    if (!finite(value)) bad = 1.0;
  });
  problem.count = count;
  problem.total = T;
  problem.gram = reduced;
  problem.tasks = tasks;
  problem.position = position;
  return lanes.sum(bad) == 0.0;
}

/// How much workspace `solve_segment` needs, in doubles.
template <class Method>
MTL_HD constexpr int segment_workspace(int T) {
  return problem_workspace(T) + Method::workspace(T);
}

/// Weights of one segment, out (T,): `method(lanes, problem, w, arena)` fills w (k,) from the reduced problem.  A non-finite
/// problem answers NaN for every task that takes part.
template <class Lanes, class Method>
MTL_HD void solve_segment(const Lanes& lanes, const Method& method, int segment, int T, const double* gram,
                          const double* scale, double* out, double* workspace) {
  Arena arena(workspace);
  double* w = arena.reals(T);
  Problem problem{};
  problem.segment = segment;
  const bool is_finite = reduce_problem(lanes, T, gram, scale, arena, problem);
  if (is_finite && problem.count > 0) {
    method(lanes, problem, w, arena);
  } else {
    constexpr double nan = __builtin_nan("");
    each(lanes, problem.count, [=](int i) { w[i] = nan; });
  }
  each(lanes, T, [=](int t) {
    const int i = problem.position[t];
    out[t] = i < 0 ? 0.0 : scale == nullptr ? w[i] : scale[t] * w[i];
  });
}

}  // namespace mtl_ops::solvers
