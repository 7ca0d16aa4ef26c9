// The T x P view of the per-task gradients: the one place where tensors are checked.
//
// Kernels see raw memory only.  For every parameter p and task t there is a pointer to `numel(p)` elements of `dtype(p)`, or null
// where the task does not reach the parameter.  All rows of one parameter have the same element order: a dense layout is used as
// it is (channels_last too); whatever is not dense, or differs between tasks, is made contiguous once and owned by the view.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

namespace mtl_ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensors = std::vector<std::optional<Tensor>>;

// The largest number of tasks the kernels take; the wrappers send larger problems to the reference.
inline constexpr int64_t kMaxTasks = 64;

namespace detail {

inline bool same_sizes(const Tensor& a, const Tensor& b) {
  const auto x = a.sizes(), y = b.sizes();
  return x.size() == y.size() && std::equal(x.begin(), x.end(), y.begin());
}

inline bool same_strides(const Tensor& a, const Tensor& b) {
  const auto x = a.strides(), y = b.strides();
  return x.size() == y.size() && std::equal(x.begin(), x.end(), y.begin());
}

// True if the elements fill one block of memory without gap or overlap, in whatever order of dimensions.
inline bool is_dense(const Tensor& t) {
  if (t.is_contiguous()) return true;
  std::vector<std::pair<int64_t, int64_t>> dims;  // (stride, size)
  for (int64_t d = 0; d < t.dim(); ++d) {
    if (t.size(d) != 1) dims.emplace_back(t.stride(d), t.size(d));
  }
  std::sort(dims.begin(), dims.end());
  int64_t expected = 1;
  for (const auto& [stride, size] : dims) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

inline bool is_supported(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16 ||
         dtype == ScalarType::Half;
}

}  // namespace detail

class TaskGrads {
 public:
  // `out`, if given, holds the P tensors that the merged gradient is written to.
  TaskGrads(const OptionalTensors& grads, int64_t tasks, const std::vector<int64_t>& segments,
            std::vector<Tensor>* out = nullptr)
      : tasks_(tasks) {
    STD_TORCH_CHECK(tasks >= 1 && tasks <= kMaxTasks, "T should be between 1 and ", kMaxTasks, ". Found T = ", tasks, ".");
    STD_TORCH_CHECK(grads.size() % tasks == 0, "grads should hold T times P tensors. Found ", grads.size(),
                    " tensors for T = ", tasks, ".");
    params_ = static_cast<int64_t>(grads.size()) / tasks;
    STD_TORCH_CHECK(segments.empty() || static_cast<int64_t>(segments.size()) == params_,
                    "segments should be empty or name one segment for each of the ", params_, " parameters. Found ",
                    segments.size(), ".");
    STD_TORCH_CHECK(!out || static_cast<int64_t>(out->size()) == params_, "out should hold ", params_,
                    " tensors. Found ", out ? out->size() : 0, ".");
    segment_ = segments.empty() ? std::vector<int64_t>(params_, 0) : segments;
    for (const int64_t s : segment_) {
      STD_TORCH_CHECK(s >= 0, "segments should not be negative. Found ", s, ".");
      segments_ = std::max(segments_, s + 1);
    }
    rows_.assign(grads.size(), nullptr);
    outs_.assign(out ? params_ : 0, nullptr);
    columns_.resize(params_);
    for (int64_t p = 0; p < params_; ++p) add_column(grads, p, out ? &(*out)[p] : nullptr);
  }

  int64_t tasks() const { return tasks_; }
  int64_t params() const { return params_; }
  int64_t segments() const { return segments_; }
  int64_t segment(int64_t p) const { return segment_[p]; }
  int64_t numel(int64_t p) const { return columns_[p].numel; }
  ScalarType dtype(int64_t p) const { return columns_[p].dtype; }
  // The T row pointers of parameter p: task t's gradient, or null.
  const void* const* rows(int64_t p) const { return rows_.data() + p * tasks_; }
  void* out(int64_t p) const { return outs_[p]; }
  // Any tensor of the call, to make outputs on the same device; null when every entry is None.
  const Tensor* any() const { return any_ ? &*any_ : nullptr; }

  // Copies what was merged into a contiguous stand-in back to the caller's tensor.
  void write_back() const {
    for (const auto& [target, stand_in] : write_back_) {
      Tensor to = target;
      torch::stable::copy_(to, stand_in);
    }
  }

