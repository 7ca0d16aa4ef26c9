// The T x P view of the per-task gradients: the one place where tensors are checked.
//
// Kernels see raw memory only.  For every parameter p and task t there is a pointer to `numel(p)` elements of `dtype(p)`, or null
// where the task does not reach the parameter.  All rows of one parameter, and its output, have the same element order: a dense
// layout is used as it is (channels_last too); whatever is not dense, or differs from it, is copied once and owned by the view.
//
// Outputs share no memory with one another.  A row may be the output itself, element for element; else it shares no memory with any.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "arguments.h"

namespace mtl_ops {

using OptionalTensors = std::vector<std::optional<Tensor>>;

namespace detail {

// An uninitialised tensor.  One call of the C shim; torch::stable::empty goes through the dispatcher.
inline Tensor empty_strided(int64_t dim, const int64_t* sizes, const int64_t* strides, const Kind& kind) {
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dim, sizes, strides, kind.dtype, kind.device_type, kind.device_index, &handle));
  return Tensor(handle);
}

// An uninitialised contiguous float64 tensor where `like` is.
inline Tensor new_float64(std::initializer_list<int64_t> sizes, Kind like) {
  like.dtype = aoti_torch_dtype_float64();
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t d = sizes.size(); d-- > 1;) strides[d - 1] = strides[d] * sizes.begin()[d];
  return empty_strided(sizes.size(), sizes.begin(), strides.data(), like);
}

inline bool same_sizes(const Tensor& a, const Tensor& b) {
  const auto x = a.sizes(), y = b.sizes();
  return x.size() == y.size() && std::equal(x.begin(), x.end(), y.begin());
}

// True if equal indices are equally far from the first element, for tensors of one shape.
inline bool same_layout(const Tensor& a, const Tensor& b) {
  if (a.is_contiguous() && b.is_contiguous()) return true;
  const auto sizes = a.sizes(), x = a.strides(), y = b.strides();
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] != 1 && x[d] != y[d]) return false;
  }
  return true;
}

// A copy in the layout of `like`, or, of what is not contiguous, in row-major order.
inline Tensor copy_in_layout(const Tensor& t, const Tensor* like, const Kind& kind) {
  if (!like) return torch::stable::contiguous(t);
  const auto sizes = like->sizes(), strides = like->strides();
  Tensor copy = empty_strided(like->dim(), sizes.data(), strides.data(), kind);
  torch::stable::copy_(copy, t);
  return copy;
}

inline bool is_supported(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16 ||
         dtype == ScalarType::Half;
}

}  // namespace detail

// The element orders a view accepts without a copy.
enum class Layout {
  dense,      // any dense one: for what does not depend on the place of an element
  row_major,  // for what numbers the elements
};

// The numbers that the coordinates of the P tensors of `out` have, for what numbers them: they follow one another within a tensor.
class Coordinates {
 public:
  // `first` holds the number of each tensor's first; if it is empty, they follow one another from 0.
  Coordinates(const std::vector<Tensor>& out, const std::vector<int64_t>& first)
      : given_(!first.empty()), first_(first) {
    STD_TORCH_CHECK(!given_ || first.size() == out.size(), "first should be empty or hold one number for each of the ",
                    out.size(), " parameters. Found ", first.size(), ".");
    for (size_t p = 0; p < out.size(); ++p) {
      const int64_t numel = out[p].numel();
      if (!given_) first_.push_back(end_);
      STD_TORCH_CHECK(first_[p] >= 0, "first should not be negative. Found ", first_[p], ".");
      STD_TORCH_CHECK(first_[p] <= std::numeric_limits<int64_t>::max() - numel,
                      "first should leave room for the numbers of parameter ", p, ". Found ", first_[p], ".");
      if (numel > 0) end_ = std::max(end_, first_[p] + numel);
    }
  }

  int64_t first(int64_t p) const { return first_[p]; }

