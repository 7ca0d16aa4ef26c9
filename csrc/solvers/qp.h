// The one quadratic program behind MGDA, UPGrad and CAGrad.
//
//     minimise  ½ xᵀA x + hᵀx   subject to  x >= 0   [and eᵀx = rhs]
//
// A is positive semidefinite, perhaps singular, with a unit diagonal (see `unit_diagonal`); e >= 0 and rhs > 0.  A primal
// active-set method (Lawson & Hanson, "Solving Least Squares Problems", 1974): keep a set of passive variables, those allowed
// to be positive; go towards the minimiser on that set, dropping whoever reaches 0 first; then admit the variable with the
// most negative multiplier; repeat.  With the equality, systems are solved with A + eeᵀ, which is positive definite on every
// affinely independent set even where A is not.

#pragma once

#include "linalg.h"
#include "problem.h"

namespace mtl_ops::solvers {

enum class QpStatus { kOptimal, kUnbounded, kOutOfSteps };

template <class Lanes>
class NonNegativeQp {
 public:
  MTL_HD static constexpr int workspace(int n) { return Triangle::size(n) + 7 * n + 2 * ints_size(n); }

  /// A row counts as dependent on others if no more than `dependent` of its squared length is left without them.
  MTL_HD NonNegativeQp(const Lanes& lanes, int n, const double* a, Arena& arena, double dependent = 0.0)
      : lanes_(lanes),
        n_(n),
        dependent_(fmax(dependent, 8.0 * n * kEpsilon)),
        a_(a),
        factor_{arena.reals(Triangle::size(n)), n},
        x_(arena.reals(n)),
        z_(arena.reals(n)),
        along_e_(arena.reals(n)),
        along_h_(arena.reals(n)),
        y_(arena.reals(n)),
        magnitude_(arena.reals(n)),
        scratch_(arena.reals(n)),
        passive_(arena.ints(n)),
        mark_(arena.ints(n)) {}

  /// Without the equality.  The minimiser is `x()`.
  MTL_HD QpStatus minimise(const double* h) {
    h_ = h;
    e_ = nullptr;
    rhs_ = 0.0;
    size_ = select(lanes_, n_, [=](int i) { return h[i] < 0.0; }, passive_);
    return run();
  }

  /// After a call without the equality whose h has changed since: from the passive set of that call, whose factor still holds.
  MTL_HD QpStatus minimise_again() { return run(valid_); }

  /// With the equality.  `warm` starts from the passive set of the last call instead of from all variables.
  MTL_HD QpStatus minimise(const double* h, const double* e, double rhs, bool warm) {
    h_ = h;
    e_ = e;
    rhs_ = rhs;
    if (!warm) size_ = select(lanes_, n_, [=](int i) { return e[i] > 0.0; }, passive_);
    return run();
  }

  MTL_HD const double* x() const { return x_; }
  MTL_HD int steps() const { return steps_; }

  /// After a call with the equality: as long as the passive set stays the same, x = rhs * slope + offset.
  MTL_HD void line(double* slope, double* offset) const {
    const double eu = dot_passive(e_, along_e_), ev = dot_passive(e_, along_h_);
    each(lanes_, n_, [=](int i) { slope[i] = offset[i] = 0.0; });
    each(lanes_, size_, [=, this](int q) {
      slope[passive_[q]] = along_e_[q] / eu;
      offset[passive_[q]] = along_e_[q] * (ev / eu) - along_h_[q];
    });
  }

 private:
  enum Mark { kFree, kPassive, kRefused };
  static constexpr double kTolerance = 1e-13;  // a multiplier this small against its own terms is zero
  static constexpr double kFlat = 1e-6;        // what rounding of a Gram matrix leaves of a slope, or a speed, of zero

  MTL_HD double matrix(int i, int j) const { return a_[i * n_ + j] + (e_ != nullptr ? e_[i] * e_[j] : 0.0); }

  template <class Keep>
  MTL_HD int count_of(int n, Keep keep) const {
    return static_cast<int>(sum_of(lanes_, n, [=](int i) { return keep(i) ? 1.0 : 0.0; }));
  }

  MTL_HD double dot_passive(const double* full, const double* packed) const {
    return sum_of(lanes_, size_, [=, this](int q) { return full[passive_[q]] * packed[q]; });
  }

  MTL_HD QpStatus run(int valid = 0) {
    valid_ = valid;
    *this = run_copy(*this);
    return status_;
  }

  MTL_HD_CALLED static NonNegativeQp run_copy(NonNegativeQp copy) {
    copy.status_ = copy.do_run();
    return copy;
  }

  MTL_HD QpStatus do_run() {
    steps_ = 0;
    tau_ = 0.0;
    entered_ = -1;
    all_at_once_ = e_ == nullptr;
    violated_ = n_ + 1;
    bool settled = start();
    for (;;) {
      if (!settled) {
        const QpStatus status = descend();
        if (status != QpStatus::kOptimal) return status;
      }
      if (!admit()) return QpStatus::kOptimal;
      settled = false;
    }
  }

