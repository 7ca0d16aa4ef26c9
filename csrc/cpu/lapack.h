// Eigenvalues of matrices that are too large for rotations to be quick: torch's LAPACK, on the calling thread's behalf.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>

#include "../solvers/lanes.h"

namespace mtl_ops::cpu {

// One CPU thread that knows of LAPACK; see solvers::Eigen.
struct WithLapack : solvers::Serial {
  // Up to so many rows, rotations answer with the same bits as everywhere else.
  static constexpr int kRotated = 64;

  static constexpr bool takes(int n) { return n > kRotated; }

  // The eigenvalues of A (n x n), ascending.
  static void eigenvalues(int n, const double* a, double* values) {
    std::array<StableIValue, 2> stack{from(copy(n, n, a, n)), from(std::string("L"))};
    call("aten::linalg_eigvalsh", "", stack);
    const auto found = torch::stable::detail::to<Tensor>(stack[0]);
    std::copy_n(static_cast<const double*>(found.const_data_ptr()), n, values);
  }

  // And the eigenvectors, vector k in row k of `vectors`, whose rows are `stride` apart.
  static void eigenvectors(int n, const double* a, double* values, double* vectors, int stride) {
    const Decomposition found(copy(n, n, a, n));
    std::copy_n(static_cast<const double*>(found.values.const_data_ptr()), n, values);
    const auto* from = static_cast<const double*>(found.vectors.const_data_ptr());
    const int64_t along = found.vectors.stride(0), across = found.vectors.stride(1);
    for (int k = 0; k < n; ++k) {
      for (int i = 0; i < n; ++i) vectors[k * stride + i] = from[k * across + i * along];
    }
  }

  // Turns `count` rows of n numbers, `stride` apart, into orthogonal ones that span the same: R becomes QᵀR, R Rᵀ = Q Λ Qᵀ.
  static void turn(int count, int n, double* rows, int stride) {
    const Tensor R = copy(count, n, rows, stride);
    const Decomposition found(torch::stable::matmul(R, torch::stable::transpose(R, 0, 1)));
    Tensor turned = torch::stable::matmul(torch::stable::transpose(found.vectors, 0, 1), R);
    turned = torch::stable::contiguous(turned);
    const auto* from = static_cast<const double*>(turned.const_data_ptr());
    for (int k = 0; k < count; ++k) std::copy_n(from + k * n, n, rows + k * stride);
  }

 private:
  using Tensor = torch::stable::Tensor;

  struct Decomposition {
    Tensor values, vectors;

    explicit Decomposition(const Tensor& matrix) {
      std::array<StableIValue, 2> stack{from(matrix), from(std::string("L"))};
      call("aten::linalg_eigh", "", stack);
      values = torch::stable::detail::to<Tensor>(stack[0]);
      vectors = torch::stable::detail::to<Tensor>(stack[1]);
    }
  };

  template <class T>
  static StableIValue from(const T& value) {
    return torch::stable::detail::from(value);
  }

  static void call(const char* name, const char* overload, std::array<StableIValue, 2>& stack) {
    TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION));
  }

  static Tensor copy(int count, int n, const double* rows, int stride) {
    Tensor made = torch::stable::empty({count, n}, torch::headeronly::ScalarType::Double);
    auto* to = static_cast<double*>(made.mutable_data_ptr());
    for (int k = 0; k < count; ++k) std::copy_n(rows + k * stride, n, to + k * n);
    return made;
  }
};

}  // namespace mtl_ops::cpu