  // Checks a tensor of random numbers, in which coordinates are looked up by their numbers; its device is looked at later.
  void check_uniforms(const Tensor& uniforms) const {
    const ScalarType dtype = uniforms.scalar_type();
    const int64_t numel = uniforms.numel();
    STD_TORCH_CHECK((dtype == ScalarType::Double || dtype == ScalarType::Float) && uniforms.is_contiguous() &&
                        (given_ ? numel >= end_ : numel == end_),
                    "uniforms should be contiguous, float32 or float64, of ", given_ ? "at least " : "", end_,
                    " elements. Found ", numel, " elements.");
  }

 private:
  bool given_;
  std::vector<int64_t> first_;
  int64_t end_ = 0;  // behind the largest number
};

// T, and the most that the caller's kernels take.
struct Tasks {
  int64_t count, most;
};

class TaskGrads {
 public:
  // `out`, if given, holds the P tensors that the merged gradient is written to.
  TaskGrads(const OptionalTensors& grads, const Tasks& given, const std::vector<int64_t>& segments,
            const std::vector<Tensor>* out = nullptr, Layout layout = Layout::dense)
      : tasks_(given.count), layout_(layout) {
    const int64_t tasks = given.count;
    check_tasks(tasks, given.most);
    STD_TORCH_CHECK(grads.size() % tasks == 0, "grads should hold T times P tensors. Found ", grads.size(),
                    " tensors for T = ", tasks, ".");
    params_ = static_cast<int64_t>(grads.size()) / tasks;
    STD_TORCH_CHECK(segments.empty() || static_cast<int64_t>(segments.size()) == params_,
                    "segments should be empty or name one segment for each of the ", params_, " parameters. Found ",
                    segments.size(), ".");
    STD_TORCH_CHECK(!out || !out->empty(), "out should hold at least one tensor. Found none.");
    STD_TORCH_CHECK(!out || static_cast<int64_t>(out->size()) == params_, "out should hold ", params_,
                    " tensors. Found ", out ? out->size() : 0, ".");
    for (const int64_t s : segments) {
      STD_TORCH_CHECK(s >= 0, "segments should not be negative. Found ", s, ".");
      STD_TORCH_CHECK(s < kMaxSegments, "segments should be below ", kMaxSegments, ". Found ", s, ".");
      segments_ = std::max(segments_, s + 1);
    }
    segment_ = segments;
    rows_.assign(grads.size(), nullptr);
    columns_.resize(params_);
    for (int64_t p = 0; p < params_; ++p) add_column(grads, p, out ? &(*out)[p] : nullptr);
    if (out) check_apart(*out);
  }

  int64_t tasks() const { return tasks_; }
  int64_t params() const { return params_; }
  int64_t segments() const { return segments_; }
  int64_t segment(int64_t p) const { return segment_.empty() ? 0 : segment_[p]; }
  int64_t numel(int64_t p) const { return columns_[p].numel; }
  ScalarType dtype(int64_t p) const { return columns_[p].dtype; }
  bool has_elements() const {
    return std::any_of(columns_.begin(), columns_.end(), [](const Column& column) { return column.numel > 0; });
  }
  // The T row pointers of parameter p: task t's gradient, or null.
  const void* const* rows(int64_t p) const { return rows_.data() + p * tasks_; }
  void* out(int64_t p) const { return columns_[p].out; }
  size_t out_bytes(int64_t p) const { return static_cast<size_t>(columns_[p].numel) * columns_[p].element_size; }
  // Any tensor of the call, to make outputs on the same device; null when every entry is None.
  const Tensor* any() const { return any_; }
  // The device of all of them, where there is any.
  const detail::Kind& kind() const { return *kind_; }

  // Refuses an argument in whose memory the merged gradient would be written while it is read.
  void check_apart(const Tensor& tensor, const char* name) const {
    const Memory memory(tensor);
    STD_TORCH_CHECK(!touches_output(memory), name, " should not share memory with out.");
  }

