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

struct SoftAdapt {
  enum class Variant { kOriginal, kNormalised, kLossWeighted };
  static constexpr int kRows = 1;

  double* recent;  // (order + 1, T): the last losses of each task, oldest first; NaN for none
  int order;
  double beta;
  Variant variant;

  MTL_HD static constexpr int workspace(int T) { return T; }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, int T, const double* losses, double* w, Arena& arena) const {
    const SoftAdapt self = *this;
    const Finite part{losses};
    double* slopes = arena.reals(T);
    each(lanes, T, [=](int t) {
      if (part(t)) self.take_note(T, t, losses[t]);
      slopes[t] = self.slope(T, t);
    });
    const double count = count_finite(lanes, T, losses);
    const double unready = sum_of(lanes, T, [=](int t) { return part(t) && !self.is_ready(T, t) ? 1.0 : 0.0; });
    if (unready != 0.0) {
      each(lanes, T, [=](int t) { w[t] = part(t) ? 1.0 / count : 0.0; });
      return;
    }
    if (variant == Variant::kNormalised) {
      const double total = sum_of(lanes, T, [=](int t) { return part(t) ? fabs(slopes[t]) : 0.0; });
      each(lanes, T, [=](int t) { slopes[t] = total > 0.0 ? slopes[t] / total : slopes[t]; });
    }
    shares(lanes, T, part, [=](int t) { return self.beta * slopes[t]; }, w);
    if (variant != Variant::kLossWeighted) return;
    each(lanes, T, [=](int t) {
      const double mean = self.mean(T, t);
      w[t] = part(t) ? (mean >= 0.0 ? mean : __builtin_nan("")) * w[t] : 0.0;
    });
    const double total = sum_of(lanes, T, [=](int t) { return w[t]; });
    each(lanes, T, [=](int t) { w[t] = !part(t) ? 0.0 : total == 0.0 ? 1.0 / count : w[t] / total; });
  }

 private:
  MTL_HD void take_note(int T, int t, double loss) const {
    for (int k = 0; k < order; ++k) recent[k * T + t] = recent[(k + 1) * T + t];
    recent[order * T + t] = loss;
  }

  // The backward difference of this order: (-1)^j C(order, j) / j of the value j steps ago, Σ 1/j of the newest.
  MTL_HD double slope(int T, int t) const {
    double binomial = 1.0, harmonic = 0.0, sum = 0.0;
    for (int j = 1; j <= order; ++j) {
      binomial = binomial * (order - j + 1) / j;
      harmonic += 1.0 / j;
      sum += (j % 2 == 1 ? -binomial : binomial) / j * recent[(order - j) * T + t];
    }
    return sum + harmonic * recent[order * T + t];
  }

  MTL_HD bool is_ready(int T, int t) const {
    for (int k = 0; k <= order; ++k) {
      if (!finite(recent[k * T + t])) return false;
    }
    return true;
  }

  MTL_HD double mean(int T, int t) const {
    double sum = 0.0;
    for (int k = 0; k <= order; ++k) sum += recent[k * T + t];
    return sum / (order + 1);
  }
};

struct ReLoBRaLo {
  static constexpr int kRows = 1;

  double* balance;      // (T,)
  double* initial;      // (T,): first losses, NaN for none
  double* previous;     // (T,): last losses
  const double* drawn;  // a uniform number: below rho the balance is kept, otherwise it starts from the first losses
  double alpha, rho, temperature;

