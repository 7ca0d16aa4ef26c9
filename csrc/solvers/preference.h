// EPO, PMGDA and FERERO: towards the point of the Pareto front that a preference asks for.
//
// All take the losses L and the preference r of the tasks beside the Gram matrix.  EPO's aim is that all r_i L_i are the same, PMGDA's
// and FERERO's that L is parallel to r.
//
// EPO: Mahapatra & Rajan, "Multi-Task Learning with User Preferences: Gradient Descent with Controlled Ascent in Pareto Optimization",
// ICML 2020.  PMGDA: Zhang, Lin, Zhang, "PMGDA: A Preference-based Multiple Gradient Descent Algorithm", arXiv 2402.09492, 2024.
// FERERO: Chen, Saif, Shen, Chen, "FERERO: A Flexible Framework for Preference-Guided Multi-Objective Learning", NeurIPS 2024.

#pragma once

#include <math.h>

#include "eigen.h"
#include "linear_program.h"
#include "mgda.h"

namespace mtl_ops::solvers {

MTL_HD constexpr int larger(int a, int b) { return a > b ? a : b; }

/// Losses and preferences of the tasks, by task.
struct Wishes {
  const double* losses;      // (T,)
  const double* preference;  // (T,), or null for 1

  MTL_HD double loss(const Problem& problem, int i) const { return losses[problem.tasks[i]]; }
  MTL_HD double preferred(const Problem& problem, int i) const {
    return preference == nullptr ? 1.0 : preference[problem.tasks[i]];
  }

  /// Whether the losses of the tasks that take part are numbers of at least `least`; if not, their weights are NaN.
  template <class Lanes>
  MTL_HD bool valid(const Lanes& lanes, const Problem& problem, double least, double* w) const {
    const double bad = sum_of(lanes, problem.count, [=, this](int i) {
      const double value = loss(problem, i);
      return finite(value) && value >= least ? 0.0 : 1.0;
    });
    if (bad == 0.0) return true;
    constexpr double nan = __builtin_nan("");
    each(lanes, problem.count, [=](int i) { w[i] = nan; });
    return false;
  }
};

/// Whether there is a gradient at all, and more than one task.
template <class Lanes>
MTL_HD bool worth_solving(const Lanes& lanes, const Problem& problem, double* w) {
  const int n = problem.count;
  const double* g = problem.gram;
  if (n > 1 && largest_of(lanes, n, [=](int i) { return g[i * n + i]; }) > 0.0) return true;
  each(lanes, n, [=](int i) { w[i] = 1.0 / n; });
  return false;
}

/// w on the simplex: balances r∘L while their shares are further than `tolerance` from equal, and descends then.
struct Epo {
  Wishes wishes;
  double tolerance;
  bool relax;

  MTL_HD static constexpr int workspace(int T) {
    return 5 * T + 2 + larger(SimplexProgram<Serial>::workspace(T, T + 1), Mgda::workspace(T));
  }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int n = problem.count;
    if (!wishes.valid(lanes, problem, 0.0, w) || !worth_solving(lanes, problem, w)) return;
    double *a = arena.reals(n), *ca = arena.reals(n), *goal = arena.reals(n);
    double *b = arena.reals(n + 1), *unit = arena.reals(n + 1);
    const double unevenness = ascent(lanes, problem, a);
    // In units of the longest gradient.
    double* g = problem.gram;
    const double square = largest_of(lanes, n, [=](int i) { return g[i * n + i]; });
    each(lanes, n * n, [=](int at) { g[at] /= square; });
    multiply(lanes, n, g, a, ca);
    const bool balance = unevenness > tolerance;
    bool keeps_balance = false;  // a bound of its own, in row n
    each(lanes, n, [=](int i) { goal[i] = ca[i]; });
    if (balance) {
      bound_balance(lanes, problem, ca, b, unit);
    } else {
      keeps_balance = bound_descent(lanes, problem, a, ca, b, unit);
      each(lanes, n, [=](int i) { a[i] = 1.0; });
      multiply(lanes, n, g, a, goal);
    }
    scale_rows(lanes, n, g, ca, b, unit);
    Arena rest = arena;
    SimplexProgram<Lanes> program(lanes, n, keeps_balance ? n + 1 : n, rest);
    const auto entry = [=](int i, int j) { return unit[i] * (i < n ? g[i * n + j] : ca[j]); };
    if (!program.maximise(entry, b, goal, w)) Mgda{}(lanes, problem, w, arena);
  }

