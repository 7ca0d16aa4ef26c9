// Eigenvalues and eigenvectors of a positive semidefinite matrix, the small ones as accurate as the large ones.
//
// A = LLᵀ by a pivoted Cholesky factorisation; then one-sided Jacobi rotations make the columns of L orthogonal, and what is left
// are √λ_k v_k (Veselić & Hari, "A note on a one-sided Jacobi algorithm", Numer. Math. 1989).  For A = D C D with a diagonal D, the
// error of every eigenvalue depends on the condition of C alone (Demmel & Veselić, "Jacobi's method is more accurate than QR",
// SIAM J. Matrix Anal. Appl. 1992): tasks whose gradients differ in length by many decades do not drown each other.
//
// Rotations that share no column are made at the same time, each by one lane alone, so the result does not depend on the number of
// lanes.
//
// Lanes may know of a library (csrc/cpu/lapack.h) that is quicker for many rows but errs by a share of the *largest* eigenvalue.  It
// is asked where that is no more than rotations err, and leaves the others something that is nearly orthogonal already.

#pragma once

#include "linalg.h"
#include "problem.h"

namespace mtl_ops::solvers {

/// xᵀy by a single lane, in eight partial sums that the compiler can keep in vector registers.
MTL_HD inline double dot(int n, const double* __restrict__ x, const double* __restrict__ y) {
  double part[8] = {};
  int i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int u = 0; u < 8; ++u) part[u] += x[i + u] * y[i + u];
  }
  for (int u = 0; u < 8; ++u) {
    if (i + u < n) part[u] += x[i + u] * y[i + u];
  }
  return ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
}

/// Whether these lanes know of a library.
template <class Lanes>
concept HasLibrary = requires { Lanes::takes(0); };

template <class Lanes>
class Eigen {
 public:
  MTL_HD static constexpr int workspace(int n) { return n * stride(n) + 3 * n + ints_size(n); }

  MTL_HD Eigen(const Lanes& lanes, int n, Arena& arena)
      : lanes_(lanes),
        n_(n),
        columns_(arena.reals(n * stride(n))),
        square_(arena.reals(n)),
        rest_(arena.reals(n)),
        coefficient_(arena.reals(n)),
        order_(arena.ints(n)) {}

  /// Of A (n x n), whose largest entry should be far from the limits of a double squared.  A row of whose diagonal entry the others
  /// leave no more than the share `dependent`, or rounding, adds an eigenvalue of exactly 0.
  MTL_HD void decompose(const double* a, double dependent = 0.0) { *this = decompose_copy(*this, a, dependent); }

  /// How many eigenvalues of A are larger than `tolerance` times the largest.  Often that is clear long before the columns are
  /// orthogonal: by Weyl's inequality, no squared norm is further from an eigenvalue than the inner products of different columns
  /// together, ‖LᵀL - diag‖_F² = ‖A‖_F² - ‖diag‖².
  MTL_HD int rank_of(const double* a, double tolerance) {
    if constexpr (HasLibrary<Lanes>) {
      if (Lanes::takes(n_) && spread(a) == 1.0) return rank_by_library(a, tolerance);
    }
    factorise(a, 0.0);
    const double total = sum_of(lanes_, n_ * n_, [=](int at) { return a[at] * a[at]; });
    for (int sweep = 0; sweep < kMaxSweeps && count_ > 0; ++sweep) {
      measure();
      const double diagonal = sum_of(lanes_, count_, [this](int k) { return square_[k] * square_[k]; });
      const double error = sqrt(fmax(total - diagonal, 0.0) + n_ * kEpsilon * total);
      const double most = largest_of(lanes_, count_, [this](int k) { return square_[k]; });
      const double least = -largest_of(lanes_, count_, [this](int k) { return -square_[k]; });
      if (least - error > tolerance * (most + error)) return count_;
      if (rotate_all() == 0.0) break;
    }
    measure();
    sort();
    return rank(tolerance);
  }

  /// How many eigenvalues do not vanish.
  MTL_HD int count() const { return count_; }

  /// How many eigenvalues are larger than `tolerance` times the largest.
  MTL_HD int rank(double tolerance) const {
    if (count_ == 0) return 0;
    const double least = tolerance * value(0);
    return static_cast<int>(sum_of(lanes_, count_, [=, this](int k) { return square_[k] > least ? 1.0 : 0.0; }));
  }

  /// The eigenvalue in place k, the largest first; 0 for those that vanish.
  MTL_HD double value(int k) const { return k < count_ ? square_[order_[k]] : 0.0; }