  MTL_HD static constexpr int workspace(int T) { return 3 * T; }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, int T, const double* losses, double* w, Arena& arena) const {
    const ReLoBRaLo self = *this;
    const Finite part{losses};
    double *first = arena.reals(T), *last = arena.reals(T), *seen = arena.reals(T);
    const double negative = sum_of(lanes, T, [=](int t) { return part(t) && !(losses[t] >= 0.0) ? 1.0 : 0.0; });
    if (negative != 0.0) {
      each(lanes, T, [=](int t) { w[t] = part(t) ? __builtin_nan("") : 0.0; });
      return;
    }
    each(lanes, T, [=](int t) { seen[t] = part(t) && finite(self.initial[t]) ? 1.0 : 0.0; });
    const auto known = [=](int t) { return seen[t] != 0.0; };
    const double count = sum_of(lanes, T, [=](int t) { return seen[t]; });
    shares(lanes, T, known, [=](int t) { return self.relative(losses[t], self.initial[t]); }, first);
    shares(lanes, T, known, [=](int t) { return self.relative(losses[t], self.previous[t]); }, last);
    const bool keeps = *drawn < rho;
    each(lanes, T, [=](int t) {
      const double kept = keeps ? self.balance[t] : count * first[t];
      if (known(t)) self.balance[t] = self.alpha * kept + (1.0 - self.alpha) * (count * last[t]);
      if (part(t) && !known(t)) self.initial[t] = losses[t];
      if (part(t)) self.previous[t] = losses[t];
      w[t] = part(t) ? self.balance[t] : 0.0;
    });
  }

 private:
  MTL_HD double relative(double loss, double earlier) const {
    return (earlier == 0.0 ? 1.0 : loss / earlier) / temperature;
  }
};

/// Of the loss Σ_t v_t y_t / Σ v + λ Σ |v_t y_t - v_u y_u| over neighbours t, u, with v = sigmoid(s): the derivatives by L_t, which are the
/// weights, and by s_t at a fixed Σ v.
struct LdcMtl {
  static constexpr int kRows = 2;

  const double* scales;  // s (T,)
  double* initial;       // (T,): the first losses, NaN for none; null for y = L in place of y = log(L / initial)
  double lam;

  MTL_HD static constexpr int workspace(int T) { return 3 * T; }

  template <class Lanes>
  MTL_HD void operator()(const Lanes& lanes, int T, const double* losses, double* w, Arena& arena) const {
    const LdcMtl self = *this;
    const Finite part{losses};
    double *y = arena.reals(T), *z = arena.reals(T), *signs = arena.reals(T);
    each(lanes, T, [=](int t) {
      y[t] = part(t) ? self.scaled(losses[t], t) : 0.0;
      z[t] = self.sigmoid(t) * y[t];
    });
    once(lanes, [=] {
      int before = -1;
      for (int t = 0; t < T; ++t) {
        signs[t] = 0.0;
        if (!part(t)) continue;
        if (before >= 0) {
          const double sign = (z[before] > z[t]) - (z[before] < z[t]);
          signs[before] += sign;
          signs[t] -= sign;
        }
        before = t;
      }
    });
    shares(lanes, T, part, [=](int t) { return self.log_sigmoid(t); }, w);
    each(lanes, T, [=](int t) {
      const double v = self.sigmoid(t), slope = w[t] + self.lam * v * signs[t];
      w[t] = !part(t) ? 0.0 : self.initial != nullptr ? slope / losses[t] : slope;
      w[T + t] = part(t) ? (1.0 - v) * y[t] * slope : 0.0;
    });
    const double bad = sum_of(lanes, T, [=](int t) { return finite(w[t] + y[t]) ? 0.0 : 1.0; });
    if (bad != 0.0) each(lanes, T, [=](int t) { w[t] = part(t) ? __builtin_nan("") : 0.0; });
  }

 private:
  MTL_HD double scaled(double loss, int t) const {
    if (initial == nullptr) return loss;
    if (isnan(initial[t]) && loss > 0.0) initial[t] = loss;
    return loss > 0.0 ? log(loss) - log(initial[t]) : __builtin_nan("");
  }

  MTL_HD double sigmoid(int t) const { return 1.0 / (1.0 + exp(-scales[t])); }

  MTL_HD double log_sigmoid(int t) const { return fmin(scales[t], 0.0) - log1p(exp(-fabs(scales[t]))); }
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
