// CAGrad: the direction d within c|g0| of the mean gradient g0 whose least inner product with a gradient is largest.
//
// Liu, Liu, Jin, Stone, Liu, "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS 2021.
//
// Dual: ω on the simplex with <g_ω, g0> + r |g_ω| least, r = c |g0|; then d = g0 + (r / |g_ω|) g_ω.  With z = λω, z minimises
// ½ zᵀGz + (G/k 1)ᵀz on z >= 0, Σz = λ, and λ is the one number for which |Jᵀz| = r.  |Jᵀz(λ)| does not decrease, and while the
// support stays the same z(λ) is a straight line; so λ is found by solving quadratic equations, within a bracket.

#pragma once

#include <math.h>

#include "linalg.h"
#include "problem.h"
#include "qp.h"

namespace mtl_ops::solvers {

/// z >= 0 with |Jᵀz| = r, in the variables x = z / s in which the Gram matrix has a unit diagonal; λ is measured in units of max s.
template <class Lanes>
class RadiusSearch {
 public:
  MTL_HD static constexpr int workspace(int n) { return 4 * n + NonNegativeQp<Serial>::workspace(n); }

  /// `h` is S G/k 1.
  MTL_HD RadiusSearch(const Lanes& lanes, int n, const double* a, const double* s, const double* h, Arena& arena)
      : lanes_(lanes),
        n_(n),
        a_(a),
        h_(h),
        e_(arena.reals(n)),
        slope_(arena.reals(n)),
        offset_(arena.reals(n)),
        product_(arena.reals(n)),
        qp_(lanes, n, a, arena) {
    const double unit = largest_of(lanes_, n_, [=](int i) { return s[i]; });
    each(lanes_, n_, [=, this](int i) { e_[i] = s[i] / unit; });
  }

  /// False if 0 is in the convex hull and the ball is so large that g_ω is 0: then x is the projection of g0 on the dual cone, the
  /// nearest d that no gradient contradicts.
  MTL_HD bool find(double r) {
    const bool stationary = bracket_by_least_norm(r);
    const QpStatus status = qp_.minimise(h_);
    if (status == QpStatus::kOptimal && r <= norm(x()) * (1.0 + 1e-12)) {
      high_ = fmin(high_, total() * (1.0 + 1e-9));
    } else if (stationary) {
      return false;
    } else {
      low_ = fmax(low_, total());
    }
    search(r);
    return true;
  }

  MTL_HD const double* x() const { return qp_.x(); }

  /// |Jᵀz|.
  MTL_HD double norm(const double* x) { return sqrt(fmax(inner(x, x), 0.0)); }

  /// λ.
  MTL_HD double total() const {
    return sum_of(lanes_, n_, [this](int i) { return e_[i] * x()[i]; });
  }

 protected:
  static constexpr int kMaxSteps = 64;
  static constexpr double kStationary = 1e-7;  // what a Gram matrix cannot tell from a hull with 0 in it

  MTL_HD double inner(const double* p, const double* q) {
    multiply(lanes_, n_, a_, p, product_);
    return sum_of(lanes_, n_, [=, this](int i) { return q[i] * product_[i]; });
  }

  /// Σ z_i |g_i|.
  MTL_HD double size() const {
    return sum_of(lanes_, n_, [this](int i) { return a_[i * n_ + i] * x()[i]; });
  }

  /// r / λ = |g_ω| lies between the least norm and the largest.
  MTL_HD bool bracket_by_least_norm(double r) {
    each(lanes_, n_, [this](int i) { offset_[i] = 0.0; });
    qp_.minimise(offset_, e_, 1.0, false);
    const double least = norm(x());
    const double extent = sum_of(lanes_, n_, [this](int i) { return x()[i]; });
    const bool stationary = least <= kStationary * extent;
    const double shortest =
        -largest_of(lanes_, n_, [this](int i) { return a_[i * n_ + i] > 0.0 ? -e_[i] : -HUGE_VAL; });
    first_ = r * shortest;
    low_ = 0.5 * first_;
    high_ = stationary ? HUGE_VAL : 2.0 * r / least;
    return stationary;
  }

