// Nash-MTL and FairGrad: the w > 0 with (G w)_i = w_i^{-1/α}.
//
// They are where the strictly convex ½ wᵀGw - Σ ψ(w_i), ψ'(w) = w^{-1/α}, is least; for α = 1 this is the scaling of a symmetric
// matrix, find D with D G D 1 = 1 (Marshall & Olkin, Numer. Math. 1968; Khachiyan & Kalantari, SIAM J. Optim. 1992).  Newton's method
// in relative steps on x, w_i = n_i^{-2α/(1+α)} x_i, which orthogonal gradients solve with x = 1 and which for α = 1 turns G into the
// cosine matrix: the lengths n_i of the gradients then do not matter.
//
// Where 0 is in the convex hull of the gradients there is no solution; a ridge on the cosine matrix keeps the answer finite.

#pragma once

#include <math.h>

#include "linalg.h"
#include "problem.h"

namespace mtl_ops::solvers {

/// Solves v = x∘(Ax) = k x^{1-1/α}, A = √k (C + ridge) √k, k_i = (n_i / n̄)^{2(1-α)/(1+α)} with n̄ the geometric mean.
template <class Lanes>
class FairnessEquation {
 public:
  MTL_HD static constexpr int workspace(int n) { return Triangle::size(n) + 12 * n; }

  /// `a` is G (n x n), to overwrite.
  MTL_HD FairnessEquation(const Lanes& lanes, int n, double* a, double alpha, double ridge, Arena& arena)
      : lanes_(lanes),
        n_(n),
        alpha_(alpha),
        ridge_(ridge),
        a_(a),
        factor_{arena.reals(Triangle::size(n)), n},
        s_(arena.reals(n)),
        k_(arena.reals(n)),
        x_(arena.reals(n)),
        best_(arena.reals(n)),
        v_(arena.reals(n)),
        magnitude_(arena.reals(n)),
        target_(arena.reals(n)),
        diagonal_(arena.reals(n)),
        step_(arena.reals(n)),
        trial_(arena.reals(n)),
        change_(arena.reals(n)),
        scratch_(arena.reals(n)) {}

  /// w (n,), 0 for a zero gradient.
  MTL_HD void solve(double* w) {
    scale();
    start();
    iterate();
    const double power = 2.0 * alpha_ / (1.0 + alpha_);
    each(lanes_, n_, [=, this](int i) { w[i] = best_[i] * (alpha_ == 1.0 ? s_[i] : pow(s_[i], power)); });
  }

  /// √(wᵀGw) of the answer, for α = 1.
  MTL_HD double norm() {
    multiply_with_magnitude(lanes_, n_, a_, best_, v_, magnitude_);
    const double square =
        sum_of(lanes_, n_, [this](int i) { return s_[i] == 0.0 ? 0.0 : best_[i] * (v_[i] - ridge_ * best_[i]); });
    return sqrt(fmax(square, 0.0));
  }

 private:
  struct Error {
    double residual;  // max |1 - v/target|
    double step;      // the largest relative step that Newton's method in a single weight would take
    double rounding;  // what of that is beyond double precision
  };

  static constexpr int kMaxIterations = 100;
  static constexpr int kMaxHalvings = 20;

  /// From G to A.  A zero gradient becomes one that is orthogonal to all others, so they do not notice it.
  MTL_HD void scale() {
    unit_diagonal(lanes_, n_, a_, s_);
    each(lanes_, n_, [this](int i) {
      if (a_[i * n_ + i] == 0.0) s_[i] = 0.0;
      k_[i] = 1.0;
    });
    if (alpha_ != 1.0) weigh_lengths();
    each(lanes_, n_, [this](int i) { a_[i * n_ + i] = k_[i] * (1.0 + ridge_); });
  }