 private:
  static constexpr double kEven = 1e-6;  // what is less between the logarithms of the shares is rounding

  /// a (k,), whose step makes the shares l of r∘L less even; returns Σ l log(k l).
  template <class Lanes>
  MTL_HD double ascent(const Lanes& lanes, const Problem& problem, double* a) const {
    const int n = problem.count;
    const Wishes mine = wishes;
    const double most = largest_of(lanes, n, [=](int i) { return mine.preferred(problem, i) * mine.loss(problem, i); });
    const double total = sum_of(
        lanes, n, [=](int i) { return most > 0.0 ? mine.preferred(problem, i) * mine.loss(problem, i) / most : 1.0; });
    const auto share = [=](int i) {
      return most > 0.0 ? mine.preferred(problem, i) * mine.loss(problem, i) / most / total : 1.0 / n;
    };
    const double mean = sum_of(lanes, n, [=](int i) { return share(i) > 0.0 ? share(i) * log(n * share(i)) : 0.0; });
    each(lanes, n, [=](int i) { a[i] = mine.preferred(problem, i) * (log(n * fmax(share(i), 1e-300)) - mean); });
    return mean;
  }

  /// The worst task must not lose, and no other more than a step along a would cost it; `unit` 0 for no bound.
  template <class Lanes>
  MTL_HD void bound_balance(const Lanes& lanes, const Problem& problem, const double* ca, double* b,
                            double* unit) const {
    const int n = problem.count;
    const Wishes mine = wishes;
    const auto weighted = [=](int i) { return mine.preferred(problem, i) * mine.loss(problem, i); };
    const double worst = largest_of(lanes, n, weighted);
    const bool some_gain = largest_of(lanes, n, [=](int i) { return ca[i]; }) > 0.0;
    each(lanes, n, [=](int i) {
      const bool is_worst = !some_gain || weighted(i) == worst;
      unit[i] = is_worst || ca[i] <= 0.0 ? 1.0 : 0.0;
      b[i] = is_worst ? 0.0 : ca[i];
    });
  }

  /// No task may lose; true if the shares must not become less even either, where that can be.
  template <class Lanes>
  MTL_HD bool bound_descent(const Lanes& lanes, const Problem& problem, const double* a, const double* ca, double* b,
                            double* unit) const {
    const int n = problem.count;
    const Wishes mine = wishes;
    const double uneven = largest_of(lanes, n, [=](int i) { return fabs(a[i] / mine.preferred(problem, i)); });
    const double gain = largest_of(lanes, n, [=](int i) { return ca[i]; });
    each(lanes, n, [=](int i) {
      unit[i] = 1.0;
      b[i] = 0.0;
    });
    once(lanes, [=] {
      unit[n] = 1.0;
      b[n] = fmin(0.0, gain);
    });
    return !relax && uneven > kEven;
  }

  /// Rows of A and b to a largest element of 1.
  template <class Lanes>
  MTL_HD static void scale_rows(const Lanes& lanes, int n, const double* g, const double* ca, double* b, double* unit) {
    each(lanes, n + 1, [=](int i) {
      double largest = 0.0;
      for (int j = 0; j < n; ++j) largest = fmax(largest, fabs(i < n ? g[i * n + j] : ca[j]));
      unit[i] = largest > 0.0 && unit[i] != 0.0 ? 1.0 / largest : 0.0;
      b[i] = unit[i] > 0.0 ? b[i] * unit[i] : 0.0;
    });
  }
};

/// Where L is further than `tolerance` from the ray of r: the v in the hull of the unit gradients and that of this distance h whose
/// least inner product with a gradient is largest among those with <v, ∇h> >= sigma |∇h|.  Elsewhere MGDA.
struct Pmgda {
  Wishes wishes;
  double tolerance, sigma;