  /// y = Σ f(λ_k) v_k v_kᵀx over the `rank` largest eigenvalues, all positive.
  template <class F>
  MTL_HD void apply(int rank, F f, const double* x, double* y) const {
    lanes_.sync();
    each(lanes_, rank, [=, this](int k) {
      const double lambda = value(k);
      coefficient_[k] = f(lambda) / lambda * dot(n_, column(order_[k]), x);
    });
    each(lanes_, n_, [=](int i) { y[i] = 0.0; });
    for (int k = 0; k < rank; ++k) subtract_multiple(lanes_, 0, n_, -coefficient_[k], column(order_[k]), y);
    lanes_.sync();
  }

  /// Entry (i, i) of Σ f(λ_k) v_k v_kᵀ over the `rank` largest eigenvalues.
  template <class F>
  MTL_HD double diagonal(int rank, F f, int i) const {
    double total = 0.0;
    for (int k = 0; k < rank; ++k) {
      const double lambda = value(k), entry = column(order_[k])[i];
      total += f(lambda) / lambda * entry * entry;
    }
    return total;
  }

 private:
  static constexpr int kMaxSweeps = 30;
  static constexpr double kEven = 1e4;  // between the largest and the smallest: of no harm to a library's precision

  // Odd, so that lanes that walk down different columns meet different memory banks.
  MTL_HD static constexpr int stride(int n) { return n | 1; }

  MTL_HD double* column(int k) const { return columns_ + k * stride(n_); }

  MTL_HD_CALLED static Eigen decompose_copy(Eigen copy, const double* a, double dependent) {
    copy.do_decompose(a, dependent);
    return copy;
  }

  MTL_HD void do_decompose(const double* a, double dependent) {
    if (well_conditioned(a, dependent)) return sort();
    factorise(a, dependent);
    const bool orthogonal = turn(a);
    for (int sweep = 0; !orthogonal && sweep < kMaxSweeps; ++sweep) {
      measure();
      if (rotate_all() == 0.0) break;
    }
    measure();
    sort();
  }

  /// A = LLᵀ, a column at a time, the largest remaining diagonal first.  Rows stay where they are: L is triangular only up to a
  /// permutation, which nobody needs to know.
  MTL_HD void factorise(const double* a, double dependent) {
    dependent = fmax(dependent, 2.0 * n_ * kEpsilon);
    double* rest = rest_;  // what the columns so far leave of each diagonal entry
    lanes_.sync();
    each(lanes_, n_, [=, this](int i) { rest[i] = a[i * n_ + i]; });
    for (count_ = 0; count_ < n_; ++count_) {
      const auto independent = [=, this](int i) { return rest[i] > dependent * a[i * n_ + i]; };
      const Least pivot = least_of(lanes_, n_, independent, [=](int i) { return -rest[i]; });
      if (pivot.index < 0) break;
      double* l = column(count_);
      each(lanes_, n_, [=, this](int i) { l[i] = rest[i] == 0.0 ? 0.0 : a[pivot.index * n_ + i]; });
      for (int q = 0; q < count_; ++q) subtract_multiple(lanes_, 0, n_, column(q)[pivot.index], column(q), l);
      const double inverse = 1.0 / sqrt(-pivot.value);
      each(lanes_, n_, [=](int i) {
        l[i] = rest[i] == 0.0 ? 0.0 : l[i] * inverse;
        rest[i] = i == pivot.index ? 0.0 : fmax(rest[i] - l[i] * l[i], 0.0);
      });
    }
  }

  /// The largest over the smallest of the diagonal entries that are not 0.
  MTL_HD double spread(const double* a) const {
    const auto positive = [=, this](int i) { return a[i * n_ + i] > 0.0; };
    const Least least = least_of(lanes_, n_, positive, [=, this](int i) { return a[i * n_ + i]; });
    const Least most = least_of(lanes_, n_, positive, [=, this](int i) { return -a[i * n_ + i]; });
    return least.index < 0 ? HUGE_VAL : -most.value / least.value;
  }

  MTL_HD int rank_by_library(const double* a, double tolerance) {
    if constexpr (HasLibrary<Lanes>) Lanes::eigenvalues(n_, a, square_);
    const double least = fmax(tolerance, 2.0 * n_ * kEpsilon) * square_[n_ - 1];
    return static_cast<int>(sum_of(lanes_, n_, [=, this](int k) { return square_[k] > least ? 1.0 : 0.0; }));
  }

  /// Asks the library outright; false unless its error is a small one of the smallest eigenvalue, too.
  MTL_HD bool well_conditioned(const double* a, double dependent) {
    if constexpr (HasLibrary<Lanes>) {
      if (!Lanes::takes(n_) || spread(a) > kEven) return false;
      Lanes::eigenvectors(n_, a, square_, columns_, stride(n_));
      const double longest = largest_of(lanes_, n_, [=, this](int i) { return a[i * n_ + i]; });
      if (!(square_[0] > square_[n_ - 1] / kEven && square_[0] > 2.0 * dependent * longest)) return false;
      each(lanes_, n_, [this](int k) {
        for (int i = 0; i < n_; ++i) column(k)[i] *= sqrt(square_[k]);
      });
      count_ = n_;
      return true;
    }
    return false;
  }