  MTL_HD void weigh_lengths() {
    const double count = sum_of(lanes_, n_, [this](int i) { return s_[i] > 0.0 ? 1.0 : 0.0; });
    const double logs = sum_of(lanes_, n_, [this](int i) { return s_[i] > 0.0 ? log(s_[i]) : 0.0; });
    const double power = (1.0 - alpha_) / (1.0 + alpha_);
    each(lanes_, n_, [=, this](int i) {
      scratch_[i] = s_[i] > 0.0 ? exp(power * (logs / count - log(s_[i]))) : 1.0;
      k_[i] = scratch_[i] * scratch_[i];
    });
    for (int j = 0; j < n_; ++j) {
      each(lanes_, n_, [=, this](int i) { a_[j * n_ + i] *= scratch_[i] * scratch_[j]; });
    }
  }

  /// The best of all multiples of 1, if A tells.
  MTL_HD void start() {
    each(lanes_, n_, [this](int i) { x_[i] = 1.0; });
    multiply_with_magnitude(lanes_, n_, a_, x_, v_, magnitude_);
    const double have = sum_of(lanes_, n_, [this](int i) { return v_[i]; });
    const double want = sum_of(lanes_, n_, [this](int i) { return k_[i]; });
    const double size = have > 1e-8 * want ? pow(want / have, alpha_ / (1.0 + alpha_)) : 1.0;
    each(lanes_, n_, [=, this](int i) { x_[i] = best_[i] = size; });
  }

  /// How near x is, the step tells: the residual of a large weight does not, because with a small α its target may be less than the
  /// rounding of v.
  MTL_HD void iterate() {
    double best = HUGE_VAL;
    int stalled = 0;
    for (int iteration = 0; iteration < kMaxIterations; ++iteration) {
      const Error error = measure();
      if (error.step < 0.999 * best) {
        best = error.step;
        stalled = 0;
        each(lanes_, n_, [this](int i) { best_[i] = x_[i]; });
      } else {
        ++stalled;
      }
      if (error.residual <= 1e-13 || (stalled >= 2 && error.step <= 1e3 * error.rounding)) return;
      const bool any_over =
          least_of(lanes_, n_, [this](int i) { return v_[i] > target_[i]; }, [](int) { return 0.0; }).index >= 0;
      if (!(any_over && step(true)) && !step(false)) return;
    }
  }

  MTL_HD double wanted(int i, double x) const { return alpha_ == 1.0 ? k_[i] : k_[i] * pow(x, 1.0 - 1.0 / alpha_); }

  MTL_HD Error measure() {
    multiply_with_magnitude(lanes_, n_, a_, x_, v_, magnitude_);
    each(lanes_, n_, [this](int i) {
      v_[i] *= x_[i];
      target_[i] = wanted(i, x_[i]);
    });
    const auto residual = [this](int i) { return fabs(1.0 - v_[i] / target_[i]); };
    const auto curvature = [this](int i) { return a_[i * n_ + i] * x_[i] * x_[i] + target_[i] / alpha_; };
    const auto step = [=, this](int i) { return fabs(target_[i] - v_[i]) / curvature(i); };
    const auto rounding = [=, this](int i) { return 4.0 * kEpsilon * x_[i] * magnitude_[i] / curvature(i); };
    return {largest_of(lanes_, n_, residual), largest_of(lanes_, n_, step), largest_of(lanes_, n_, rounding)};
  }

  /// One step of Newton's method; false if it leads nowhere.  The logarithmic form of the equations with too large a v converges
  /// from far away, where the plain form creeps.
  MTL_HD bool step(bool logarithmic) {
    each(lanes_, n_, [=, this](int i) {
      const bool over = logarithmic && v_[i] > target_[i];
      step_[i] = over ? -v_[i] * log(v_[i] / target_[i]) : target_[i] - v_[i];
      diagonal_[i] = (over ? v_[i] : target_[i]) / alpha_;
    });
    if (!solve_for_step()) return false;
    const double up = largest_of(lanes_, n_, [this](int i) { return step_[i]; });
    const double down = largest_of(lanes_, n_, [this](int i) { return -step_[i]; });
    if (logarithmic) {
      const double gain = sum_of(lanes_, n_, [this](int i) { return (target_[i] - v_[i]) * step_[i]; });
      if (gain <= 0.0) return false;
      each(lanes_, n_, [this](int i) { trial_[i] = x_[i] * exp(fmin(fmax(step_[i], -30.0), 2.0)); });
    } else {
      const double length = fmin(down > 0.95 ? 0.95 / down : 1.0, up > 8.0 ? 8.0 / up : 1.0);
      each(lanes_, n_, [=, this](int i) { trial_[i] = x_[i] * (1.0 + length * step_[i]); });
    }
    return accept(fmax(up, down), !logarithmic);
  }

