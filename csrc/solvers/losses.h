// Methods that need no gradient: from the losses of T tasks to their weights.
//
// A method is called as method(lanes, T, losses, w, arena) with losses (T,) and w (kRows, T).  A task whose loss is not finite takes no
// part and has the weight 0.  What a method remembers is written in place.
#pragma once

#include <math.h>

#include <cstdint>

#include "lanes.h"
#include "problem.h"

namespace mtl_ops::solvers {

/// x[t] = softmax of the scores of the tasks that take part, 0 for the others.  A score that is NaN or Inf makes all of them NaN.
template <class Lanes, class Part, class Score>
MTL_HD void shares(const Lanes& lanes, int T, Part part, Score score, double* x) {
  const double largest = -least_of(lanes, T, part, [=](int t) { return -score(t); }).value;
  each(lanes, T, [=](int t) { x[t] = part(t) ? exp(score(t) - largest) : 0.0; });
  const double total = sum_of(lanes, T, [=](int t) { return x[t]; });
  each(lanes, T, [=](int t) { x[t] = part(t) ? x[t] / total : 0.0; });
}

/// Whether a task takes part.
struct Finite {
  const double* losses;

  MTL_HD bool operator()(int t) const { return finite(losses[t]); }
};

/// How many tasks take part.
template <class Lanes>
MTL_HD double count_finite(const Lanes& lanes, int T, const double* losses) {
  return sum_of(lanes, T, [=](int t) { return finite(losses[t]) ? 1.0 : 0.0; });
}

/// Adam's step of one number x with beta = (0.9, 0.999) and eps = 1e-8.
MTL_HD inline void take_adam_step(double lr, double& x, double slope, double& mean, double& square, double& steps) {
  mean += 0.1 * (slope - mean);
  square = 0.999 * square + 0.001 * (slope * slope);
  steps += 1.0;
  const double size = sqrt(square / (1.0 - pow(0.999, steps))) + 1e-8;
  x -= lr * mean / (1.0 - pow(0.9, steps)) / size;
}

struct Famo {
  static constexpr int kRows = 1;

  double* logits;       // (T,)
  double* adam;         // (3, T): two moments and the count of steps
  double* before;       // (T,): the losses of the last weights, NaN for none
  const double* least;  // (T,), or null for 0
  double lr, weight_decay;
  bool improve;  // takes Adam's step, to what `losses` have become since `before`
  bool after;    // `losses` are those after a step, and no further step is taken from them

  MTL_HD static constexpr int workspace(int T) { return 2 * T; }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, int T, const double* losses, double* w, Arena& arena) const {
    if (improve) step(lanes, T, losses, arena);
    const Famo self = *this;
    each(lanes, T, [=](int t) { self.before[t] = self.after ? __builtin_nan("") : losses[t]; });
    const Finite part{losses};
    shares(lanes, T, part, [=](int t) { return self.logits[t]; }, w);
    each(lanes, T, [=](int t) {
      if (!part(t)) return;
      const double over = self.over(losses[t], t);
      w[t] = over > 0.0 ? w[t] / over : __builtin_nan("");
    });
    const double total = sum_of(lanes, T, [=](int t) { return w[t]; });
    each(lanes, T, [=](int t) { w[t] = part(t) ? w[t] / total : 0.0; });
  }

 private:
  MTL_HD double over(double loss, int t) const { return loss - (least != nullptr ? least[t] : 0.0) + 1e-8; }

  // None where a logarithm does not exist.
  template <class Lanes>
  MTL_HD void step(const Lanes& lanes, int T, const double* losses, Arena& arena) const {
    const Famo self = *this;
    double *z = arena.reals(T), *delta = arena.reals(T);
    const auto part = [=](int t) { return finite(losses[t]) && finite(self.before[t]); };
    each(lanes, T,
         [=](int t) { delta[t] = part(t) ? log(self.over(self.before[t], t)) - log(self.over(losses[t], t)) : 0.0; });
    if (sum_of(lanes, T, [=](int t) { return finite(delta[t]) ? 0.0 : 1.0; }) != 0.0) return;
    shares(lanes, T, part, [=](int t) { return self.logits[t]; }, z);
    const double mean = sum_of(lanes, T, [=](int t) { return z[t] * delta[t]; });
    each(lanes, T, [=](int t) {
      if (!part(t)) return;
      double* moments = self.adam + t;
      const double slope = z[t] * (delta[t] - mean) + self.weight_decay * self.logits[t];
      take_adam_step(self.lr, self.logits[t], slope, moments[0], moments[T], moments[2 * T]);
    });
  }
};

