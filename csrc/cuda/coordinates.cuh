// The methods that look at single coordinates, on one coordinate of the tasks that take part.  A NaN gives NaN.
//
// A method takes the values of its coordinate one by one, kRows of them between two looks at memory, into a State,
// and makes the result of it.  A is float for all but float64 gradients.
#pragma once

#include "../elementwise/philox.h"
#include "../elementwise/sorting_network.h"
#include "launch.cuh"

namespace mtl_ops::cuda {

// GradDrop: with P = positive / (positive - negative), the two sums of a coordinate over its tasks, the positive
// gradients pass where P > U, the negative ones where P < U; of what does not pass, a task leaks its share.
struct GradDrop {
  static constexpr Layout layout = Layout::row_major;  // coordinates are numbered
  static constexpr int kGroup = elementwise::kGroup;   // of coordinates that draw their numbers together
  static constexpr int kRows = 8;

  const void* uniforms;  // float32 or float64 numbers of all coordinates; null for Philox's
  bool wide;             // float64
  uint64_t seed, offset;
  const int64_t* count;    // added to `offset`, so that each replay of a graph draws anew; or null
  bool leaks;              // any of the shares is not 0
  double leak[kMaxTasks];  // of each task

  template <class A>
  struct State {
    A positive = 0, negative = 0, leaked = 0, up = 0, down = 0;
  };

  template <class A>
  __device__ void add(State<A>& state, int, A g, int task) const {
    const A above = g > 0 ? g : A(0);
    const A below = g - above;
    state.positive += above;
    state.negative += below;
    if (!leaks) return;
    const A share = static_cast<A>(leak[task]);
    state.leaked += share * g;
    state.up += (1 - share) * above;
    state.down += (1 - share) * below;
  }

  template <class A>
  __device__ A finish(const State<A>& state, int, A uniform) const {
    const A total = state.positive - state.negative;
    const A purity = state.positive / total;  // NaN where all are 0: then nothing passes, and nothing is lost
    const A up = leaks ? state.up : state.positive, down = leaks ? state.down : state.negative;
    const A passed = purity > uniform ? up : purity < uniform ? down : A(0);
    return state.leaked + passed + (total - total);  // + 0, or NaN
  }

  // The numbers of a thread's four coordinates, 16 apart; `first` is in the first 16 of a group of 64.  Of the
  // caller's numbers those from `begin` on and before `end`, for there may be no others.
  template <class A>
  __device__ void draw(int64_t first, int64_t begin, int64_t end, A (&to)[4]) const {
    if (uniforms == nullptr) {
      const uint64_t counter = static_cast<uint64_t>(first) / kGroup * elementwise::kCounters + first % kGroup;
      const uint64_t step = offset + (count != nullptr ? static_cast<uint64_t>(*count) : 0);
      uint32_t word[4] = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
                          static_cast<uint32_t>(step), static_cast<uint32_t>(step >> 32)};
      elementwise::philox(word[0], word[1], word[2], word[3], seed);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        to[e] = static_cast<float>(elementwise::uniform_bits(word[e])) * elementwise::kUniformUnit;
      }
      return;
    }
    constexpr A kBelowOne = sizeof(A) == 8 ? 0x1.fffffffffffffp-1 : 0x1.fffffep-1;  // not rounded to 1
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int64_t x = first + e * elementwise::kCounters;
      to[e] = x < begin || x >= end ? A(0)
              : wide                ? min(static_cast<A>(static_cast<const double*>(uniforms)[x]), kBelowOne)
                                    : static_cast<A>(static_cast<const float*>(uniforms)[x]);
    }
  }
};

// The mean of the values of a coordinate without the `trim` largest and the `trim` smallest, or of the middle one or
// two if there are too few for that; with a `trim` of kMaxTasks, the median.  K is at least T: all values are sorted
// in registers.
template <int K>
struct TrimmedMean {
  static constexpr Layout layout = Layout::dense;
  static constexpr int kGroup = 0;
  static constexpr int kRows = K;

  int trim;

  template <class A>
  struct State {
    A values[K];
    bool broken = false;

    __device__ State() {
#pragma unroll
      for (int r = 0; r < K; ++r)
        values[r] = static_cast<A>(__builtin_huge_val());  // sorted behind those that there are
    }
  };

  template <class A>
  __device__ void add(State<A>& state, int r, A g, int) const {
    state.values[r] = g;
    state.broken |= g != g;
  }

  template <class A>
  __device__ A finish(State<A>& state, int k, A) const {
    const int drop = min(trim, (k - 1) / 2);
    elementwise::sort(state.values);
    A sum = 0;
#pragma unroll
    for (int r = 0; r < K; ++r) {
      if (r >= drop && r < k - drop) sum += state.values[r];
    }
    return state.broken ? static_cast<A>(__builtin_nan("")) : sum * (A(1) / static_cast<A>(k - 2 * drop));
  }
};

// The mean or the sum of a coordinate where the signs of its tasks agree, |sum of the signs| >= tau k, and 0 where
// they do not.
struct SignAgreement {
  static constexpr Layout layout = Layout::dense;
  static constexpr int kGroup = 0;
  static constexpr int kRows = 8;

  double tau;
  bool mean;

  template <class A>
  struct State {
    A sum = 0;
    int signs = 0;
    bool broken = false;
  };

  template <class A>
  __device__ void add(State<A>& state, int, A g, int) const {
    state.sum += g;
    state.signs += (g > 0) - (g < 0);
    state.broken |= g != g;
  }

  template <class A>
  __device__ A finish(const State<A>& state, int k, A) const {
    if (state.broken) return static_cast<A>(__builtin_nan(""));
    if (abs(state.signs) < static_cast<int>(ceil(tau * k))) return A(0);
    return mean ? state.sum * (A(1) / static_cast<A>(k)) : state.sum;
  }
};

}  // namespace mtl_ops::cuda
