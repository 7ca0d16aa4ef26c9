// The columns of a view cut into jobs, and the threads that do them.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../task_grads.h"

namespace mtl_ops::cpu {

// A range of one parameter's elements.
struct Range {
  int64_t param, begin, end;
};

// The unit of work: some ranges of one segment.
struct Job {
  int64_t segment;
  std::vector<Range> ranges;
};

// Where a parameter is cut, counted in elements: on cache lines of every dtype, and on whole blocks of every kernel.
inline constexpr int64_t kCut = 4096;

// The parameters by segment, in their order.
inline std::vector<int64_t> by_segment(const TaskGrads& grads) {
  std::vector<int64_t> order(grads.params());
  for (int64_t p = 0; p < grads.params(); ++p) order[p] = p;
  if (grads.segments() > 1) {
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return grads.segment(a) < grads.segment(b); });
  }
  return order;
}

// Cuts the view into at most about `max_jobs` jobs (and one for each segment) of at least `min_elements` elements.  The cut depends
// on the shapes alone, never on the number of threads, so sums over jobs have the same bits whatever that number is.
inline std::vector<Job> split(const TaskGrads& grads, int64_t min_elements, int64_t max_jobs) {
  int64_t total = 0;
  for (int64_t p = 0; p < grads.params(); ++p) total += grads.numel(p);
  const int64_t size = (std::max(min_elements, (total + max_jobs - 1) / max_jobs) + kCut - 1) / kCut * kCut;

  std::vector<Job> jobs;
  int64_t room = 0;
  for (const int64_t p : by_segment(grads)) {
    for (int64_t begin = 0; begin < grads.numel(p);) {
      if (room <= 0 || jobs.back().segment != grads.segment(p)) {
        jobs.push_back({grads.segment(p), {}});
        room = size;
      }
      int64_t take = grads.numel(p) - begin;
      if (take > room) take = std::min(take, std::max(kCut, room / kCut * kCut));
      jobs.back().ranges.push_back({p, begin, begin + take});
      begin += take;
      room -= take;
    }
  }
  return jobs;
}

// f(begin, end) over the jobs, on torch's threads; a single job is not worth waking them.
template <class F>
void run_jobs(const std::vector<Job>& jobs, const F& f) {
  const int64_t n = static_cast<int64_t>(jobs.size());
  if (n == 1) {
    f(0, 1);
  } else if (n > 1) {
    torch::stable::parallel_for(0, n, 1, f);
  }
}

// True if the merged gradient is too long to stay in a cache until somebody reads it.
inline bool outgrows_cache(const TaskGrads& grads) {
  int64_t elements = 0;
  for (int64_t p = 0; p < grads.params(); ++p) elements += grads.numel(p);
  return elements > int64_t{1} << 21;  // 8 MB in float32
}

// What brings a merged gradient of this squared norm down to max_norm.  A norm that is not finite gives NaN: scaled by 0, a broken
// gradient would look like a sound one.
inline double clip_scale(double squared_norm, double max_norm) {
  if (!std::isfinite(squared_norm)) return std::numeric_limits<double>::quiet_NaN();
  return squared_norm > max_norm * max_norm ? max_norm / std::sqrt(squared_norm) : 1.0;
}

}  // namespace mtl_ops::cpu
