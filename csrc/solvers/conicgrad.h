// ConicGrad: the direction d that makes an angle of at most arccos c with the mean gradient g0 and whose least inner product with a
// gradient, per length, is largest; |d| = |g0|.
//
// Hassanpour, Janjua, Zhang, Lavasani, Zhang, Zhou, Gao, "Fantastic Multi-Task Gradient Updates and How to Find Them In a Cone",
// arXiv 2502.00217, 2025.
//
// Without the cone that is MGDA's direction.  Where it is outside, the answer is on the border, d = |g0| (c ĝ0 + s e) with s = √(1 - c²)
// and the e ⟂ g0, |e| <= 1, that maximises min_i (c p_i + s <g_i, e>), p = Gu/|g0|: CAGrad's problem for the parts a_i of the gradients
// that are orthogonal to g0, A = G - ppᵀ, and the values c p_i that they start from.

#pragma once

#include <math.h>

#include "cagrad.h"
#include "mgda.h"

namespace mtl_ops::solvers {

/// z >= 0 with |Σ z_i a_i| = r.  Unlike CAGrad's, the a_i have 0 in their hull, by their mean: |Σ z_i a_i| may stop to grow with λ = Σz.
template <class Lanes>
class BorderSearch : public RadiusSearch<Lanes> {
  using Base = RadiusSearch<Lanes>;

 public:
  using Base::Base;

  /// False if no e leaves all tasks unharmed and `stationary` says that none could make them all gain; if one does, x is the shortest.
  MTL_HD bool find(double r, bool stationary) {
    const double shortest = -largest_of(
        this->lanes_, this->n_, [this](int i) { return this->a_[i * this->n_ + i] > 0.0 ? -this->e_[i] : -HUGE_VAL; });
    this->low_ = 0.0;
    this->high_ = HUGE_VAL;
    double rhs = r * shortest;  // Σz of the longest a_i alone
    // Where Σz is not given, the value is 0: to which side the answer lies.
    const bool solved = this->qp_.minimise(this->h_) == QpStatus::kOptimal && this->size() <= kFarthest * r;
    if (solved && this->norm(this->x()) > r) {
      this->high_ = this->total() * (1.0 + 1e-9);
      rhs = fmin(rhs, 0.5 * this->high_);
    } else if (solved && stationary) {
      return true;
    } else if (solved) {
      this->low_ = this->total();
      rhs = fmax(rhs, 2.0 * this->low_);
    }
    if (!stationary) search(r, rhs);
    return !stationary;
  }

 private:
  static constexpr double kFarthest = 1e7, kFar = 1e5;  // Σ z_i |a_i| over r

  MTL_HD void search(double r, double rhs) {
    for (int step = 0; step < Base::kMaxSteps; ++step) {
      this->qp_.minimise(this->h_, this->e_, rhs, step > 0);
      const double found = this->norm(this->x()), extent = this->size();
      const double rounding = 4.0 * this->n_ * kEpsilon * extent * extent / (found + r);
      if (fabs(found - r) <= 1e-13 * r + rounding || this->high_ - this->low_ <= 4.0 * kEpsilon * rhs) return;
      (found > r ? this->high_ : this->low_) = found > r ? fmin(this->high_, rhs) : fmax(this->low_, rhs);
      if (found < r && !(this->high_ < HUGE_VAL) && extent > kFar * r && flat()) return;
      rhs = next(rhs, r);
    }
  }

  /// Whether |Σ z_i a_i| does not grow any more: the best e is shorter than 1.
  MTL_HD bool flat() {
    this->qp_.line(this->slope_, this->offset_);
    const double* slope = this->slope_;
    const double size =
        sum_of(this->lanes_, this->n_, [=, this](int i) { return this->a_[i * this->n_ + i] * fabs(slope[i]); });
    return this->inner(slope, slope) <= 64.0 * this->n_ * kEpsilon * size * size;
  }

  MTL_HD double next(double rhs, double r) {
    // Where the length stays the same for a while, the root is rounding.
    const double root = flat() ? 0.0 : this->largest_root(r);
    if (this->low_ < root && root < this->high_) return root;
    if (!(this->high_ < HUGE_VAL)) return 16.0 * rhs;
    return this->low_ > 0.0 ? sqrt(this->low_ * this->high_) : this->high_ / 16.0;
  }
};

/// w = 0 where g0 is; 1/k where 0 is in the hull of the gradients and nothing in the cone leaves all tasks unharmed.
struct ConicGrad {
  double c;