  /// Has the library turn the columns; true if they are orthogonal to the precision that the lengths of the rows allow.
  MTL_HD bool turn(const double* a) {
    if constexpr (HasLibrary<Lanes>) {
      if (!Lanes::takes(n_) || count_ < 2) return false;
      const double range = spread(a);
      if (range > kEven * kEven) return false;  // what it leaves of short columns would be rounding
      Lanes::turn(count_, n_, columns_, stride(n_));
      return range <= kEven;
    }
    return false;
  }

  MTL_HD void measure() {
    each(lanes_, count_, [this](int k) { square_[k] = dot(n_, column(k), column(k)); });
  }

  /// Every pair of columns once, as in a tournament: in each round everybody meets one other, and the last one never moves.
  /// Returns how many pairs were not orthogonal yet.
  MTL_HD double rotate_all() {
    const int players = count_ + count_ % 2, others = players - 1;
    double turned = 0.0;
    for (int round = 0; round < others; ++round) {
      each(lanes_, players / 2, [&, this](int k) {
        const int up = round + k, down = round - k;
        const int p = up < others ? up : up - others;
        const int q = k == 0 ? others : down >= 0 ? down : down + others;
        if (p < count_ && q < count_ && rotate(column(p), column(q), square_[p], square_[q])) turned += 1.0;
      });
    }
    return lanes_.sum(turned);
  }

  /// Makes p and q orthogonal; false if they already were, up to the rounding of their inner product.  The angle between a long and
  /// a short column is made still smaller, down to what the short one alone can tell: then each entry of an eigenvector comes out
  /// as accurate as its size in units of the gradients' lengths allows.
  MTL_HD bool rotate(double* __restrict__ p, double* __restrict__ q, double& square_p, double& square_q) const {
    const double inner = dot(n_, p, q), tolerance = n_ * kEpsilon;
    if (fabs(inner) <= tolerance * (square_p < square_q ? square_p : square_q)) return false;
    const bool turned = inner * inner > tolerance * tolerance * square_p * square_q;
    const double cotangent = (square_q - square_p) / (2.0 * inner);  // of twice the angle
    const double root = sqrt(1.0 + cotangent * cotangent);
    const double tangent = copysign(1.0, cotangent) / (fabs(cotangent) + root);
    const double cosine = sqrt(0.5 + 0.5 * fabs(cotangent) / root), sine = cosine * tangent;
    for (int i = 0; i < n_; ++i) {
      const double pi = p[i], qi = q[i];
      p[i] = cosine * pi - sine * qi;
      q[i] = sine * pi + cosine * qi;
    }
    square_p -= tangent * inner;
    square_q += tangent * inner;
    return turned;
  }

  MTL_HD void sort() {
    each(lanes_, count_, [this](int k) {
      int place = 0;
      for (int j = 0; j < count_; ++j) place += square_[j] > square_[k] || (square_[j] == square_[k] && j < k);
      order_[place] = k;
    });
  }

  Lanes lanes_;
  int n_;
  int count_ = 0;  // columns, and eigenvalues that do not vanish
  double *columns_, *square_, *rest_, *coefficient_;
  int* order_;
};

/// Which tasks depend on each other is read off the cosine matrix C = G_ij s_i s_j, so that a task with a small gradient is never
/// mistaken for a dependent one: an eigenvalue counts if it is more than this share of the largest.
struct RankTolerance {
  double given;     // negative for what the rounding of G calls for
  double rounding;  // of G's entries

  MTL_HD double of(int k) const { return given >= 0.0 ? given : noise_of(rounding, k); }
};

/// Turns C back into G, in units of its largest diagonal entry, and puts the lengths 1/s in the same units into `length`.
template <class Lanes>
MTL_HD void restore_lengths(const Lanes& lanes, int n, const double* s, double* a, double* length) {
  const auto positive = [=](int i) { return a[i * n + i] > 0.0; };
  const Least longest = least_of(lanes, n, positive, [=](int i) { return s[i]; });
  const double unit = longest.index < 0 ? 1.0 : longest.value;
  each(lanes, n, [=](int i) { length[i] = positive(i) ? unit / s[i] : 0.0; });
  for (int i = 0; i < n; ++i) {
    each(lanes, n, [=](int j) { a[i * n + j] *= length[i] * length[j]; });
  }
}

}  // namespace mtl_ops::solvers
