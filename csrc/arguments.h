// What operators check before they touch memory, besides the gradients (csrc/task_grads.h): numbers, small tensors, and which memory
// may be written to while other memory is read.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

namespace mtl_ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The largest numbers of tasks the kernels take; the wrappers send larger problems to the reference.
namespace cpu {
inline constexpr int64_t kMaxTasks = 1024;
}
namespace cuda {
inline constexpr int64_t kMaxTasks = 64;  // what shared memory, and the rows of one launch, are cut for
}
// The largest number of segments: with 64 tasks, 2 GB of Gram matrices.
inline constexpr int64_t kMaxSegments = int64_t{1} << 16;

namespace detail {

// dtype and device as torch numbers them.  Only for comparing: torch::stable's own types take some ten calls to make, and there
// are T x P tensors.
struct Kind {
  int32_t dtype = 0, device_type = 0, device_index = 0;

  explicit Kind(const Tensor& t) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(t.get(), &dtype));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(t.get(), &device_type));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(t.get(), &device_index));
  }
  bool same_device(const Kind& other) const {
    return device_type == other.device_type && device_index == other.device_index;
  }
};

// (stride, size) of the dimensions that have more than one place, by stride.
inline std::vector<std::pair<int64_t, int64_t>> sorted_dims(const Tensor& t) {
  std::vector<std::pair<int64_t, int64_t>> dims;
  for (int64_t d = 0; d < t.dim(); ++d) {
    if (t.size(d) != 1) dims.emplace_back(t.stride(d), t.size(d));
  }
  std::sort(dims.begin(), dims.end());
  return dims;
}

// True if the elements fill one block of memory without gap or overlap, in whatever order of dimensions.
inline bool is_dense(const Tensor& t) {
  if (t.is_contiguous()) return true;
  int64_t expected = 1;
  for (const auto& [stride, size] : sorted_dims(t)) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

// True unless each dimension steps over all that the smaller ones reach, as in whatever is cut out of a tensor or permuted: then no
// two elements share memory.
inline bool may_overlap_itself(const Tensor& t) {
  if (t.numel() == 0 || t.is_contiguous()) return false;
  int64_t reach = 1;
  for (const auto& [stride, size] : sorted_dims(t)) {
    if (stride < reach) return true;
    reach += (size - 1) * stride;
  }
  return false;
}

}  // namespace detail

// The bytes [begin, end) between a tensor's first and last element.
struct Memory {
  uintptr_t begin = 0, end = 0;

  Memory() = default;
  Memory(const void* data, int64_t elements, int64_t element_size)
      : begin(reinterpret_cast<uintptr_t>(data)), end(begin + elements * element_size) {}
  explicit Memory(const Tensor& t) {
    if (t.numel() == 0) return;
    int64_t last = 0;
    for (int64_t d = 0; d < t.dim(); ++d) last += (t.size(d) - 1) * t.stride(d);
    *this = Memory(t.const_data_ptr(), last + 1, t.element_size());
  }
  bool overlaps(const Memory& other) const { return begin < other.end && other.begin < end; }
  bool operator==(const Memory& other) const = default;
};

// A contiguous float64 (or int64) argument of the given number of elements, on the device of `like`.
template <class Element>
const Element* read_array(const Tensor& tensor, const char* name, int64_t numel, const detail::Kind& like,
                          const char* of = "gram") {
  constexpr ScalarType dtype = std::is_same_v<Element, double> ? ScalarType::Double : ScalarType::Long;
  STD_TORCH_CHECK(tensor.scalar_type() == dtype && tensor.is_contiguous() && tensor.numel() == numel &&
                      like.same_device(detail::Kind(tensor)),
                  name, " should be contiguous, ", dtype == ScalarType::Double ? "float64" : "int64", ", of ", numel,
                  " elements, on the device of ", of, ".");
  return static_cast<const Element*>(tensor.const_data_ptr());
}

// A contiguous float64 argument of some dimensions, on the gradients' device.
inline const double* read_matrix(const Tensor& tensor, const char* name, int64_t dim, const detail::Kind& like) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Double && tensor.is_contiguous() && tensor.dim() == dim &&
                      like.same_device(detail::Kind(tensor)),
                  name, " should be a contiguous float64 tensor of ", dim, " dimensions on the gradients' device.");
  return static_cast<const double*>(tensor.const_data_ptr());
}