  MTL_HD static constexpr int workspace(int T) {
    return T * T + 4 * T +
           (RadiusSearch<Serial>::workspace(T) > Mgda::workspace(T) ? RadiusSearch<Serial>::workspace(T)
                                                                    : Mgda::workspace(T));
  }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int n = problem.count;
    const double* g = problem.gram;
    double *a = arena.reals(n * n), *u = arena.reals(n), *p = arena.reals(n), *h = arena.reals(n), *s = arena.reals(n);
    each(lanes, n, [=](int i) { u[i] = 1.0 / n; });
    multiply(lanes, n, g, u, p);
    const double mean = sqrt(fmax(sum_of(lanes, n, [=](int i) { return u[i] * p[i]; }), 0.0));
    const double longest = sqrt(largest_of(lanes, n, [=](int i) { return g[i * n + i]; }));
    if (!(longest > 0.0) || mean <= kAxis * kEpsilon * longest) return each(lanes, n, [=](int i) { w[i] = 0.0; });
    if (c >= 1.0 || n == 1) return each(lanes, n, [=](int i) { w[i] = u[i]; });

    const bool stationary = descend(lanes, problem, a, w, h, arena);
    if (!stationary && inside(lanes, n, p, mean, w, h)) return rescale(lanes, n, g, mean, w, h);

    const double sine = sqrt(1.0 - c * c);
    each(lanes, n, [=](int i) { p[i] /= mean; });
    project(lanes, n, g, p, a);
    unit_diagonal(lanes, n, a, s);
    const double cosine = c;
    each(lanes, n, [=](int i) { h[i] = cosine * p[i] * s[i]; });
    if (!(largest_of(lanes, n, [=](int i) { return a[i * n + i]; }) > 0.0)) {
      return each(lanes, n, [=](int i) { w[i] = u[i]; });
    }
    BorderSearch<Lanes> search(lanes, n, a, s, h, arena);
    if (!search.find(sine, stationary)) return each(lanes, n, [=](int i) { w[i] = u[i]; });
    const double* x = search.x();
    const double along = sum_of(lanes, n, [=](int i) { return p[i] * x[i] * s[i]; });
    each(lanes, n, [=](int i) { w[i] = (cosine - along) * u[i] + mean * x[i] * s[i]; });
    rescale(lanes, n, g, mean, w, h);
  }

 private:
  static constexpr double kAxis = 64.0;  // a mean of less than this rounding of the longest gradient has no direction
  static constexpr double kStationary = 1e-7;  // what a Gram matrix cannot tell from a hull with 0 in it

  /// MGDA's w, by way of `a`; v = G w.  True if it is 0.
  template <class Lanes>
  MTL_HD static bool descend(const Lanes& lanes, const Problem& problem, double* a, double* w, double* v, Arena arena) {
    const int n = problem.count;
    const double* g = problem.gram;
    each(lanes, n * n, [=](int at) { a[at] = g[at]; });
    Problem copy = problem;
    copy.gram = a;
    Mgda{}(lanes, copy, w, arena);
    multiply(lanes, n, g, w, v);
    const double square = sum_of(lanes, n, [=](int i) { return w[i] * v[i]; });
    const double extent = sum_of(lanes, n, [=](int i) { return w[i] * sqrt(g[i * n + i]); });
    return !(square > kStationary * kStationary * extent * extent);
  }

  template <class Lanes>
  MTL_HD bool inside(const Lanes& lanes, int n, const double* p, double mean, const double* w, const double* v) const {
    const double length = sqrt(sum_of(lanes, n, [=](int i) { return w[i] * v[i]; }));
    const double along = sum_of(lanes, n, [=](int i) { return w[i] * p[i]; }) / mean;
    return along >= c * length * (1.0 - 1e-12);
  }

  /// A = G - ppᵀ; what is parallel to g0 but for rounding gets a row of zeros.
  template <class Lanes>
  MTL_HD static void project(const Lanes& lanes, int n, const double* g, const double* p, double* a) {
    const auto left = [=](int i) {
      const double rest = g[i * n + i] - p[i] * p[i];
      return rest > kAxis * kEpsilon * g[i * n + i] ? rest : 0.0;
    };
    each(lanes, n * n, [=](int at) {
      const int i = at / n, j = at % n;
      const double product = left(i) > 0.0 && left(j) > 0.0 ? g[at] - p[i] * p[j] : 0.0;
      a[at] = i == j ? left(i) : product;
    });
  }

  /// To |Jᵀw| = |g0|.
  template <class Lanes>
  MTL_HD static void rescale(const Lanes& lanes, int n, const double* g, double mean, double* w, double* v) {
    multiply(lanes, n, g, w, v);
    const double square = sum_of(lanes, n, [=](int i) { return w[i] * v[i]; });
    const double stretch = square > 0.0 ? mean / sqrt(square) : 1.0;
    each(lanes, n, [=](int i) { w[i] *= stretch; });
  }
};

}  // namespace mtl_ops::solvers
