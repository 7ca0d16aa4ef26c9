// Runs one solver of csrc/solvers on one CPU thread and on an emulated warp, in several orders of its lanes.
//
//     solvers NAME < problems > answers
//
// A problem is the int64 T, the int64 1 or 0 for with or without scale, G (T x T float64) and the scale (T float64, if any).  Its
// answer is the int64 count n, and n numbers (the weights, and after them whatever the solver remembers) each from: one thread;
// lanes in ascending order; in descending order; in two random orders.
//
// A new solver is two lines: its #include, and its row in `kSolvers`.

#include <cstring>
#include <functional>
#include <iostream>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "../../csrc/solvers/aligned.h"
#include "../../csrc/solvers/cagrad.h"
#include "../../csrc/solvers/conicgrad.h"
#include "../../csrc/solvers/dual_cone.h"
#include "../../csrc/solvers/equal_angle.h"
#include "../../csrc/solvers/gradops.h"
#include "../../csrc/solvers/krum.h"
#include "../../csrc/solvers/linear.h"
#include "../../csrc/solvers/losses.h"
#include "../../csrc/solvers/mgda.h"
#include "../../csrc/solvers/newton.h"
#include "../../csrc/solvers/pcd.h"
#include "../../csrc/solvers/preference.h"
#include "../../csrc/solvers/problem.h"
#include "../../csrc/solvers/qp.h"
#include "../../csrc/solvers/scales.h"
#include "../../csrc/solvers/sharing.h"
#include "../../csrc/solvers/simplex.h"
#include "../../csrc/solvers/surgery.h"
#include "emulated_warp.h"

namespace {

using namespace mtl_ops::solvers;
using mtl_ops::testing::EmulatedWarp;
using mtl_ops::testing::Order;
using mtl_ops::testing::Warp32;

struct Case {
  int T = 0;
  std::vector<double> gram, scale;
};

struct Schedule {
  bool serial;
  Order order;
  uint64_t seed;
};

constexpr Schedule kSchedules[] = {{true, Order::kAscending, 0},
                                   {false, Order::kAscending, 0},
                                   {false, Order::kDescending, 0},
                                   {false, Order::kRandom, 1},
                                   {false, Order::kRandom, 2}};

/// What a solver gets beside the Gram matrix, made anew for every run.
class Inputs {
 public:
  explicit Inputs(int T) : T_(T) {}

  /// Random permutations.
  Orders orders() {
    std::mt19937_64 random(T_);
    orders_.resize(T_ * T_);
    for (int i = 0; i < T_; ++i) {
      const auto row = orders_.begin() + i * T_;
      std::iota(row, row + T_, 0);
      std::shuffle(row, row + T_, random);
    }
    return {orders_.data(), T_};
  }

  /// One positive number a task.
  const double* preference() {
    for (int t = 0; t < T_; ++t) preference_.push_back(0.5 + 1.0 / (1.0 + t));
    return preference_.data();
  }

  /// The same numbers, in another order.
  const double* losses() {
    for (int t = 0; t < T_; ++t) losses_.push_back(0.5 + 1.0 / (1.0 + (7 * t + 3) % T_));
    return losses_.data();
  }

  /// The same, of which some tasks have none.
  const double* some_losses() {
    losses();
    for (int t = 2; t < T_; t += 3) losses_[t] = std::numeric_limits<double>::quiet_NaN();
    return losses_.data();
  }

  /// Numbers of calls, that of this one among them.
  int64_t* calls(int64_t number) {
    orders_.assign(1, number);
    return orders_.data();
  }

  /// One number a task, of which some are 0 and whose sum is less than 1.
  const double* small() {
    for (int t = 0; t < T_; ++t) preference_.push_back(t % 2 * 0.5 / T_);
    return preference_.data();
  }

  /// Memory of some numbers a task; what it holds in the end is part of the answer.
  double* state(int numbers_per_task, double initial) {
    state_.assign(T_ * numbers_per_task, initial);
    return state_.data();
  }

  const std::vector<double>& state() const { return state_; }
  int tasks() const { return T_; }

