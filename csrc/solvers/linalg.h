// Dense linear algebra on small matrices, without allocation and without a reduction in any inner loop: each lane
// owns elements of a vector, and the order in which an element collects its terms does not depend on the number of lanes.

#pragma once

#include <math.h>

#include "lanes.h"

namespace mtl_ops::solvers {

constexpr double kEpsilon = 2.220446049250313e-16;

/// How far rounding may move an eigenvalue of the k x k cosine matrix, if it moves each of G's entries by the share `rounding` of
/// sqrt(G_ii G_jj): what is less than that may as well be 0.
MTL_HD constexpr double noise_of(double rounding, int k) { return 8.0 * k * rounding; }

/// An upper triangle stored row after row; `at(q, i)`, q <= i, is contiguous in i.
struct Triangle {
  double* data;
  int rows;

  MTL_HD static constexpr int size(int rows) { return rows * (rows + 1) / 2; }
  MTL_HD double* row(int q) const { return data + q * (2 * rows - q - 1) / 2; }
  MTL_HD double& at(int q, int i) const { return row(q)[i]; }
};

/// y -= t x on [begin, end).
template <class Lanes>
MTL_HD void subtract_multiple(const Lanes& lanes, int begin, int end, double t, const double* __restrict__ x,
                              double* __restrict__ y) {
  MTL_ROLLED
  for (int i = begin + lanes.lane(); i < end; i += lanes.width()) y[i] -= x[i] * t;
}

/// y += t x and magnitude += |t x|, n long.
template <class Lanes>
MTL_HD void add_with_magnitude(const Lanes& lanes, int n, double t, const double* __restrict__ x,
                               double* __restrict__ y, double* __restrict__ magnitude) {
  MTL_ROLLED
  for (int i = lanes.lane(); i < n; i += lanes.width()) {
    const double term = x[i] * t;
    y[i] += term;
    magnitude[i] += fabs(term);
  }
}

/// Solves Uᵀ t = v for the first k rows of a factor, `Rows` of them between two sync points.  v is overwritten;
/// `store(v, q, t, count)` gets elements q ... q + count - 1 of the answer, and may change v there after a sync point.
template <int Rows, class Lanes, class Store>
MTL_HD int substitute(const Lanes& lanes, const Triangle& u, int from, int k, double* __restrict__ v, Store store) {
  int q = from;
  MTL_ROLLED
  for (; q + Rows <= k; q += Rows) {
    double t[Rows];
    const double* row[Rows];
    for (int b = 0; b < Rows; ++b) {
      row[b] = u.row(q + b);
      double value = v[q + b];
      for (int c = 0; c < b; ++c) value -= row[c][q + b] * t[c];
      t[b] = value * row[b][q + b];
    }
    MTL_ROLLED
    for (int i = q + Rows + lanes.lane(); i < k; i += lanes.width()) {
      double value = v[i];
      for (int b = 0; b < Rows; ++b) value -= row[b][i] * t[b];
      v[i] = value;
    }
    store(v, q, t, Rows);
    lanes.sync();
  }
  return q;
}

/// Columns [from, k) of the Cholesky factor U, UᵀU = M, with the *inverse* of its diagonal in place of the diagonal.
///
/// `entry(i, j)` is M_ij.  Columns before `from` are kept, so appending a row of M costs one column.  Returns the first j whose
/// Schur complement is at most `tolerance * M_jj` (row j depends on the rows before it), or k.  `v` is scratch, k long.
template <class Lanes, class Entry>
MTL_HD int factorise(const Lanes& lanes, const Triangle& u, int from, int k, Entry entry, double tolerance, double* v) {
  for (int j = from; j < k; ++j) {
    lanes.sync();
    each(lanes, j, [&](int i) { v[i] = entry(i, j); });
    const double diagonal = entry(j, j);
    double schur = diagonal;
    const auto store = [&](double*, int q, const double* t, int count) {
      for (int b = 0; b < count; ++b) {
        schur -= t[b] * t[b];
        if (lanes.lane() == 0) u.at(q + b, j) = t[b];
      }
    };
    const int rest = substitute<4>(lanes, u, 0, j, v, store);
    substitute<1>(lanes, u, rest, j, v, store);
    if (!(schur > tolerance * diagonal)) return j;
    once(lanes, [&] { u.at(j, j) = 1.0 / sqrt(schur); });
  }
  return k;
}

/// Solves UᵀU y = b in place, for a factor as above.
template <class Lanes>
MTL_HD_CALLED void solve_factorised(Lanes lanes, Triangle u, int k, double* y) {
  lanes.sync();
  const auto store = [&](double* v, int q, const double* t, int count) {
    lanes.sync();
    MTL_ROLLED
    for (int b = lanes.lane(); b < count; b += lanes.width()) v[q + b] = t[b];
  };
  const int rest = substitute<4>(lanes, u, 0, k, y, store);
  substitute<1>(lanes, u, rest, k, y, store);
  MTL_ROLLED
  for (int i = k - 1; i >= 0; --i) {
    const double t = y[i] * u.at(i, i);
    MTL_ROLLED
    for (int q = lanes.lane(); q < i; q += lanes.width()) y[q] -= u.at(q, i) * t;
    lanes.sync();
  }
  each(lanes, k, [&](int i) { y[i] *= u.at(i, i); });
}

/// y = A x for a symmetric A (n x n).
template <class Lanes>
MTL_HD_CALLED void multiply(Lanes lanes, int n, const double* a, const double* x, double* y) {
  lanes.sync();
  each(lanes, n, [=](int i) { y[i] = 0.0; });
  MTL_ROLLED
  for (int j = 0; j < n; ++j) {
    if (x[j] != 0.0) subtract_multiple(lanes, 0, n, -x[j], a + j * n, y);
  }
  lanes.sync();
}

/// y = A x and magnitude = |A| |x| for a symmetric A (n x n).
template <class Lanes>
MTL_HD void multiply_with_magnitude(const Lanes& lanes, int n, const double* a, const double* x, double* y,
                                    double* magnitude) {
  lanes.sync();
  each(lanes, n, [=](int i) { y[i] = magnitude[i] = 0.0; });
  MTL_ROLLED
  for (int j = 0; j < n; ++j) add_with_magnitude(lanes, n, x[j], a + j * n, y, magnitude);
  lanes.sync();
}

/// Rescales a positive semidefinite A (n x n) in place to a unit diagonal, A_ij s_i s_j.
///
/// The answers, tolerances and number of steps of every solver then do not depend on the size of the single rows.  A zero row
/// keeps its zero diagonal and gets the largest of the other scales, or 1.
template <class Lanes>
MTL_HD_CALLED void unit_diagonal(Lanes lanes, int n, double* a, double* s) {
  const auto positive = [=](int i) { return a[i * n + i] > 0.0; };
  const Least smallest = least_of(lanes, n, positive, [=](int i) { return a[i * n + i]; });
  const double fallback = smallest.index < 0 ? 1.0 : 1.0 / sqrt(smallest.value);
  each(lanes, n, [=](int i) { s[i] = positive(i) ? 1.0 / sqrt(a[i * n + i]) : fallback; });
  for (int i = 0; i < n; ++i) {
    each(lanes, n, [=](int j) {
      // The same product on both sides of the diagonal: a symmetric matrix stays symmetric to the last bit.
      if (i != j) a[i * n + j] = i < j ? a[i * n + j] * s[i] * s[j] : a[i * n + j] * s[j] * s[i];
    });
  }
  each(lanes, n, [=](int i) { a[i * n + i] = positive(i) ? 1.0 : 0.0; });
}

}  // namespace mtl_ops::solvers