  /// Lets in the variables with a negative multiplier: all of them as long as they get fewer, then the one with the most negative,
  /// which alone is sure to make progress.  With the equality always that one: who is missing there when all are independent are few,
  /// and where they are not, those let in together would have to leave one by one.  False if there is none.
  MTL_HD bool admit() {
    gradient();
    const auto violated = [this](int i) { return mark_[i] == kFree && y_[i] < -kTolerance * magnitude_[i]; };
    const int count = count_of(n_, violated);
    if (count == 0) return false;
    all_at_once_ = all_at_once_ && count < violated_;
    violated_ = count;
    const Least worst = least_of(lanes_, n_, violated, [this](int i) { return y_[i]; });
    entered_ = all_at_once_ && count > 1 ? -1 : worst.index;
    once(lanes_, [=, this] {
      int end = size_;
      for (int i = 0; i < n_; ++i) {
        if (entered_ < 0 ? !violated(i) : i != entered_) continue;
        passive_[end++] = i;
        mark_[i] = kPassive;
      }
    });
    size_ += entered_ < 0 ? count : 1;
    return true;
  }

  /// A feasible start from a guess of the passive set; true if it already is the minimiser on that set.
  MTL_HD bool start() {
    each(lanes_, n_, [this](int i) {
      mark_[i] = kFree;
      x_[i] = 0.0;
    });
    bool settled = e_ == nullptr && size_ == 0;
    if (size_ > 0) {
      ++steps_;
      factorise_passive();
      if (valid_ < size_) {
        size_ = valid_ = 0;
      } else {
        const double tau = minimise_on_passive();
        settled = keep_positive();
        if (settled) tau_ = tau;
      }
    }
    if (size_ == 0 && e_ != nullptr) start_at_best_vertex();
    each(lanes_, size_, [this](int q) { mark_[passive_[q]] = kPassive; });
    return settled || size_ == 0;
  }

  /// x = z where z > 0, and nothing else stays passive.  True if that was everybody.
  MTL_HD bool keep_positive() {
    const int before = size_;
    each(lanes_, size_, [this](int q) { x_[passive_[q]] = z_[q]; });
    remove([this](int q) { return !(z_[q] > 0.0); });
    if (size_ == before) return true;
    if (e_ != nullptr && size_ > 0) {
      const double shrink = rhs_ / sum_of(lanes_, n_, [this](int i) { return e_[i] * x_[i]; });
      each(lanes_, n_, [=, this](int i) { x_[i] *= shrink; });
    }
    return false;
  }

  MTL_HD void start_at_best_vertex() {
    const Least best = least_of(
        lanes_, n_, [this](int i) { return e_[i] > 0.0; },
        [this](int i) {
          const double t = rhs_ / e_[i];
          return (0.5 * a_[i * n_ + i] * t + h_[i]) * t;
        });
    once(lanes_, [=, this] {
      passive_[0] = best.index;
      x_[best.index] = rhs_ / e_[best.index];
    });
    size_ = 1;
    valid_ = 0;
  }

  /// To the minimiser on the passive set, dropping variables on the way.
  MTL_HD QpStatus descend() {
    while (size_ > 0) {
      if (++steps_ > 10 * n_ + 10) return QpStatus::kOutOfSteps;
      factorise_passive();
      if (valid_ < size_) {
        if (!slide()) return QpStatus::kUnbounded;
        continue;
      }
      const double tau = minimise_on_passive();
      const Least blocking = least_of(
          lanes_, size_, [this](int q) { return !(z_[q] > 0.0); },
          [this](int q) {
            const double xq = x_[passive_[q]];
            return xq > z_[q] ? xq / (xq - z_[q]) : 0.0;
          });
      each(lanes_, size_, [=, this](int q) {
        double& xq = x_[passive_[q]];
        if (blocking.index < 0) {
          xq = z_[q];
        } else {
          xq = q == blocking.index ? 0.0 : fmax(xq + blocking.value * (z_[q] - xq), 0.0);
        }
      });
      if (blocking.index < 0) {
        tau_ = tau;
        pardon();
        return QpStatus::kOptimal;
      }
      remove([this](int q) { return !(z_[q] > 0.0) && x_[passive_[q]] == 0.0; });
    }
    tau_ = 0.0;
    return QpStatus::kOptimal;
  }

  MTL_HD void factorise_passive() {
    const auto entry = [this](int p, int q) { return matrix(passive_[p], passive_[q]); };
    valid_ = factorise(lanes_, factor_, valid_, size_, entry, dependent_, scratch_);
  }