  MTL_HD void search(double r) {
    double rhs = fmin(fmax(first_, low_ * (1.0 + 1e-6)), high_);
    for (int step = 0; step < kMaxSteps; ++step) {
      qp_.minimise(h_, e_, rhs, step > 0);
      const double found = norm(x()), extent = size();
      const double rounding = 4.0 * n_ * kEpsilon * extent * extent / found;
      if (fabs(found - r) <= 1e-13 * r + rounding || high_ - low_ <= 4.0 * kEpsilon * rhs) return;
      (found > r ? high_ : low_) = found > r ? fmin(high_, rhs) : fmax(low_, rhs);
      const double next = next_rhs(rhs, r);
      if (fabs(next - rhs) <= 4.0 * kEpsilon * rhs) return;
      rhs = next;
    }
  }

  MTL_HD double next_rhs(double rhs, double r) {
    const double next = largest_root(r);
    if (low_ < next && next < high_) return next;
    return high_ < HUGE_VAL ? sqrt(low_ * high_) : 16.0 * rhs;
  }

  /// The larger λ with |Jᵀ(λ slope + offset)| = r, or NaN.
  MTL_HD double largest_root(double r) {
    qp_.line(slope_, offset_);
    const double a2 = inner(slope_, slope_), a1 = inner(slope_, offset_), a0 = inner(offset_, offset_) - r * r;
    const double root = sqrt(a1 * a1 - a2 * a0);
    return a1 <= 0.0 ? (root - a1) / a2 : -a0 / (a1 + root);
  }

  Lanes lanes_;
  int n_;
  const double *a_, *h_;
  double *e_, *slope_, *offset_, *product_;
  NonNegativeQp<Lanes> qp_;
  double first_ = 0.0, low_ = 0.0, high_ = 0.0;
};

/// w = (1/k + r/|Jᵀz| z), times the rescaling of `rescale`: 0 none, 1 1/(1 + c²), 2 1/(1 + c).
struct CaGrad {
  double c;
  int rescale;
  double norm_eps;  // below √norm_eps for |J|, or norm_eps |J| for |g_ω|, w = 0

  MTL_HD static constexpr int workspace(int T) { return 3 * T + RadiusSearch<Serial>::workspace(T); }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int n = problem.count;
    double *a = problem.gram, *s = arena.reals(n), *h = arena.reals(n), *u = arena.reals(n);
    each(lanes, n, [=](int i) { u[i] = 1.0 / n; });
    multiply(lanes, n, a, u, h);
    const double mean = sqrt(fmax(sum_of(lanes, n, [=](int i) { return u[i] * h[i]; }), 0.0)), r = c * mean;
    const double trace = sum_of(lanes, n, [=](int i) { return a[i * n + i]; });
    const double longest = sqrt(largest_of(lanes, n, [=](int i) { return a[i * n + i]; }));
    const bool nothing = !(trace > 0.0) || trace < norm_eps || mean <= 64.0 * kEpsilon * longest;
    if (nothing || c == 0.0) return combine(lanes, n, nothing ? 0.0 : factor() / n, 0.0, u, u, w);

    unit_diagonal(lanes, n, a, s);
    each(lanes, n, [=](int i) { h[i] *= s[i]; });
    RadiusSearch<Lanes> search(lanes, n, a, s, h, arena);
    double stretch = 1.0;
    bool stop = false;
    if (search.find(r)) {
      const double reached = search.norm(search.x());
      const double unit = largest_of(lanes, n, [=](int i) { return s[i]; });
      stop = reached < norm_eps * sqrt(trace) * unit * search.total();
      stretch = r / reached;
    } else {
      stop = norm_eps > 0.0;
    }
    combine(lanes, n, stop ? 0.0 : factor() / n, stop ? 0.0 : factor() * stretch, s, search.x(), w);
  }

 private:
  MTL_HD double factor() const { return rescale == 0 ? 1.0 : 1.0 / (1.0 + (rescale == 1 ? c * c : c)); }

  /// w = constant + slope s x.
  template <class Lanes>
  MTL_HD static void combine(const Lanes& lanes, int n, double constant, double slope, const double* s, const double* x,
                             double* w) {
    each(lanes, n, [=](int i) { w[i] = slope == 0.0 ? constant : constant + slope * s[i] * x[i]; });
  }
};

}  // namespace mtl_ops::solvers
