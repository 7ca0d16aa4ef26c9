// Linear programs of a few more unknowns than tasks, by the simplex method.
//
// Dantzig, "Linear Programming and Extensions", Princeton 1963; in the form of dictionaries: Chvátal, "Linear Programming", Freeman 1983.
// The largest coefficient enters; after a number of steps the one of the lowest index, so that no circle is endless (Bland, "New finite
// pivoting rules for the simplex method", Math. Oper. Res. 1977).

#pragma once

#include <math.h>

#include "linalg.h"
#include "problem.h"

namespace mtl_ops::solvers {

/// Basic variables as functions of the others: `basic_i = Σ_j at(i, j) free_j + at(i, columns)`; and the objective, in row `rows`.
///
/// All but one variable, which never leaves, are at least 0.
template <class Lanes>
class Dictionary {
 public:
  static constexpr int kUnbounded = -1;  // the name of a variable that may be negative: it stays basic
  static constexpr int kArtificial = 0;  // and of one that leaves as soon as it can

  MTL_HD static constexpr int workspace(int rows, int columns) {
    return (rows + 1) * (columns + 1) + rows + 1 + columns + ints_size(rows) + ints_size(columns);
  }

  MTL_HD Dictionary(const Lanes& lanes, int rows, int columns, Arena& arena)
      : lanes_(lanes),
        rows_(rows),
        columns_(columns),
        table_(arena.reals((rows + 1) * (columns + 1))),
        column_(arena.reals(rows + 1)),
        error_(arena.reals(columns)),
        basic_(arena.ints(rows)),
        free_(arena.ints(columns)) {
    each(lanes_, columns, [=, this](int l) { error_[l] = 0.0; });
  }

  MTL_HD int rows() const { return rows_; }
  MTL_HD int columns() const { return columns_; }
  MTL_HD double* row(int i) const { return table_ + i * (columns_ + 1); }
  MTL_HD double& at(int i, int j) const { return row(i)[j]; }
  MTL_HD double& constant(int i) const { return row(i)[columns_]; }
  MTL_HD double* objective() const { return row(rows_); }
  MTL_HD int& basic(int i) const { return basic_[i]; }
  MTL_HD int& free(int j) const { return free_[j]; }

  /// Exchanges the basic variable of row i with the free one of column j.
  MTL_HD void pivot(int i, int j) const { pivot_copy(*this, i, j); }

  /// From a dictionary whose constants are not negative to the largest objective; stops where the artificial variable becomes free.
  MTL_HD void maximise() const { maximise_copy(*this); }

 private:
  static constexpr double kErrors = 64.0;  // an objective's coefficient counts if it is more of its errors than this
  static constexpr double kGain = 1e-11;   // of the largest that the objective has at first
  static constexpr double kPivot = 1e-10;  // of rows whose largest coefficient is 1
  static constexpr double kTie = 1e-13;

  // A copy has the same table.
  MTL_HD_CALLED static void pivot_copy(Dictionary copy, int i, int j) { copy.do_pivot(i, j); }
  MTL_HD_CALLED static void maximise_copy(Dictionary copy) { copy.do_maximise(); }

  MTL_HD void do_pivot(int i, int j) const {
    lanes_.sync();
    const double inverse = 1.0 / at(i, j);
    each(lanes_, rows_ + 1, [=, this](int q) { column_[q] = at(q, j); });
    double* mine = row(i);
    each(lanes_, rows_ + 1, [=, this](int q) { at(q, j) = 0.0; });
    each(lanes_, columns_ + 1, [=](int l) { mine[l] = l == j ? inverse : -inverse * mine[l]; });
    const double error = error_[j] + kEpsilon * fabs(column_[rows_]);
    lanes_.sync();
    each(lanes_, columns_, [=, this](int l) { error_[l] = (l == j ? 0.0 : error_[l]) + error * fabs(mine[l]); });
    for (int q = 0; q <= rows_; ++q) {
      if (q != i && column_[q] != 0.0) subtract_multiple(lanes_, 0, columns_ + 1, -column_[q], mine, row(q));
    }
    lanes_.sync();
    each(lanes_, rows_, [=, this](int q) {
      if (basic_[q] != kUnbounded) constant(q) = fmax(constant(q), 0.0);  // what is below is rounding
    });
    once(lanes_, [=, this] {
      const int name = basic_[i];
      basic_[i] = free_[j];
      free_[j] = name;
    });
  }

  MTL_HD void do_maximise() const {
    const int size = rows_ + columns_;
    const double* z = objective();
    each(lanes_, columns_, [=, this](int l) { error_[l] = kEpsilon * fabs(z[l]); });
    int small_gains = 0;
    for (int step = 0; step < 50 * size; ++step) {
      const bool cautious = step >= 5 * size;
      const Least entering = least_of(
          lanes_, columns_, [=, this](int l) { return z[l] > kErrors * error_[l]; },
          [=, this](int l) { return cautious ? double(free_[l]) : -z[l]; });
      if (entering.index < 0) return;
      // A coefficient may be rounding, all the same: that of the rows is not in the errors.
      if (z[entering.index] <= kGain && ++small_gains > size) return;
      const int i = first_to_vanish(entering.index, cautious);
      if (i < 0) return;
      const bool done = basic_[i] == kArtificial;
      pivot(i, entering.index);
      if (done) return;
    }
  }