struct Dwa {
  static constexpr int kRows = 1;

  double* means;   // (2, T): of the last two epochs, the older one first; NaN for none
  double* sums;    // (T,): of this epoch
  double* counts;  // (T,)
  int64_t* calls;  // in this epoch
  double temperature;
  int64_t window;  // calls that are an epoch; 0 for no end

  MTL_HD static constexpr int workspace(int) { return 0; }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, int T, const double* losses, double* w, Arena&) const {
    const Dwa self = *this;
    const int64_t before = *calls;
    const bool ends = window > 0 && before == window;
    once(lanes, [=] { *self.calls = (ends ? 0 : before) + 1; });
    each(lanes, T, [=](int t) { self.take_note(T, t, losses[t], ends); });
    const auto rate = [=](int t) {
      const double older = self.means[t], newer = self.means[T + t];
      return (isnan(older) || isnan(newer) ? 1.0 : newer / older) / self.temperature;
    };
    const double count = count_finite(lanes, T, losses);
    shares(lanes, T, Finite{losses}, rate, w);
    each(lanes, T, [=](int t) { w[t] *= count; });
  }

 private:
  MTL_HD void take_note(int T, int t, double loss, bool ends) const {
    double sum = sums[t], count = counts[t];
    if (ends) {
      const double mean = count > 0.0 ? sum / count : means[T + t];
      means[t] = means[T + t];
      means[T + t] = mean;
      sum = count = 0.0;
    }
    sums[t] = finite(loss) ? sum + loss : sum;
    counts[t] = finite(loss) ? count + 1.0 : count;
  }
};

struct Geometric {
  static constexpr int kRows = 1;

  MTL_HD static constexpr int workspace(int) { return 0; }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, int T, const double* losses, double* w, Arena&) const {
    const Finite part{losses};
    each(lanes, T, [=](int t) { w[t] = losses[t] > 0.0 ? log(losses[t]) : __builtin_nan(""); });
    const double count = count_finite(lanes, T, losses);
    const double mean = sum_of(lanes, T, [=](int t) { return part(t) ? w[t] : 0.0; }) / count;
    each(lanes, T, [=](int t) { w[t] = part(t) ? exp(mean - w[t]) / count : 0.0; });
  }
};

struct Stch {
  static constexpr int kRows = 1;

  const double* preference;  // (T,), or null: 1/k of k tasks in the linear form, 1 in the logarithmic one
  const double* reference;   // (T,), or null: 0 in the linear form, 1 in the logarithmic one
  double mu;
  bool logarithmic;

  MTL_HD static constexpr int workspace(int) { return 0; }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, int T, const double* losses, double* w, Arena&) const {
    const Stch self = *this;
    const double count = count_finite(lanes, T, losses);
    const auto preferred = [=](int t) {
      return self.preference != nullptr ? self.preference[t] : self.logarithmic ? 1.0 : 1.0 / count;
    };
    const auto score = [=](int t) { return preferred(t) * self.relative(losses[t], t) / self.mu; };
    shares(lanes, T, Finite{losses}, score, w);
    each(lanes, T, [=](int t) {
      if (!finite(losses[t])) return;
      const double weight = preferred(t) * w[t];
      w[t] = self.logarithmic ? count * weight / losses[t] : weight;
    });
  }

 private:
  MTL_HD double relative(double loss, int t) const {
    if (!logarithmic) return loss - (reference != nullptr ? reference[t] : 0.0);
    const double ratio = loss / (reference != nullptr ? reference[t] : 1.0);
    return ratio > 0.0 ? log(ratio) : __builtin_nan("");
  }
};

/// Of the loss Σ_t a e^(r s_t) L_t - a r s_t: the derivatives by L_t, which are the weights, and by s_t.
struct LogScales {
  static constexpr int kRows = 2;

  const double* scales;  // s (T,)
  double factor, rate;   // a, r

  MTL_HD static constexpr int workspace(int) { return 0; }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, int T, const double* losses, double* w, Arena&) const {
    const LogScales self = *this;
    each(lanes, T, [=](int t) {
      const bool part = finite(losses[t]);
      const double weight = self.factor * exp(self.rate * self.scales[t]);
      w[t] = part ? weight : 0.0;
      w[T + t] = part ? self.rate * (weight * losses[t] - self.factor) : 0.0;
    });
  }
};

}  // namespace mtl_ops::solvers