 private:
  int T_;
  std::vector<int64_t> orders_;
  std::vector<double> preference_, losses_, state_;
};

/// Workspace full of NaNs that are no small integers either, and a fence behind it.
class Workspace {
 public:
  explicit Workspace(int size) : size_(size), data_(size + kFence) {
    constexpr uint64_t poison = 0x7ff8dead7ff8dead;
    for (double& value : data_) std::memcpy(&value, &poison, sizeof(value));
    before_ = data_;
  }

  ~Workspace() {
    if (std::memcmp(&data_[size_], &before_[size_], kFence * sizeof(double)) == 0) return;
    std::cerr << "the workspace is too small\n";
    std::abort();
  }

  double* data() { return data_.data(); }

 private:
  static constexpr int kFence = 256;
  int size_;
  std::vector<double> data_, before_;
};

template <class Method>
void solve(const Schedule& schedule, const Method& method, const Case& problem, double* out) {
  Workspace workspace(problem.T + segment_workspace<Method>(problem.T));
  const double* scale = problem.scale.empty() ? nullptr : problem.scale.data();
  const auto body = [&](const auto& lanes) {
    solve_segment(lanes, method, 0, problem.T, problem.gram.data(), scale, out, workspace.data());
  };
  if (schedule.serial) {
    body(Serial{});
  } else {
    Warp32 warp(schedule.order, schedule.seed);
    warp.run([&](int lane) { body(EmulatedWarp(warp, lane)); });
  }
}

using Solver = std::function<std::vector<double>(const Schedule&, const Case&)>;

/// `make(inputs)` is the solver.
template <class Make>
Solver solver(Make make) {
  return [make](const Schedule& schedule, const Case& problem) {
    Inputs inputs(problem.T);
    std::vector<double> out(problem.T, std::numeric_limits<double>::quiet_NaN());
    solve(schedule, make(inputs), problem, out.data());
    out.insert(out.end(), inputs.state().begin(), inputs.state().end());
    return out;
  };
}

/// `task_scales` in the shape of a solver.
struct Scales {
  TaskScales scales;

  static constexpr int workspace(int T) { return TaskScales::workspace(T); }

  template <class Lanes>
  void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    scales(lanes, 1, problem.count, problem.gram, w, nullptr, arena);
  }
};

/// A method that looks at losses in the shape of a solver.
template <class Method>
struct OfLosses {
  Method method;
  const double* losses;

  static constexpr int workspace(int T) { return Method::kRows * T + Method::workspace(T); }

  template <class Lanes>
  void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    double* rows = arena.reals(Method::kRows * problem.count);
    method(lanes, problem.count, losses, rows, arena);
    each(lanes, problem.count, [=](int i) {
      w[i] = 0.0;
      for (int row = 0; row < Method::kRows; ++row) w[i] += rows[row * problem.count + i] / (1 + row);
    });
  }
};

Famo famo(Inputs& in, bool after) {
  const int T = in.tasks();
  double* state = in.state(5, 0.5);
  return {state, state + T, state + 4 * T, nullptr, 0.1, 0.01, true, after};
}

Dwa dwa(Inputs& in, int64_t calls) {
  const int T = in.tasks();
  double* state = in.state(4, 0.5);
  return {state, state + 2 * T, state + 3 * T, in.calls(calls), 2.0, 4};
}

ReLoBRaLo relobralo(Inputs& in) {
  static constexpr double drawn = 0.5;
  const int T = in.tasks();
  double* state = in.state(3, 0.5);
  return {state, state + T, state + 2 * T, &drawn, 0.9, 0.4, 1.0};
}

/// The quadratic program behind many of them, for the cosine matrix A, h_i = ±p_i or A times that, and e = p, Σ e x = 1.5.
/// Its weights are x; what it remembers is h, then T times the status, then T times the number of steps.
struct Quadratic {
  const double* p;
  double* report;
  bool in_range, with_sum;

  static constexpr int workspace(int T) { return 2 * T + NonNegativeQp<Serial>::workspace(T); }