  MTL_HD static constexpr int workspace(int T) {
    return 4 * T + larger(Dictionary<Serial>::workspace(T + 2, T + 1), Mgda::workspace(T));
  }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int n = problem.count;
    if (!wishes.valid(lanes, problem, -HUGE_VAL, w)) return;
    double *y = arena.reals(n), *v = arena.reals(n), *inverse = arena.reals(n), *mu = arena.reals(n);
    const double distance = off_ray(lanes, problem, y);
    const double* g = problem.gram;
    const double longest = sqrt(largest_of(lanes, n, [=](int i) { return g[i * n + i]; }));
    multiply(lanes, n, g, y, v);
    const double steepness = sqrt(fmax(sum_of(lanes, n, [=](int i) { return y[i] * v[i]; }), 0.0));
    if (distance < tolerance || !(steepness > kFlat * longest)) return Mgda{}(lanes, problem, w, arena);
    each(lanes, n, [=](int i) { inverse[i] = g[i * n + i] > 0.0 ? 1.0 / sqrt(g[i * n + i]) : 0.0; });
    Arena rest = arena;
    Dictionary<Lanes> d(lanes, n + 2, n + 1, rest);
    fill(lanes, n, g, v, inverse, longest, steepness, d);
    d.maximise();
    each(lanes, n, [=](int i) { mu[i] = 0.0; });
    each(lanes, d.rows(), [=](int q) {
      const int i = d.basic(q) - 1;
      if (0 <= i && i < n) mu[i] = d.constant(q);
    });
    const double rest_of = fmax(1.0 - sum_of(lanes, n, [=](int i) { return mu[i]; }), 0.0);
    each(lanes, n, [=](int i) { w[i] = mu[i] * inverse[i] + rest_of / steepness * y[i]; });
  }

 private:
  static constexpr double kFlat = 1e-12;

  /// h and its derivative y (k,) by the losses.
  template <class Lanes>
  MTL_HD double off_ray(const Lanes& lanes, const Problem& problem, double* y) const {
    const int n = problem.count;
    const Wishes mine = wishes;
    const double most = largest_of(lanes, n, [=](int i) { return mine.preferred(problem, i); });
    const double square = sum_of(lanes, n, [=](int i) {
      const double r = mine.preferred(problem, i) / most;
      return r * r;
    });
    const double along =
        sum_of(lanes, n, [=](int i) { return mine.loss(problem, i) * (mine.preferred(problem, i) / most); });
    each(lanes, n, [=](int i) { y[i] = mine.loss(problem, i) - along / square * (mine.preferred(problem, i) / most); });
    const double distance = sqrt(sum_of(lanes, n, [=](int i) { return y[i] * y[i]; }));
    each(lanes, n, [=](int i) { y[i] = distance > 0.0 ? y[i] / distance : 0.0; });
    return distance;
  }

  /// Unknowns μ_i (named 1 + i) of the unit gradients and μ_h (1 + k) = 1 - Σμ of that of h, and t, from μ_h = 1.  In row i the bound
  /// <g_i, v> >= t, but for the one that is active there, whose slack is the last column; then that of h.
  template <class Lanes>
  MTL_HD void fill(const Lanes& lanes, int n, const double* g, const double* v, const double* inverse, double longest,
                   double steepness, const Dictionary<Lanes>& d) const {
    const double share = sigma;
    const auto from_h = [=](int i) { return v[i] / (steepness * longest); };
    const auto bound = [=](int i, int j) { return g[i * n + j] * inverse[j] / longest - from_h(i); };
    const Least active = least_of(lanes, n, [](int) { return true; }, from_h);
    const int k = active.index;
    each(lanes, n, [=](int j) {
      d.free(j) = 1 + j;
      for (int i = 0; i < n; ++i) d.at(i, j) = i == k ? bound(k, j) : bound(i, j) - bound(k, j);
      d.at(n, j) = v[j] * inverse[j] / steepness - 1.0;
      d.at(n + 1, j) = -1.0;
      d.objective()[j] = bound(k, j);
    });
    each(lanes, n, [=](int i) {
      d.basic(i) = i == k ? Dictionary<Lanes>::kUnbounded : 2 + n + i;
      d.at(i, n) = i == k ? -1.0 : 1.0;
      d.constant(i) = i == k ? from_h(k) : from_h(i) - from_h(k);
    });
    once(lanes, [=] {
      d.free(n) = 2 + n + k;
      d.objective()[n] = -1.0;
      d.objective()[n + 1] = from_h(k);
      d.basic(n) = 2 + 2 * n;
      d.at(n, n) = 0.0;
      d.constant(n) = 1.0 - share;
      d.basic(n + 1) = 1 + n;
      d.at(n + 1, n) = 0.0;
      d.constant(n + 1) = 1.0;
    });
  }
};