  /// The row whose variable is at 0 first when the one of column j grows; of equals that of the largest coefficient, or lowest name.
  MTL_HD int first_to_vanish(int j, bool cautious) const {
    const auto falls = [=, this](int i) { return at(i, j) < -kPivot && basic_[i] != kUnbounded; };
    const auto ratio = [=, this](int i) { return constant(i) / -at(i, j); };
    const Least first = least_of(lanes_, rows_, falls, ratio);
    if (first.index < 0) return -1;
    const Least chosen = least_of(
        lanes_, rows_, [=](int i) { return falls(i) && ratio(i) <= first.value + kTie; },
        [=, this](int i) {
          if (basic_[i] == kArtificial) return -HUGE_VAL;
          return cautious ? double(basic_[i]) : at(i, j);
        });
    return chosen.index;
  }

  Lanes lanes_;
  int rows_, columns_;
  double *table_, *column_;
  double* error_;  // of the objective's coefficients
  int *basic_, *free_;
};

/// The largest cᵀx among the x on the simplex with A x >= b.
///
/// In a dictionary x_l of column l is named 1 + l; the last column is the artificial variable's.
template <class Lanes>
class SimplexProgram {
 public:
  MTL_HD static constexpr int workspace(int n, int bounds) { return Dictionary<Lanes>::workspace(bounds + 1, n); }

  MTL_HD SimplexProgram(const Lanes& lanes, int n, int bounds, Arena& arena)
      : lanes_(lanes), n_(n), dictionary_(lanes, bounds + 1, n, arena) {}

  /// `entry(i, j)` is A_ij, of rows whose largest element is about 1; c (n,) and x (n,).  False if there is no such x.
  template <class Entry>
  MTL_HD bool maximise(Entry entry, const double* b, const double* c, double* x) const {
    start(entry, b);
    if (!make_feasible()) return false;
    set_objective(c);
    dictionary_.maximise();
    each(lanes_, n_, [=](int l) { x[l] = 0.0; });
    const auto& d = dictionary_;
    each(lanes_, d.rows(), [=](int i) {
      const int l = d.basic(i) - 1;
      if (0 <= l && l < n_of(d)) x[l] = d.constant(i);
    });
    const double total = sum_of(lanes_, n_, [=](int l) { return x[l]; });
    each(lanes_, n_, [=](int l) { x[l] /= total; });
    return true;
  }

 private:
  static constexpr double kFeasible = 1e-9;

  MTL_HD static int n_of(const Dictionary<Lanes>& d) { return d.columns(); }

  /// At the vertex of x_k = 1 with the least violation.
  template <class Entry>
  MTL_HD void start(Entry entry, const double* b) const {
    const auto& d = dictionary_;
    const int n = n_, bounds = d.rows() - 1;
    const Least best = least_of(
        lanes_, n, [](int) { return true; },
        [=](int l) {
          double worst = 0.0;
          for (int i = 0; i < bounds; ++i) worst = fmax(worst, b[i] - entry(i, l));
          return worst;
        });
    const int k = best.index;
    each(lanes_, n, [=](int j) {
      const int l = j < k ? j : j + 1;  // column n - 1 is not that of a task
      d.free(j) = j == n - 1 ? Dictionary<Lanes>::kArtificial : 1 + l;
      d.at(0, j) = j == n - 1 ? 0.0 : -1.0;
      for (int i = 0; i < bounds; ++i) d.at(i + 1, j) = j == n - 1 ? 1.0 : entry(i, l) - entry(i, k);
      d.objective()[j] = j == n - 1 ? -1.0 : 0.0;
    });
    each(lanes_, bounds + 1, [=](int i) {
      d.basic(i) = i == 0 ? 1 + k : 1 + n + i;
      d.constant(i) = i == 0 ? 1.0 : entry(i - 1, k) - b[i - 1];
    });
    once(lanes_, [=] { d.objective()[n] = 0.0; });
  }

  MTL_HD bool make_feasible() const {
    const auto& d = dictionary_;
    const int last = d.columns() - 1;
    const Least worst = least_of(lanes_, d.rows(), [](int) { return true; }, [=](int i) { return d.constant(i); });
    if (worst.value < 0.0) {
      // The row of the worst first: then no constant is negative, and none is lifted to 0 by mistake.
      d.pivot(worst.index, last);
      d.maximise();
      const Least left = least_of(
          lanes_, d.rows(), [=](int i) { return d.basic(i) == Dictionary<Lanes>::kArtificial; },
          [=](int i) { return d.constant(i); });
      if (left.index >= 0) {
        if (left.value > kFeasible) return false;
        const int i = left.index;
        const Least out =
            least_of(lanes_, last + 1, [](int) { return true; }, [=](int j) { return -fabs(d.at(i, j)); });
        if (-out.value > kFeasible) d.pivot(i, out.index);  // else the row says 0 = 0
      }
    }
    for (int j = 0; j <= last; ++j) {
      if (d.free(j) != Dictionary<Lanes>::kArtificial) continue;
      each(lanes_, d.rows(), [=](int i) { d.at(i, j) = 0.0; });
    }
    return true;
  }

  /// cᵀx in terms of what is free, in units of its largest coefficient.
  MTL_HD void set_objective(const double* c) const {
    const auto& d = dictionary_;
    const int n = n_;
    const double largest = largest_of(lanes_, n, [=](int l) { return fabs(c[l]); });
    const double unit = largest > 0.0 ? 1.0 / largest : 0.0;
    double* z = d.objective();
    each(lanes_, n + 1, [=](int j) {
      const int l = j < n ? d.free(j) - 1 : -1;
      z[j] = 0 <= l && l < n ? unit * c[l] : 0.0;
    });
    for (int i = 0; i < d.rows(); ++i) {
      const int l = d.basic(i) - 1;
      if (0 <= l && l < n) subtract_multiple(lanes_, 0, n + 1, -unit * c[l], d.row(i), z);
    }
    lanes_.sync();
  }

  Lanes lanes_;
  int n_;
  Dictionary<Lanes> dictionary_;
};

}  // namespace mtl_ops::solvers