  /// (x A x + diagonal) step = step.
  MTL_HD bool solve_for_step() {
    const auto entry = [this](int i, int j) { return a_[j * n_ + i] * x_[i] * x_[j] + (i == j ? diagonal_[i] : 0.0); };
    if (factorise(lanes_, factor_, 0, n_, entry, 0.0, scratch_) < n_) {
      // Not positive definite, by rounding.
      const auto raised = [=](int i, int j) { return entry(i, j) * (i == j ? 1.0 + 1e-12 : 1.0); };
      if (factorise(lanes_, factor_, 0, n_, raised, 0.0, scratch_) < n_) return false;
    }
    solve_factorised(lanes_, factor_, n_, step_);
    return true;
  }

  /// Goes to `trial_`, or as much of the way as does not overshoot; `always` at least a little.
  MTL_HD bool accept(double size, bool always) {
    each(lanes_, n_, [this](int i) { change_[i] = trial_[i] - x_[i]; });
    const double slope = sum_of(lanes_, n_, [this](int i) { return (v_[i] - target_[i]) / x_[i] * change_[i]; });
    if (slope >= 0.0 && size > 1e-3) return false;
    bool good = size < 0.1;
    for (int halving = 0; halving < kMaxHalvings && !good; ++halving) {
      good = !overshoots(fabs(slope));
      if (!good) {
        each(lanes_, n_, [this](int i) {
          change_[i] *= 0.5;
          trial_[i] = x_[i] + change_[i];
        });
      }
    }
    if (!good && !always) return false;
    each(lanes_, n_, [this](int i) { x_[i] = trial_[i]; });
    return true;
  }

  /// Whether the slope at `trial_` goes up about as steeply as it went down at x.
  MTL_HD bool overshoots(double slope) {
    multiply_with_magnitude(lanes_, n_, a_, trial_, step_, magnitude_);
    const double after =
        sum_of(lanes_, n_, [this](int i) { return (step_[i] - wanted(i, trial_[i]) / trial_[i]) * change_[i]; });
    const double terms = sum_of(
        lanes_, n_, [this](int i) { return (magnitude_[i] + wanted(i, trial_[i]) / trial_[i]) * fabs(change_[i]); });
    return !(after <= 0.9 * slope + 1e-13 * terms);
  }

  Lanes lanes_;
  int n_;
  double alpha_, ridge_;
  double* a_;
  Triangle factor_;
  double *s_, *k_, *x_, *best_, *v_, *magnitude_, *target_, *diagonal_, *step_, *trial_, *change_, *scratch_;
};

/// The ridge on the cosine matrix.
struct Ridge {
  double given;     // negative for what the rounding of G calls for
  double rounding;  // of G's entries

  MTL_HD double of(int k) const { return given >= 0.0 ? given : fmax(kLeast, noise_of(rounding, k)); }

  static constexpr double kLeast = 1e-10;
};

struct FairGrad {
  double alpha;
  Ridge ridge;

  MTL_HD static constexpr int workspace(int T) { return FairnessEquation<Serial>::workspace(T); }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int k = problem.count;
    if (alpha == 0.0) {
      each(lanes, k, [=](int i) { w[i] = 1.0 / k; });
      return;
    }
    FairnessEquation<Lanes>(lanes, k, problem.gram, alpha, ridge.of(k), arena).solve(w);
  }
};

struct NashMtl {
  double max_norm;  // infinity for none
  Ridge ridge;

  MTL_HD static constexpr int workspace(int T) { return FairnessEquation<Serial>::workspace(T); }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    FairnessEquation<Lanes> equation(lanes, problem.count, problem.gram, 1.0, ridge.of(problem.count), arena);
    equation.solve(w);
    const double norm = equation.norm();
    if (norm > max_norm) each(lanes, problem.count, [=, this](int i) { w[i] *= max_norm / norm; });
  }
};

}  // namespace mtl_ops::solvers