/// w = λ + q of the λ on the simplex and q ⟂ r with ½|Jᵀ(λ + q)|² - κ <q, L> least; MGDA where nothing is least.
///
/// p is the task whose gradient is shortest in units of r.  With x_i = r_i / r_p and ρ = <x, w> = <x, λ> it is w_p = ρ - Σ x_i w_i, so
/// that the other w_i are free and Jᵀw = ρ g_p + Σ w_i (g_i - x_i g_p).  No x_i g_p is longer than g_i: what is left of a short gradient
/// is not the rounding of a long one, and in units of the gradients' lengths n all is in cosines.  With K the inner products of
/// g_i/n_i - u_i ĝ_p, u_i = x_i n_p/n_i, and f_i = κ (L_i - x_i L_p) the least over w is a parabola in ρ, and the least f·λ over λ the
/// lower hull of the points (x_i, f_i), whose corners are walked along.
struct Ferero {
  Wishes wishes;
  double kappa;
  double rounding;  // of G's entries

  MTL_HD static constexpr int workspace(int T) {
    return 7 * T + Triangle::size(T) + larger(Eigen<Serial>::workspace(T), Mgda::workspace(T));
  }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int n = problem.count;
    if (!wishes.valid(lanes, problem, -HUGE_VAL, w) || !worth_solving(lanes, problem, w)) return;
    double *x = arena.reals(n), *f = arena.reals(n), *inverse = arena.reals(n), *cross = arena.reals(n);
    double *pull = arena.reals(n), *from_f = arena.reals(n), *from_p = arena.reals(n);
    const Triangle kept{arena.reals(Triangle::size(n)), n};
    double* g = problem.gram;
    for (int i = 0; i < n; ++i) each(lanes, i, n, [=](int j) { kept.at(i, j) = g[i * n + j]; });
    const int p = shortest(lanes, problem);
    const double length = sqrt(g[p * n + p]);
    const double noise = in_units(lanes, problem, p, x, f, inverse);
    each(lanes, n, [=](int i) { pull[i] = inverse[i] * f[i]; });
    without(lanes, n, p, length, x, inverse, cross, g);