  /// The minimiser on the passive set, signs ignored, into z; returns the multiplier of the equality.
  MTL_HD double minimise_on_passive() {
    if (e_ == nullptr) {
      each(lanes_, size_, [this](int q) { z_[q] = -h_[passive_[q]]; });
      solve_factorised(lanes_, factor_, size_, z_);
      return 0.0;
    }
    each(lanes_, size_, [this](int q) {
      along_e_[q] = e_[passive_[q]];
      along_h_[q] = h_[passive_[q]];
    });
    solve_factorised(lanes_, factor_, size_, along_e_);
    solve_factorised(lanes_, factor_, size_, along_h_);
    const double tau = (rhs_ + dot_passive(e_, along_h_)) / dot_passive(e_, along_e_);
    each(lanes_, size_, [=, this](int q) { z_[q] = tau * along_e_[q] - along_h_[q]; });
    return tau - rhs_;
  }

  /// y = A x + h - τ e, and the sum of the magnitudes of its terms.
  MTL_HD void gradient() {
    lanes_.sync();
    each(lanes_, n_, [this](int i) {
      const double te = e_ != nullptr ? tau_ * e_[i] : 0.0;
      y_[i] = h_[i] - te;
      magnitude_[i] = fabs(h_[i]) + fabs(te);
    });
    for (int q = 0; q < size_; ++q) {
      const int j = passive_[q];
      add_with_magnitude(lanes_, n_, x_[j], a_ + j * n_, y_, magnitude_);
    }
    lanes_.sync();
  }

  /// The row in place `valid_` depends on those before it: along p = (1, -r) the objective is a straight line, so follow it
  /// downhill until somebody reaches 0.  False if nobody does.
  MTL_HD bool slide() {
    const int k = valid_, j = passive_[k];
    each(lanes_, k, [=, this](int q) { z_[q] = matrix(passive_[q], j); });
    solve_factorised(lanes_, factor_, k, z_);
    gradient();
    const double slope = y_[j] - sum_of(lanes_, k, [this](int q) { return y_[passive_[q]] * z_[q]; });
    double sign = slope <= 0.0 ? 1.0 : -1.0;
    Least blocking = first_to_vanish(k, sign);
    if (blocking.index < 0) {
      if (slope < -kFlat * magnitude_[j]) return false;
      sign = -1.0;  // flat: take j out again, which the others always allow
      blocking = first_to_vanish(k, sign);
    }
    each(lanes_, k + 1, [=, this](int q) {
      double& xq = x_[passive_[q]];
      xq = fmax(xq + blocking.value * direction(q, k, sign), 0.0);
    });
    remove([=](int q) { return q == blocking.index; });
    return true;
  }

  MTL_HD double direction(int q, int k, double sign) const { return q == k ? sign : -sign * z_[q]; }

  /// Who is at 0 first; whoever moves so slowly that it may be rounding is not, however far it goes.
  MTL_HD Least first_to_vanish(int k, double sign) const {
    const double fastest = largest_of(lanes_, k + 1, [=, this](int q) { return fabs(direction(q, k, sign)); });
    return least_of(
        lanes_, k + 1, [=, this](int q) { return direction(q, k, sign) < (q < k ? -kFlat * fastest : 0.0); },
        [=, this](int q) { return x_[passive_[q]] / -direction(q, k, sign); });
  }

  /// Takes the variables in the places that `gone` admits out of the passive set.  One that leaves right after it alone was let in
  /// did so by rounding: it is refused until another one has been let in.
  template <class Gone>
  MTL_HD void remove(Gone gone) {
    const Least first = least_of(lanes_, size_, gone, [](int q) { return double(q); });
    if (first.index < 0) return;
    const int count = count_of(size_, gone);
    once(lanes_, [=, this] {
      for (int q = 0, end = 0; q < size_; ++q) {
        const int i = passive_[q];
        if (!gone(q)) {
          passive_[end++] = i;
        } else {
          x_[i] = 0.0;
          mark_[i] = i == entered_ ? kRefused : kFree;
        }
      }
    });
    size_ -= count;
    valid_ = first.index < valid_ ? first.index : valid_;
  }

  MTL_HD void pardon() {
    if (entered_ < 0 || mark_[entered_] != kPassive) return;
    lanes_.sync();
    each(lanes_, n_, [this](int i) {
      if (mark_[i] == kRefused) mark_[i] = kFree;
    });
  }

  Lanes lanes_;
  int n_;
  double dependent_;
  const double* a_;
  const double* h_ = nullptr;
  const double* e_ = nullptr;
  double rhs_ = 0.0;
  double tau_ = 0.0;
  Triangle factor_;
  double *x_, *z_, *along_e_, *along_h_, *y_, *magnitude_, *scratch_;
  int *passive_, *mark_;
  int size_ = 0;      // passive variables
  int valid_ = 0;     // columns of the factor that still hold
  int steps_ = 0;     // Cholesky solves so far
  int violated_ = 0;  // negative multipliers found last
  bool all_at_once_ = true;
  int entered_ = -1;  // the variable let in last
  QpStatus status_ = QpStatus::kOptimal;
};

}  // namespace mtl_ops::solvers
