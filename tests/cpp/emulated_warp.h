// A warp of 32 lanes on one CPU thread: every lane is a fiber that runs until the next sync point, in an order of our choosing.
//
// A lane that reads what another one writes between the same two sync points finds the old value in one order and the new one in
// another.  So what comes out in several orders, bit for bit the same, has no such race.  Lanes that do not all arrive at the same
// kind of sync point end the program: on a GPU they would wait for ever.

#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "../../csrc/solvers/lanes.h"

namespace mtl_ops::testing {

using solvers::Least;

enum class Order { kAscending, kDescending, kRandom };

class Warp32 {
 public:
  static constexpr int kLanes = 32;
  enum class Point { kNone, kSync, kSum, kArgmin, kEnd };

  Warp32(Order order, uint64_t seed) : order_(order), random_(seed) {
    for (Fiber& fiber : fibers_) fiber.stack = std::make_unique_for_overwrite<char[]>(kStack);
  }

  /// body(lane) on every lane.
  void run(std::function<void(int)> body) {
    body_ = std::move(body);
    for (int lane = 0; lane < kLanes; ++lane) start(lane);
    for (Point at = Point::kNone; at != Point::kEnd;) {
      for (int lane : turns()) resume(lane);
      at = meeting_point();
    }
  }

  // ---- called by the lanes ----

  void sync(int lane) { wait(lane, Point::kSync); }

  // The same tree of additions as the shuffles of a GPU's warp.
  double sum(int lane, double value) {
    fibers_[lane].offer.value = value;
    wait(lane, Point::kSum);
    double partial[kLanes];
    for (int i = 0; i < kLanes; ++i) partial[i] = fibers_[i].arrived.value;
    for (int mask = kLanes / 2; mask > 0; mask /= 2) {
      double next[kLanes];
      for (int i = 0; i < kLanes; ++i) next[i] = partial[i] + partial[i ^ mask];
      for (int i = 0; i < kLanes; ++i) partial[i] = next[i];
    }
    return partial[lane];
  }

  Least argmin(int lane, Least offer) {
    fibers_[lane].offer = offer;
    wait(lane, Point::kArgmin);
    Least best;
    for (const Fiber& fiber : fibers_) best = solvers::smaller(best, fiber.arrived);
    return best;
  }

 private:
  static constexpr size_t kStack = 64 * 1024;

  struct Fiber {
    std::unique_ptr<char[]> stack;
    ucontext_t context;
    jmp_buf resume_at;
    Point point = Point::kNone;
    Least offer;    // at the sync point it waits at
    Least arrived;  // of all lanes at the last sync point, until they have met again
  };

  void start(int lane) {
    Fiber& fiber = fibers_[lane];
    fiber.point = Point::kNone;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    const auto address = reinterpret_cast<uintptr_t>(this);
    makecontext(&fiber.context, reinterpret_cast<void (*)()>(reinterpret_cast<void*>(&Warp32::enter)), 3,
                static_cast<unsigned>(address >> 32), static_cast<unsigned>(address), static_cast<unsigned>(lane));
  }

  static void enter(unsigned high, unsigned low, unsigned lane) {
    auto* warp = reinterpret_cast<Warp32*>(static_cast<uintptr_t>(high) << 32 | low);
    warp->body_(static_cast<int>(lane));
    warp->wait(static_cast<int>(lane), Point::kEnd);
  }

  // ucontext makes the fibers; setjmp changes between them, because it does not call the kernel.
  void resume(int lane) {
    Fiber& fiber = fibers_[lane];
    if (_setjmp(scheduler_) != 0) return;
    if (fiber.point == Point::kNone) {
      setcontext(&fiber.context);
    } else {
      _longjmp(fiber.resume_at, 1);
    }
  }

  void wait(int lane, Point point) {
    Fiber& fiber = fibers_[lane];
    fiber.point = point;
    if (_setjmp(fiber.resume_at) == 0) _longjmp(scheduler_, 1);
  }

  std::vector<int> turns() {
    std::vector<int> lanes(kLanes);
    std::iota(lanes.begin(), lanes.end(), 0);
    if (order_ == Order::kDescending) std::reverse(lanes.begin(), lanes.end());
    if (order_ == Order::kRandom) std::shuffle(lanes.begin(), lanes.end(), random_);
    return lanes;
  }

  Point meeting_point() {
    for (Fiber& fiber : fibers_) {
      if (fiber.point != fibers_[0].point) {
        std::fprintf(stderr, "lanes wait at different sync points\n");
        std::abort();
      }
      fiber.arrived = fiber.offer;
    }
    return fibers_[0].point;
  }

  Order order_;
  std::mt19937_64 random_;
  std::function<void(int)> body_;
  Fiber fibers_[kLanes];
  jmp_buf scheduler_;
};

/// One lane of it, as the solvers see it.
class EmulatedWarp {
 public:
  EmulatedWarp(Warp32& warp, int lane) : warp_(&warp), lane_(lane) {}

  int lane() const { return lane_; }
  static constexpr int width() { return Warp32::kLanes; }
  double sum(double value) const { return warp_->sum(lane_, value); }
  Least argmin(Least offer) const { return warp_->argmin(lane_, offer); }
  void sync() const { warp_->sync(lane_); }

 private:
  Warp32* warp_;
  int lane_;
};

}  // namespace mtl_ops::testing
