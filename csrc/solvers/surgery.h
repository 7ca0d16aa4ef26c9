// PCGrad and GradVac: the gradient of each task is corrected against the original gradients of the others, one after the other in a
// given order.  Online PCGrad: the sum of the gradients so far is corrected against the next one.
//
// PCGrad: Yu, Kumar, Gupta, Levine, Hausman, Finn, "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, Algorithm 1.
// GradVac: Wang, Tsvetkov, Firat, Cao, "Gradient Vaccine", ICLR 2021, Algorithm 1.

#pragma once

#include <math.h>

#include <cstdint>

#include "linalg.h"
#include "problem.h"

namespace mtl_ops::solvers {

/// For each segment and task the tasks it is corrected against, in order: (S, T, length).  Whoever is no other task that takes part is
/// passed over.
struct Orders {
  const int64_t* tasks;
  int length;

  /// The place of the m-th task after the one in place i, or -1 for one to be passed over.
  MTL_HD int at(const Problem& problem, int i, int m) const {
    const int64_t row = static_cast<int64_t>(problem.segment) * problem.total + problem.tasks[i];
    const int64_t task = tasks[row * length + m];
    if (task < 0 || task >= problem.total) return -1;
    const int j = problem.position[task];
    return j == i ? -1 : j;
  }
};

/// A gradient g = Σ c_k g_k under correction, and its inner products v = G c with the original ones.
template <class Lanes>
class Combination {
 public:
  MTL_HD static constexpr int workspace(int n) { return 2 * n; }

  MTL_HD Combination(const Lanes& lanes, const Problem& problem, Arena& arena)
      : lanes_(lanes), n_(problem.count), gram_(problem.gram), c_(arena.reals(n_)), v_(arena.reals(n_)) {}

  MTL_HD void start(int i) {
    each(lanes_, n_, [=, this](int k) {
      c_[k] = k == i ? 1.0 : 0.0;
      v_[k] = gram_[i * n_ + k];
    });
  }

  /// g += a g_j.
  MTL_HD void add(int j, double a) {
    lanes_.sync();
    subtract_multiple(lanes_, 0, n_, -a, gram_ + j * n_, v_);
    if (lanes_.lane() == 0) c_[j] += a;
    lanes_.sync();
  }

  MTL_HD double inner(int j) const { return v_[j]; }
  MTL_HD double coefficient(int k) const { return c_[k]; }

  /// |g|, or 0 where nothing but rounding is left of it; `norms` are those of the original gradients.
  MTL_HD double norm(const double* norms) const {
    const double square = sum_of(lanes_, n_, [this](int k) { return c_[k] * v_[k]; });
    const double size = sum_of(lanes_, n_, [=, this](int k) { return fabs(c_[k]) * norms[k]; });
    return square > 4.0 * n_ * kEpsilon * size * size ? sqrt(square) : 0.0;
  }

 private:
  Lanes lanes_;
  int n_;
  const double* gram_;
  double *c_, *v_;
};

/// w = Σ_i c_i, or its k-th part: where <g, g_j> < 0, g becomes its projection on the plane that is orthogonal to g_j.
struct PcGrad {
  Orders orders;
  bool mean;

  MTL_HD static constexpr int workspace(int T) { return Combination<Serial>::workspace(T); }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int n = problem.count;
    const double share = mean ? 1.0 / n : 1.0;
    Combination<Lanes> g(lanes, problem, arena);
    each(lanes, n, [=](int k) { w[k] = 0.0; });
    for (int i = 0; i < n; ++i) {
      g.start(i);
      for (int m = 0; m < orders.length; ++m) {
        const int j = orders.at(problem, i, m);
        if (j < 0) continue;
        const double inner = g.inner(j), square = problem.gram[j * n + j];
        if (inner < 0.0 && square > 0.0) g.add(j, -inner / square);
      }
      each(lanes, n, [=, &g](int k) { w[k] += share * g.coefficient(k); });
    }
  }
};

/// w = Σ_i c_i: where cos(g, g_j) is below its running mean ρ_ij, g becomes g + a g_j of cosine ρ_ij.
struct GradVac {
  Orders orders;
  double* rho;  // (S, T, T), changed in place
  double beta;  // of the running mean
  double eps;   // added to both denominators
  double tol;   // a cosine this little below ρ is not below it

  MTL_HD static constexpr int workspace(int T) { return T + Combination<Serial>::workspace(T); }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int n = problem.count;
    double* norms = arena.reals(n);
    Combination<Lanes> g(lanes, problem, arena);
    each(lanes, n, [=](int k) {
      norms[k] = sqrt(problem.gram[k * n + k]);
      w[k] = 0.0;
    });
    for (int i = 0; i < n; ++i) {
      g.start(i);
      double norm = norms[i];
      for (int m = 0; m < orders.length; ++m) {
        const int j = orders.at(problem, i, m);
        if (j < 0) continue;
        double& target = target_of(problem, i, j);
        const double goal = target, found = cosine(norm, norms[j], g.inner(j));
        if (found < goal - tol && add_until(g, j, norm, norms[j], found, goal)) norm = g.norm(norms);
        once(lanes, [&] { target = (1.0 - beta) * goal + beta * found; });
      }
      each(lanes, n, [=, &g](int k) { w[k] += g.coefficient(k); });
    }
  }

 private:
  MTL_HD double& target_of(const Problem& problem, int i, int j) const {
    const int T = problem.total;
    return rho[(static_cast<int64_t>(problem.segment) * T + problem.tasks[i]) * T + problem.tasks[j]];
  }

  /// Rounding must not carry a cosine, and with it ρ, out of [-1, 1].
  MTL_HD double cosine(double norm, double other, double inner) const {
    const double product = norm * other + eps;
    return norm > 0.0 && other > 0.0 ? fmax(-1.0, fmin(1.0, inner / product)) : 0.0;
  }

  template <class Lanes>
  MTL_HD bool add_until(Combination<Lanes>& g, int j, double norm, double other, double found, double goal) const {
    const double sine = sqrt(fmax(1.0 - found * found, 0.0)), goal_sine = sqrt(fmax(1.0 - goal * goal, 0.0));
    const double product = other * goal_sine + eps;
    if (!(product > 0.0) || other == 0.0) return false;
    g.add(j, norm * (goal * sine - found * goal_sine) / product);
    return true;
  }
};

/// w of the a that begins as 0 and becomes a + g - min(0, <g, a>)/|a|² a with each gradient g in turn.
struct OnlinePcGrad {
  const int64_t* order;  // (S, T); whoever is no task that takes part is passed over

  MTL_HD static constexpr int workspace(int T) { return T; }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int n = problem.count, T = problem.total;
    const double* g = problem.gram;
    double* v = arena.reals(n);  // <a, g_k>
    each(lanes, n, [=](int k) { w[k] = v[k] = 0.0; });
    for (int m = 0; m < T; ++m) {
      const int64_t task = order[static_cast<int64_t>(problem.segment) * T + m];
      const int i = task < 0 || task >= T ? -1 : problem.position[task];
      if (i < 0) continue;
      const double square = sum_of(lanes, n, [=](int k) { return w[k] * v[k]; });
      const double inner = v[i];
      const double stretch = inner < 0.0 && square > 0.0 ? 1.0 - inner / square : 1.0;
      lanes.sync();
      each(lanes, n, [=](int k) {
        w[k] = stretch * w[k] + (k == i ? 1.0 : 0.0);
        v[k] = stretch * v[k] + g[i * n + k];
      });
    }
  }
};

}  // namespace mtl_ops::solvers