  // An uninitialised float64 tensor on the gradients' device.
  Tensor new_float64(std::initializer_list<int64_t> sizes) const { return detail::new_float64(sizes, *kind_); }

  // Copies what was merged into a stand-in back to the caller's tensor.
  void write_back() const {
    for (const auto& [target, stand_in] : write_back_) {
      Tensor to = target;
      torch::stable::copy_(to, stand_in);
    }
  }

 private:
  struct Column {
    int64_t numel = 0;
    void* out = nullptr;
    ScalarType dtype = ScalarType::Float;
    int32_t element_size = 0;
    bool in_place = false;  // `out` is the caller's own memory
  };

  void add_column(const OptionalTensors& grads, int64_t p, const Tensor* out) {
    const auto row = [&](int64_t t) { return grads[t * params_ + p] ? &*grads[t * params_ + p] : nullptr; };
    const Tensor* first = out;
    for (int64_t t = 0; t < tasks_ && !first; ++t) first = row(t);
    if (!first) return;  // no task reaches this parameter
    const detail::Kind kind = check_first(*first, p);
    STD_TORCH_CHECK(!out || !detail::may_overlap_itself(*out),
                    "out should hold tensors whose elements share no memory. "
                    "Found parameter ",
                    p, "'s, whose may.");
    const Tensor* layout = out && fits(*out) ? out : nullptr;
    for (int64_t t = 0; t < tasks_; ++t) {
      if (const Tensor* g = row(t)) {
        check_like(*g, kind, *first, p, t, out ? "the output." : "the others.");
        if (!layout && fits(*g)) layout = g;
      }
    }
    columns_[p].numel = first->numel();
    columns_[p].dtype = first->scalar_type();
    for (int64_t t = 0; t < tasks_; ++t) {
      if (const Tensor* g = row(t)) rows_[p * tasks_ + t] = in_layout(*g, layout, kind).const_data_ptr();
    }
    if (!out) return;
    const Tensor& target = in_layout(*out, layout, kind);
    columns_[p].out = target.mutable_data_ptr();
    if (&target != out) write_back_.emplace_back(*out, target);
    columns_[p].element_size = static_cast<int32_t>(target.element_size());
    columns_[p].in_place = &target == out;
  }

  Memory memory_of(int64_t p, const void* data) const { return {data, columns_[p].numel, columns_[p].element_size}; }

  // Copies are made before anything is written, and written back after everything is read: they do not matter.
  void check_apart(const std::vector<Tensor>& out) {
    std::vector<std::pair<Memory, bool>> all;
    for (int64_t p = 0; p < params_; ++p) {
      if (columns_[p].numel == 0) continue;
      const bool in_place = columns_[p].in_place;
      all.emplace_back(in_place ? memory_of(p, columns_[p].out) : Memory(out[p]), in_place);
      if (in_place) outputs_.push_back(all.back().first);
    }
    const auto first = [](const auto& a, const auto& b) { return a.first.begin < b.first.begin; };
    std::sort(all.begin(), all.end(), first);
    for (size_t k = 1; k < all.size(); ++k) {
      const auto& [before, dense] = all[k - 1];
      const auto& [here, also] = all[k];
      // columns of one matrix lie between one another without sharing an element
      const bool between = !dense && !also && before.begin != here.begin;
      STD_TORCH_CHECK(between || !before.overlaps(here),
                      "out should hold tensors that share no memory. Found two that do.");
    }
    std::sort(outputs_.begin(), outputs_.end(), [](const Memory& a, const Memory& b) { return a.begin < b.begin; });
    for (int64_t p = 0; p < params_; ++p) {
      for (int64_t t = 0; t < tasks_; ++t) {
        const void* row = rows_[p * tasks_ + t];
        if (!row || row == columns_[p].out) continue;
        STD_TORCH_CHECK(!touches_output(memory_of(p, row)), "the gradients of parameter ", p,
                        " should share no memory with out, or be what they are merged into. Found that of task ", t,
                        " elsewhere in out.");
      }
    }
  }