  template <class Lanes>
  void operator()(const Lanes& lanes, const Problem& problem, double* w, Arena& arena) const {
    const int n = problem.count;
    double *s = arena.reals(n), *h = arena.reals(n);
    unit_diagonal(lanes, n, problem.gram, s);
    each(lanes, n, [=, this](int i) { s[i] = i % 2 == 0 ? -p[i] : p[i]; });
    multiply(lanes, n, problem.gram, s, h);
    each(lanes, n, [=, this](int i) {
      if (!in_range) h[i] = s[i];
      report[i] = h[i];
    });
    NonNegativeQp<Lanes> qp(lanes, n, problem.gram, arena);
    const QpStatus status = with_sum ? qp.minimise(h, p, 1.5, false) : qp.minimise(h);
    each(lanes, n, [&](int i) {
      w[i] = qp.x()[i];
      report[n + i] = static_cast<double>(status);
      report[2 * n + i] = qp.steps();
    });
  }
};

constexpr double kExact = 4.0 * kEpsilon;  // the rounding of float64 gradients

// clang-format off
const std::map<std::string, Solver> kSolvers = {
  {"task_scales", solver([](Inputs& in) { return Scales{{in.preference(), 1.5, true}}; })},
  {"quadratic", solver([](Inputs& in) { return Quadratic{in.preference(), in.state(3, 0.0), false, false}; })},
  {"quadratic_in_range", solver([](Inputs& in) { return Quadratic{in.preference(), in.state(3, 0.0), true, false}; })},
  {"quadratic_with_sum", solver([](Inputs& in) { return Quadratic{in.preference(), in.state(3, 0.0), false, true}; })},
  {"sum", solver([](Inputs&) { return Linear{false}; })},
  {"mean", solver([](Inputs&) { return Linear{true}; })},
  {"pcgrad", solver([](Inputs& in) { return PcGrad{in.orders(), true}; })},
  {"adaptive_sharing", solver([](Inputs& in) { return AdaptiveSharing{in.state(in.tasks(), 0.1), 0.9}; })},
  {"gradvac", solver([](Inputs& in) { return GradVac{in.orders(), in.state(in.tasks(), 0.1), 0.5, 0.0, 1e-9}; })},
  {"mgda", solver([](Inputs&) { return Mgda{}; })},
  {"mgda_above", solver([](Inputs& in) { return MgdaAbove{in.small()}; })},
  {"mgda_frank_wolfe", solver([](Inputs&) { return MgdaFrankWolfe{1e-3, 30}; })},
  {"online_pcgrad", solver([](Inputs& in) { return OnlinePcGrad{in.orders().tasks}; })},
  {"conicgrad", solver([](Inputs&) { return ConicGrad{0.25}; })},
  {"conicgrad_narrow", solver([](Inputs&) { return ConicGrad{0.9}; })},
  {"gradops", solver([](Inputs&) { return GradOps{0.5, false, {-1.0, kExact}}; })},
  {"dibs_mtl", solver([](Inputs&) { return DibsMtl{5, 0.2}; })},
  {"epo", solver([](Inputs& in) { return Epo{{in.losses(), nullptr}, 1e-4, false}; })},
  {"epo_descent", solver([](Inputs& in) { return Epo{{in.losses(), in.preference()}, 10.0, false}; })},
  {"pmgda", solver([](Inputs& in) { return Pmgda{{in.losses(), nullptr}, 1e-2, 0.95}; })},
  {"ferero", solver([](Inputs& in) { return Ferero{{in.losses(), in.preference()}, 1.0, kExact}; })},
  {"famo", solver([](Inputs& in) { return OfLosses<Famo>{famo(in, false), in.some_losses()}; })},
  {"famo_after", solver([](Inputs& in) { return OfLosses<Famo>{famo(in, true), in.losses()}; })},
  {"dwa", solver([](Inputs& in) { return OfLosses<Dwa>{dwa(in, 4), in.some_losses()}; })},
  {"dwa_within_an_epoch", solver([](Inputs& in) { return OfLosses<Dwa>{dwa(in, 1), in.losses()}; })},
  {"geometric", solver([](Inputs& in) { return OfLosses<Geometric>{{}, in.some_losses()}; })},
  {"stch", solver([](Inputs& in) { return OfLosses<Stch>{{nullptr, in.preference(), 0.5, false}, in.some_losses()}; })},
  {"stch_log", solver([](Inputs& in) { return OfLosses<Stch>{{in.preference(), nullptr, 0.5, true}, in.some_losses()}; })},
  {"softadapt", solver([](Inputs& in) { return OfLosses<SoftAdapt>{{in.state(3, 0.5), 2, 0.1, SoftAdapt::Variant::kLossWeighted}, in.some_losses()}; })},
  {"softadapt_normalised", solver([](Inputs& in) { return OfLosses<SoftAdapt>{{in.state(2, 0.5), 1, 0.1, SoftAdapt::Variant::kNormalised}, in.losses()}; })},
  {"relobralo", solver([](Inputs& in) { return OfLosses<ReLoBRaLo>{relobralo(in), in.some_losses()}; })},
  {"ldc_mtl", solver([](Inputs& in) { return OfLosses<LdcMtl>{{in.preference(), nullptr, 0.1}, in.some_losses()}; })},
  {"ldc_mtl_log", solver([](Inputs& in) { return OfLosses<LdcMtl>{{in.preference(), in.state(1, 0.5), 0.1}, in.losses()}; })},
  {"log_scales", solver([](Inputs& in) { return OfLosses<LogScales>{{in.preference(), 0.5, -1.0}, in.some_losses()}; })},
  {"cagrad", solver([](Inputs&) { return CaGrad{0.5, 0, 0.0}; })},
  {"cagrad_wide", solver([](Inputs&) { return CaGrad{2.0, 1, 1e-4}; })},
  {"upgrad", solver([](Inputs& in) { return UpGrad{{in.preference(), true, -1.0, 0.0, kExact}}; })},
  {"dualproj", solver([](Inputs&) { return DualProj{{nullptr, false, 1e-4, 1e-4, kExact}}; })},
  {"pcd", solver([](Inputs& in) { return Pcd{in.state(2, 0.5), 0.02, 0.9, 0.0}; })},
  {"imtl_g", solver([](Inputs&) { return ImtlG{true, {-1.0, kExact}}; })},
  {"config", solver([](Inputs& in) { return Config{in.preference(), {-1.0, kExact}}; })},
  {"aligned_mtl", solver([](Inputs& in) { return AlignedMtl{in.preference(), AlignedMtl::Scale::kMedian, {-1.0, kExact}}; })},
  {"nash_mtl", solver([](Inputs&) { return NashMtl{1.0, {-1.0, kExact}}; })},
  {"fairgrad", solver([](Inputs&) { return FairGrad{2.0, {-1.0, kExact}}; })},
  {"krum", solver([](Inputs&) { return Krum{1, 2, true}; })},
  {"sdmgrad", solver([](Inputs& in) { return SdmGrad{{in.state(1, 1.0 / in.tasks())}, in.preference(), 10.0, 0.5, 20, 0.3}; })},
  {"modo", solver([](Inputs& in) { return MoDo{{in.state(1, 1.0 / in.tasks())}, 1e-3, 0.1}; })},
};
// clang-format on

template <class Element>
bool read(Element* to, size_t count) {
  return static_cast<bool>(std::cin.read(reinterpret_cast<char*>(to), count * sizeof(Element)));
}

bool read(Case& problem) {
  int64_t header[2];
  if (!read(header, 2)) return false;
  problem.T = static_cast<int>(header[0]);
  problem.gram.resize(problem.T * problem.T);
  problem.scale.resize(header[1] != 0 ? problem.T : 0);
  return read(problem.gram.data(), problem.gram.size()) && read(problem.scale.data(), problem.scale.size());
}

template <class Element>
void write(const Element* from, size_t count) {
  std::cout.write(reinterpret_cast<const char*>(from), count * sizeof(Element));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    for (const auto& [name, _] : kSolvers) std::cout << name << '\n';
    return 0;
  }
  const Solver& run = kSolvers.at(argv[1]);
  for (Case problem; read(problem);) {
    for (const Schedule& schedule : kSchedules) {
      const std::vector<double> answer = run(schedule, problem);
      const int64_t count = static_cast<int64_t>(answer.size());
      if (&schedule == kSchedules) write(&count, 1);
      write(answer.data(), answer.size());
    }
  }
}