    Arena rest = arena;
    Eigen<Lanes> eigen(lanes, n, rest);
    eigen.decompose(g);
    // The largest is at least 1, task p's: of cosines, what is below this share of 1 is rounding.
    const int rank = eigen.rank(fmax(32.0 * n * kEpsilon, noise_of(rounding, n)));
    eigen.apply(rank, [](double) { return 1.0; }, pull, from_f);
    const double missing = sum_of(lanes, n, [=](int i) { return (pull[i] - from_f[i]) * (pull[i] - from_f[i]); });
    const double size = sum_of(lanes, n, [=](int i) { return pull[i] * pull[i]; });
    if (missing > fmax(kOutside * kOutside * size, noise * noise)) {
      for (int i = 0; i < n; ++i) {
        each(lanes, i, n, [=](int j) { g[i * n + j] = g[j * n + i] = kept.at(i, j); });
      }
      return Mgda{}(lanes, problem, w, arena);
    }
    eigen.apply(rank, [](double lambda) { return 1.0 / lambda; }, pull, from_f);
    eigen.apply(rank, [](double lambda) { return 1.0 / lambda; }, cross, from_p);
    const double left = length > 0.0 ? 1.0 - sum_of(lanes, n, [=](int i) { return cross[i] * from_p[i]; }) : 0.0;
    const double bend = length * length * fmax(left, 0.0);
    const double tilt = length * sum_of(lanes, n, [=](int i) { return pull[i] * from_p[i]; });
    const double rho = lowest(lanes, n, x, f, bend, tilt);
    each(lanes, n, [=](int i) { w[i] = inverse[i] * (from_f[i] - rho * length * from_p[i]); });
    const double others = sum_of(lanes, n, [=](int i) { return i == p ? 0.0 : x[i] * w[i]; });
    once(lanes, [=] { w[p] = rho - others; });
  }

 private:
  static constexpr double kOutside = 1e-8;

  /// The task of the least |g_i| / r_i.
  template <class Lanes>
  MTL_HD int shortest(const Lanes& lanes, const Problem& problem) const {
    const int n = problem.count;
    const Wishes mine = wishes;
    const double* g = problem.gram;
    return least_of(
               lanes, n, [](int) { return true; },
               [=](int i) { return sqrt(g[i * n + i]) / mine.preferred(problem, i); })
        .index;
  }

  /// x and f, the `inverse` of the gradients' lengths, and what rounding there is in f over them; of a gradient that vanishes the length
  /// is that of the shortest that does not.
  template <class Lanes>
  MTL_HD double in_units(const Lanes& lanes, const Problem& problem, int p, double* x, double* f,
                         double* inverse) const {
    const int n = problem.count;
    const Wishes mine = wishes;
    const double factor = kappa;
    const double* g = problem.gram;
    const double square =
        least_of(lanes, n, [=](int i) { return g[i * n + i] > 0.0; }, [=](int i) { return g[i * n + i]; }).value;
    each(lanes, n, [=](int i) {
      x[i] = mine.preferred(problem, i) / mine.preferred(problem, p);
      f[i] = i == p ? 0.0 : factor * (mine.loss(problem, i) - x[i] * mine.loss(problem, p));
      inverse[i] = 1.0 / sqrt(g[i * n + i] > 0.0 ? g[i * n + i] : square);
    });
    return 64.0 * kEpsilon * sqrt(sum_of(lanes, n, [=](int i) {
             const double terms =
                 factor * inverse[i] * (fabs(mine.loss(problem, i)) + x[i] * fabs(mine.loss(problem, p)));
             return i == p ? 0.0 : terms * terms;
           }));
  }

  /// G becomes K, and `cross` the inner products of its vectors with ĝ_p; task p, which has none, is an eigenvector of 1 by itself.
  template <class Lanes>
  MTL_HD static void without(const Lanes& lanes, int n, int p, double length, const double* x, const double* inverse,
                             double* cross, double* g) {
    const auto share = [=](int i) { return x[i] * length * inverse[i]; };
    const double own = length > 0.0 ? 1.0 : 0.0;
    each(lanes, n, [=](int i) { cross[i] = i == p ? 0.0 : g[i * n + p] * inverse[i] * inverse[p] - share(i) * own; });
    for (int i = 0; i < n; ++i) {
      each(lanes, i, n, [=](int j) {
        // <g_i/n_i - u_i ĝ_p, ĝ_j - u_j ĝ_p>, of which the last factor's part along ĝ_p is in cross.
        const double cosine = g[i * n + j] * inverse[i] * inverse[j];
        const double with_p = cross[j] + share(j) * own;
        const double value = cosine - share(i) * with_p - share(j) * cross[i];
        g[i * n + j] = g[j * n + i] = i == p || j == p ? (i == j ? 1.0 : 0.0) : value;
      });
    }
    each(lanes, n, [=](int i) { g[i * n + i] = fmax(g[i * n + i], 0.0); });
  }

  /// The ρ with ½ bend ρ² + tilt ρ + φ(ρ) least, φ the lower hull of the points (r_i, f_i), from its left end to the right.
  template <class Lanes>
  MTL_HD static double lowest(const Lanes& lanes, int n, const double* r, const double* f, double bend, double tilt) {
    const double left = -largest_of(lanes, n, [=](int i) { return -r[i]; });
    double rho = left;
    double height = least_of(lanes, n, [=](int i) { return r[i] == left; }, [=](int i) { return f[i]; }).value;
    for (int corner = 0; corner < n; ++corner) {
      const Least next =
          least_of(lanes, n, [=](int i) { return r[i] > rho; }, [=](int i) { return (f[i] - height) / (r[i] - rho); });
      if (next.index < 0) return rho;
      const double slope = next.value + tilt;
      if (bend * rho + slope >= 0.0) return rho;
      const double right = r[next.index];
      if (bend * right + slope > 0.0) return -slope / bend;
      rho = right;
      height = f[next.index];
    }
    return rho;
  }
};

}  // namespace mtl_ops::solvers
