// One source text for a CPU thread and for a GPU warp.
//
// A solver's loops run from `lanes.lane()` in steps of `lanes.width()`, its reductions go through `lanes`, and everything it
// remembers lies in a workspace that all lanes see.  `Serial` is one CPU thread, `Warp` the 32 lanes of a GPU warp.
//
// The contract of a lanes type: `sum` and `argmin` give every lane the same bits, so that all lanes take the same branches;
// both, and `sync`, are barriers after which every lane sees what the others wrote.

#pragma once

#ifdef __CUDACC__
#define MTL_HD __host__ __device__
#else
#define MTL_HD
#endif

// A large function that several kernels call.  A GPU's compiler would put a copy of it in the place of every call, and take minutes to
// arrange their registers; a CPU's decides by itself.  Such a function takes objects by value: to have their address is to keep them
// in memory.
#ifdef __CUDACC__
#define MTL_HD_CALLED __host__ __device__ __attribute__((noinline))
#else
#define MTL_HD_CALLED
#endif

// A warp goes round a loop over lanes once or twice: unrolled, it is only more code to fetch.
#ifdef __CUDA_ARCH__
#define MTL_ROLLED _Pragma("unroll 1")
#else
#define MTL_ROLLED
#endif

namespace mtl_ops::solvers {

/// A value and who offered it; `index < 0` means that nobody offered any.
struct Least {
  double value = 0.0;
  int index = -1;
};

/// The smaller of two offers; a tie goes to the lower index, whatever the order of the comparisons.
MTL_HD inline Least smaller(Least a, Least b) {
  if (b.index < 0) return a;
  if (a.index < 0) return b;
  const bool second = b.value < a.value || (b.value == a.value && b.index < a.index);
  return second ? b : a;
}

/// One CPU thread.
struct Serial {
  static constexpr int lane() { return 0; }
  static constexpr int width() { return 1; }
  static double sum(double value) { return value; }
  static Least argmin(Least offer) { return offer; }
  static void sync() {}
};

#ifdef __CUDACC__
/// The 32 lanes of the calling warp, all of them converged.  The host never runs it; its bodies are empty there.
struct Warp {
  static constexpr unsigned kAll = 0xffffffffu;

  MTL_HD static constexpr int width() { return 32; }

  MTL_HD static int lane() {
#ifdef __CUDA_ARCH__
    return static_cast<int>(threadIdx.x) & 31;
#else
    return 0;
#endif
  }

  // At each exchange both partners add the same two numbers, so all lanes end with the same bits.
  MTL_HD static double sum(double value) {
#ifdef __CUDA_ARCH__
    __syncwarp(kAll);
    for (int mask = 16; mask > 0; mask >>= 1) value += __shfl_xor_sync(kAll, value, mask);
#endif
    return value;
  }

  MTL_HD static Least argmin(Least offer) {
#ifdef __CUDA_ARCH__
    __syncwarp(kAll);
    for (int mask = 16; mask > 0; mask >>= 1) {
      Least other;
      other.value = __shfl_xor_sync(kAll, offer.value, mask);
      other.index = __shfl_xor_sync(kAll, offer.index, mask);
      offer = smaller(offer, other);
    }
#endif
    return offer;
  }

  MTL_HD static void sync() {
#ifdef __CUDA_ARCH__
    __syncwarp(kAll);
#endif
  }
};
#endif

/// f(i) for i in [begin, end), shared out among the lanes; all writes are visible afterwards.
template <class Lanes, class F>
MTL_HD void each(const Lanes& lanes, int begin, int end, F f) {
  MTL_ROLLED
  for (int i = begin + lanes.lane(); i < end; i += lanes.width()) f(i);
  lanes.sync();
}

template <class Lanes, class F>
MTL_HD void each(const Lanes& lanes, int n, F f) {
  each(lanes, 0, n, f);
}

/// f() on one lane, for what is too small or too sequential to share out.
template <class Lanes, class F>
MTL_HD void once(const Lanes& lanes, F f) {
  lanes.sync();
  if (lanes.lane() == 0) f();
  lanes.sync();
}

/// Σ f(i) for i in [0, n).
template <class Lanes, class F>
MTL_HD double sum_of(const Lanes& lanes, int n, F f) {
  double total = 0.0;
  MTL_ROLLED
  for (int i = lanes.lane(); i < n; i += lanes.width()) total += f(i);
  return lanes.sum(total);
}

/// The i in [0, n) of the smallest f(i) among those that `eligible(i)` admits; `index < 0` if it admits none.
template <class Lanes, class Eligible, class F>
MTL_HD Least least_of(const Lanes& lanes, int n, Eligible eligible, F f) {
  Least best;
  MTL_ROLLED
  for (int i = lanes.lane(); i < n; i += lanes.width()) {
    if (eligible(i)) best = smaller(best, Least{f(i), i});
  }
  return lanes.argmin(best);
}

/// The largest f(i) for i in [0, n), n >= 1.
template <class Lanes, class F>
MTL_HD double largest_of(const Lanes& lanes, int n, F f) {
  return -least_of(lanes, n, [](int) { return true; }, [=](int i) { return -f(i); }).value;
}

/// Writes the i in [0, n) that `keep(i)` admits to `kept`, in order, and returns how many there are.
template <class Lanes, class Keep>
MTL_HD int select(const Lanes& lanes, int n, Keep keep, int* kept) {
  lanes.sync();
  int count = 0;
  MTL_ROLLED
  for (int i = 0; i < n; ++i) {
    if (!keep(i)) continue;
    if (lanes.lane() == 0) kept[count] = i;
    ++count;
  }
  lanes.sync();
  return count;
}

}  // namespace mtl_ops::solvers