// The factors (S, T) of the tasks, or null for 1.
inline const double* read_scale(const std::optional<Tensor>& scale, int64_t S, int64_t T, const detail::Kind& like) {
  if (!scale) return nullptr;
  STD_TORCH_CHECK(scale->scalar_type() == ScalarType::Double && scale->is_contiguous() && scale->dim() == 2 &&
                      scale->size(0) >= S && scale->size(1) == T && like.same_device(detail::Kind(*scale)),
                  "scale should be a contiguous float64 tensor of shape (S, T) with S >= ", S, " and T = ", T,
                  ", on the gradients' device.");
  return static_cast<const double*>(scale->const_data_ptr());
}

// `most` are those that the caller's kernels take.
inline void check_tasks(int64_t T, int64_t most) {
  STD_TORCH_CHECK(T >= 1 && T <= most, "T should be between 1 and ", most, ". Found T = ", T, ".");
}

// The Gram matrices (S, T, T) that a solver is given.
struct GramSizes {
  int64_t S, T;

  GramSizes(const Tensor& gram, int64_t most_tasks) {
    STD_TORCH_CHECK(gram.dim() == 3 && gram.size(1) == gram.size(2) && gram.scalar_type() == ScalarType::Double &&
                        gram.is_contiguous(),
                    "gram should be a contiguous float64 tensor of shape (S, T, T).");
    S = gram.size(0);
    T = gram.size(1);
    check_tasks(T, most_tasks);
    STD_TORCH_CHECK(S <= kMaxSegments, "S should be at most ", kMaxSegments, ". Found S = ", S, ".");
  }
};

// The losses (T,) that a method without gradients is given, and what comes with them.
struct LossArguments {
  const Tensor& tensor;
  const double* losses = nullptr;
  int64_t T = 0;

  LossArguments(const Tensor& given, int64_t most_tasks) : tensor(given), kind_(given) {
    STD_TORCH_CHECK(given.dim() == 1 && given.scalar_type() == ScalarType::Double && given.is_contiguous(),
                    "losses should be a contiguous float64 tensor of shape (T,).");
    T = given.size(0);
    check_tasks(T, most_tasks);
    losses = static_cast<const double*>(given.const_data_ptr());
  }

  // T numbers, or null.
  const double* numbers(const char* name, const std::optional<Tensor>& given) const {
    return given ? read_array<double>(*given, name, T, kind_, "losses") : nullptr;
  }

  // What a method remembers, to be changed in place.
  double* state(const char* name, Tensor& given, int64_t numbers_per_task = 1) const {
    read_array<double>(given, name, T * numbers_per_task, kind_, "losses");
    return static_cast<double*>(given.mutable_data_ptr());
  }

  const double* number(const char* name, const Tensor& given) const {
    return read_array<double>(given, name, 1, kind_, "losses");
  }

  int64_t* count(const char* name, Tensor& given) const {
    read_array<int64_t>(given, name, 1, kind_, "losses");
    return static_cast<int64_t*>(given.mutable_data_ptr());
  }

 private:
  detail::Kind kind_;
};

// Numbers of at least 0; Inf is one, NaN is not.
inline void check_not_negative(const char* name, std::optional<double> value) {
  STD_TORCH_CHECK(!value || *value >= 0, name, " should be a number of at least 0. Found ", value.value_or(0), ".");
}

// Whole numbers that the kernels hold in 32 bits.
inline int check_count(const char* name, int64_t value, int64_t least = 0) {
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(value >= least && value <= most, name, " should be between ", least, " and ", most, ". Found ", value,
                  ".");
  return static_cast<int>(value);
}

// K of orders (S, T, K).
inline int orders_length(const Tensor& orders) {
  STD_TORCH_CHECK(orders.dim() == 3, "orders should be of shape (S, T, K). Found ", orders.dim(), " dimensions.");
  return check_count("the length of orders", orders.size(2));
}

// The shares l_t in [0, 1] of T tasks.
inline void check_leak(const std::vector<double>& leak, int64_t T) {
  STD_TORCH_CHECK(static_cast<int64_t>(leak.size()) == T, "leak should hold T = ", T, " numbers. Found ", leak.size(),
                  ".");
  for (const double share : leak) {
    STD_TORCH_CHECK(share >= 0 && share <= 1, "leak should hold numbers from 0 to 1. Found ", share, ".");
  }
}

}  // namespace mtl_ops
