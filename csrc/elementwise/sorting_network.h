// Batcher's odd-even merge sort as a list of compare-exchanges, for any number of values (Knuth, "The Art of Computer Programming",
// volume 3, algorithm 5.2.2M).  No branch depends on the data, so the values may be vectors of a CPU or registers of a GPU thread.
#pragma once

#include <cstdint>
#include <utility>

#include "host_device.h"

namespace mtl_ops::elementwise {

// f(low, high) for every compare-exchange that sorts n values, in order.
template <class F>
constexpr void for_each_exchange(int n, F f) {
  int top = 1;
  while (2 * top < n) top *= 2;
  for (int p = top; p > 0; p /= 2) {
    for (int q = top, r = 0, d = p;; d = q - p, q /= 2, r = p) {
      for (int i = 0; i < n - d; ++i) {
        if ((i & p) == r) f(i, i + d);
      }
      if (q == p) break;
    }
  }
}

template <int K>
struct Network {
  struct Exchange {
    uint8_t low, high;
  };
  static constexpr int count() {
    int n = 0;
    for_each_exchange(K, [&](int, int) { ++n; });
    return n;
  }
  static constexpr int size = count();
  struct List {
    Exchange at[size > 0 ? size : 1]{};
  };
  static constexpr List make() {
    List list;
    int n = 0;
    for_each_exchange(K, [&](int low, int high) { list.at[n++] = {uint8_t(low), uint8_t(high)}; });
    return list;
  }
  static constexpr List list = make();
};

// The smaller value to `a`, the larger to `b`; if they do not compare (NaN), both become `b`.  Two comparisons, so that compilers make
// a minimum and a maximum of them.
template <class V>
MTL_SHARED void exchange(V& a, V& b) {
  const V low = a < b ? a : b;
  b = b < a ? a : b;
  a = low;
}

template <int K, class V, int... I>
MTL_SHARED void sort(V (&values)[K], std::integer_sequence<int, I...>) {
  (exchange(values[Network<K>::list.at[I].low], values[Network<K>::list.at[I].high]), ...);
}

// Sorts K values ascending, all indices known to the compiler: the values stay in registers.
template <int K, class V>
MTL_SHARED void sort(V (&values)[K]) {
  sort(values, std::make_integer_sequence<int, Network<K>::size>{});
}

}  // namespace mtl_ops::elementwise