  // `outputs_` are apart and in order, so their ends are in order, too.
  bool touches_output(const Memory& memory) const {
    if (memory.begin == memory.end || outputs_.empty()) return false;
    if (memory.end <= outputs_.front().begin || memory.begin >= outputs_.back().end) return false;
    const auto next = std::partition_point(outputs_.begin(), outputs_.end(),
                                           [&](const Memory& out) { return out.end <= memory.begin; });
    return next != outputs_.end() && next->overlaps(memory);
  }

  detail::Kind check_first(const Tensor& t, int64_t p) {
    STD_TORCH_CHECK(detail::is_supported(t.scalar_type()), "the gradients of parameter ", p,
                    " should be float32, float64, bfloat16 or float16. Found another dtype.");
    const detail::Kind kind(t);
    if (!kind_) kind_ = kind;
    if (!any_) any_ = &t;
    check_device(kind, p);
    return kind;
  }

  void check_like(const Tensor& g, const detail::Kind& kind, const Tensor& first, int64_t p, int64_t t,
                  const char* whom) const {
    const detail::Kind own(g);
    STD_TORCH_CHECK(own.dtype == kind.dtype, "the gradients of parameter ", p, " should have one dtype: task ", t,
                    " has another than ", whom);
    STD_TORCH_CHECK(detail::same_sizes(g, first), "the gradients of parameter ", p, " should have one shape: task ", t,
                    " has another than ", whom);
    check_device(own, p);
  }

  void check_device(const detail::Kind& kind, int64_t p) const {
    STD_TORCH_CHECK(kind.same_device(*kind_), "all gradients should be on one device. Parameter ", p,
                    " is on another than those before it.");
  }

  bool fits(const Tensor& t) const { return layout_ == Layout::row_major ? t.is_contiguous() : detail::is_dense(t); }

  // The tensor itself, or a copy that the view owns; `layout` is null where no tensor of the parameter fits.
  const Tensor& in_layout(const Tensor& t, const Tensor* layout, const detail::Kind& kind) {
    if (layout && (&t == layout || detail::same_layout(t, *layout))) return t;
    owned_.push_back(std::make_unique<Tensor>(detail::copy_in_layout(t, layout, kind)));
    return *owned_.back();
  }

  int64_t tasks_ = 0, params_ = 0, segments_ = 1;
  Layout layout_ = Layout::dense;
  std::vector<int64_t> segment_;
  std::vector<Column> columns_;
  std::vector<const void*> rows_;
  std::vector<std::unique_ptr<Tensor>> owned_;  // their addresses are kept while others are added
  std::vector<std::pair<Tensor, Tensor>> write_back_;
  std::vector<Memory> outputs_;  // that are written to in place
  const Tensor* any_ = nullptr;
  std::optional<detail::Kind> kind_;  // of that tensor
};

// Random numbers are on the gradients' device, and not where the merged gradient goes.
inline void check_place_of_uniforms(const std::optional<Tensor>& uniforms, const TaskGrads& grads) {
  if (!uniforms) return;
  STD_TORCH_CHECK(grads.kind().same_device(detail::Kind(*uniforms)), "uniforms should be on the gradients' device.");
  grads.check_apart(*uniforms, "uniforms");
}

// A number that is added to the offset of random numbers, where the gradients are: the kernel reads it when it runs.  Null for none.
inline const int64_t* read_counter(const std::optional<Tensor>& counter, const std::vector<Tensor>& out) {
  if (!counter) return nullptr;
  STD_TORCH_CHECK(counter->scalar_type() == ScalarType::Long && counter->numel() == 1,
                  "counter should hold one int64 number. Found ", counter->numel(), " elements.");
  STD_TORCH_CHECK(!out.empty() && detail::Kind(out[0]).same_device(detail::Kind(*counter)),
                  "counter should be on the gradients' device.");
  return static_cast<const int64_t*>(counter->const_data_ptr());
}

}  // namespace mtl_ops