 private:
  struct Column {
    int64_t numel = 0;
    ScalarType dtype = ScalarType::Float;
  };

  void add_column(const OptionalTensors& grads, int64_t p, const Tensor* out) {
    const Tensor* first = out;
    for (int64_t t = 0; t < tasks_ && !first; ++t) {
      if (const auto& g = grads[t * params_ + p]) first = &*g;
    }
    if (!first) return;  // no task reaches this parameter
    check(*first, p);
    columns_[p] = {first->numel(), first->scalar_type()};
    bool dense = detail::is_dense(*first);
    for (int64_t t = 0; t < tasks_; ++t) {
      const auto& g = grads[t * params_ + p];
      if (!g) continue;
      check(*g, p);
      STD_TORCH_CHECK(g->scalar_type() == columns_[p].dtype, "the gradients of parameter ", p,
                      " should have one dtype: task ", t, " has another than ", out ? "the output." : "the others.");
      STD_TORCH_CHECK(detail::same_sizes(*g, *first), "the gradients of parameter ", p,
                      " should have one shape: task ", t, " has another than ", out ? "the output." : "the others.");
      dense = dense && detail::same_strides(*g, *first);
    }
    for (int64_t t = 0; t < tasks_; ++t) {
      if (const auto& g = grads[t * params_ + p]) rows_[p * tasks_ + t] = dense ? g->const_data_ptr() : own(*g);
    }
    if (!out) return;
    if (dense) {
      outs_[p] = out->mutable_data_ptr();
    } else {
      const Tensor stand_in = torch::stable::clone(torch::stable::contiguous(*out));
      outs_[p] = stand_in.mutable_data_ptr();
      write_back_.emplace_back(*out, stand_in);
    }
  }

  void check(const Tensor& t, int64_t p) {
    STD_TORCH_CHECK(detail::is_supported(t.scalar_type()), "the gradients of parameter ", p,
                    " should be float32, float64, bfloat16 or float16.");
    if (!any_) any_ = t;
    STD_TORCH_CHECK(t.device() == any_->device(), "all gradients should be on one device. Parameter ", p,
                    " is on another than the parameters before it.");
  }

  const void* own(const Tensor& t) {
    owned_.push_back(torch::stable::contiguous(t));
    return owned_.back().const_data_ptr();
  }

  int64_t tasks_ = 0, params_ = 0, segments_ = 1;
  std::vector<int64_t> segment_;
  std::vector<Column> columns_;
  std::vector<const void*> rows_;
  std::vector<void*> outs_;
  std::vector<Tensor> owned_;
  std::vector<std::pair<Tensor, Tensor>> write_back_;
  std::optional<Tensor> any_;
};

// A range of one parameter's elements, and the unit of work that the ranges of one job make up.
struct Range {
  int64_t param, begin, end;
};
struct Job {
  int64_t segment;
  std::vector<Range> ranges;
};

// Cuts the view into at most about `max_jobs` jobs of at least `min_elements` elements of one segment each.  The cut depends on the
// shapes alone, never on the number of threads, so sums over jobs have the same bits whatever that number is.
inline std::vector<Job> split(const TaskGrads& grads, int64_t min_elements, int64_t max_jobs) {
  int64_t total = 0;
  for (int64_t p = 0; p < grads.params(); ++p) total += grads.numel(p);
  const int64_t align = 4096;  // a cut inside a parameter falls on whole blocks
  int64_t size = std::max(min_elements, (total + max_jobs - 1) / max_jobs);
  size = (size + align - 1) / align * align;

  std::vector<int64_t> order(grads.params());
  for (int64_t p = 0; p < grads.params(); ++p) order[p] = p;
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return grads.segment(a) < grads.segment(b); });
  std::vector<Job> jobs;
  int64_t room = 0;
  for (const int64_t p : order) {
    for (int64_t begin = 0; begin < grads.numel(p);) {
      if (room <= 0 || jobs.back().segment != grads.segment(p)) {
        jobs.push_back({grads.segment(p), {}});
        room = size;
      }
      int64_t take = std::min(room, grads.numel(p) - begin);
      if (begin + take < grads.numel(p)) take = std::max(align, take / align * align);
      take = std::min(take, grads.numel(p) - begin);
      jobs.back().ranges.push_back({p, begin, begin + take});
      begin += take;
      room -= take;
    }
  }
  return jobs;
}

}  // namespace mtl_ops
