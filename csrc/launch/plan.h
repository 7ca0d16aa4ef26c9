// How the elements of many tensors are shared out among the blocks of a grid: plain arithmetic, the same text on the
// host, which makes the plan, and on the device, which looks things up in it.
//
// A *column* is one parameter: its T gradients, and perhaps the tensor that the merged gradient goes to.  It is cut
// into *tiles* of a fixed number of elements, the unit a block works on; the tiles of all columns are numbered one
// after the other.  A *run* is a range of tiles whose sums belong together (a segment, or everything); its tiles are
// dealt out to its *jobs* in turn, job k of n getting every n-th tile from the k-th on, so that blocks that run at
// the same time read neighbouring memory.  One block does one job.
//
// The plan depends on shapes, alignment and the number of jobs asked for, and on nothing that changes from run to
// run.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../solvers/lanes.h"

namespace mtl_ops::launch {

constexpr int kVectorBytes = 16;  // of the widest load

struct Column {
  int64_t numel;
  int64_t coordinate;  // the number of its first element
  int32_t first_tile;
  int32_t segment;
  int32_t shift;    // where the first tile begins: 0, or below 0 so that the next one begins where all should
  int32_t vectors;  // whether the tensors have their 16-byte boundaries at the same elements
};

struct Run {
  int32_t first_job;
  int32_t first_tile;
};

// Elements [begin, end) of a column, those of one tile that there are.
struct Span {
  int64_t origin;  // where the tile would begin; below 0 in a column whose first tile is not whole
  int64_t begin, end;
  bool vectors;  // the tile is whole and begins on a 16-byte boundary in every tensor
};

MTL_HD inline Span span_of(const Column& column, int32_t tile, int32_t width) {
  const int64_t origin = column.shift + static_cast<int64_t>(tile - column.first_tile) * width;
  const int64_t end = origin + width;
  const bool whole = origin >= 0 && end <= column.numel;
  return {origin, origin < 0 ? 0 : origin, end > column.numel ? column.numel : end, whole && column.vectors != 0};
}

// The plan as kernels see it.  Columns and runs end with a sentinel that begins where the last one ends.
struct Table {
  const Column* columns;
  const Run* runs;
  void* const* pointers;  // `pointers_each` a column
  int32_t column_count, run_count, pointers_each;
  int32_t width;  // elements of a tile

  MTL_HD void* const* row(int column) const { return pointers + static_cast<int64_t>(column) * pointers_each; }

  /// The run of a job.
  MTL_HD int run_of(int32_t job) const {
    int low = 0, high = run_count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (runs[middle].first_job <= job ? low : high) = middle;
    }
    return low;
  }

  /// The column of a tile; `guess` is looked at first.
  MTL_HD int column_of(int32_t tile, int guess) const {
    if (columns[guess].first_tile <= tile && tile < columns[guess + 1].first_tile) return guess;
    int low = 0, high = column_count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (columns[middle].first_tile <= tile ? low : high) = middle;
    }
    return low;
  }
};

// Walks through the tiles of one job.
class Tiles {
 public:
  MTL_HD Tiles(const Table& table, int32_t job) : table_(&table) {
    const int run = table.run_of(job);
    const Run here = table.runs[run], next = table.runs[run + 1];
    tile_ = here.first_tile + (job - here.first_job);
    step_ = next.first_job - here.first_job;
    end_ = next.first_tile;
    find();
  }

  MTL_HD bool done() const { return tile_ >= end_; }
  MTL_HD int32_t left() const { return done() ? 0 : (end_ - tile_ - 1) / step_ + 1; }
  MTL_HD int column() const { return column_; }
  MTL_HD Span span() const { return span_of(table_->columns[column_], tile_, table_->width); }

  MTL_HD void next() {
    tile_ += step_;
    find();
  }

 private:
  MTL_HD void find() {
    if (!done()) column_ = table_->column_of(tile_, column_);
  }

  const Table* table_;
  int32_t tile_, step_, end_;
  int column_ = 0;
};

/// How many elements lie before the first 16-byte boundary, if that is the same for all pointers that are not null;
/// otherwise -1.
inline int lead_of(const void* const* pointers, int count, int element_size) {
  int lead = -1;
  for (int i = 0; i < count; ++i) {
    if (pointers[i] == nullptr) continue;
    const auto address = reinterpret_cast<uintptr_t>(pointers[i]);
    const int bytes = static_cast<int>((kVectorBytes - address % kVectorBytes) % kVectorBytes);
    if (lead >= 0 && bytes != lead) return -1;
    lead = bytes;
  }
  return lead < 0 ? -1 : lead / element_size;
}

// Collects columns, then cuts them.
class Plan {
 public:
  Plan(int pointers_each, int element_size, int width)
      : pointers_each_(pointers_each), element_size_(element_size), width_(width) {}

  /// Columns come in ascending order of their segments; one without elements or without pointers is left out.
  void add(int64_t numel, int64_t segment, const void* const* pointers) {
    const int lead = lead_of(pointers, pointers_each_, element_size_);
    add(numel, segment, pointers, {0, lead > 0 ? lead - width_ : 0, lead >= 0});
  }

  /// The same with tiles that begin at coordinates which are multiples of `group`, a divisor of their width.
  void add_grouped(int64_t numel, int64_t segment, const void* const* pointers, int64_t coordinate, int group) {
    add(numel, segment, pointers, {coordinate, -static_cast<int32_t>(coordinate % group), 0});
  }

  bool empty() const { return columns_.empty(); }
  int32_t tiles() const { return tiles_; }
  int32_t jobs() const { return runs_.empty() ? 0 : runs_.back().first_job; }

  /// A run for each of the segments, in about `jobs` jobs altogether, but at least one for a segment with tiles.
  void cut_by_segment(int64_t segments, int64_t jobs) {
    const int64_t share = std::max<int64_t>(1, (tiles_ + jobs - 1) / jobs);  // tiles of a job
    runs_.clear();
    int32_t first_job = 0;
    size_t c = 0;
    for (int64_t s = 0; s < segments; ++s) {
      const int32_t begin = c < columns_.size() ? columns_[c].first_tile : tiles_;
      runs_.push_back({first_job, begin});
      while (c < columns_.size() && columns_[c].segment == s) ++c;
      const int32_t end = c < columns_.size() ? columns_[c].first_tile : tiles_;
      first_job += static_cast<int32_t>((end - begin + share - 1) / share);
    }
    runs_.push_back({first_job, tiles_});
  }

  /// One run for everything, in at most `jobs` jobs.
  void cut_whole(int64_t jobs) { runs_ = {{0, 0}, {static_cast<int32_t>(std::min<int64_t>(jobs, tiles_)), tiles_}}; }

  const std::vector<Run>& runs() const { return runs_; }

  /// The table as one piece of memory; `view` finds its parts wherever it is copied to.
  std::vector<unsigned char> bytes() const {
    std::vector<unsigned char> out(size());
    write(out.data());
    return out;
  }

  size_t size() const { return size_of(columns_) + sizeof(Column) + size_of(runs_) + size_of(pointers_); }

  /// The same, to memory of that size.
  void write(unsigned char* to) const {
    const Column sentinel{0, 0, tiles_, 0, 0, 0};
    for_each_part(sentinel, [&](const void* from, size_t size) {
      if (size > 0) std::memcpy(to, from, size);
      to += size;
    });
  }

  /// Where the parts lie.
  struct Layout {
    int32_t column_count, run_count, pointers_each, width;

    MTL_HD Table view(const unsigned char* base) const {
      const auto* columns = reinterpret_cast<const Column*>(base);
      const auto* runs = reinterpret_cast<const Run*>(columns + column_count + 1);
      auto* pointers = reinterpret_cast<void* const*>(runs + run_count + 1);
      return {columns, runs, pointers, column_count, run_count, pointers_each, width};
    }
  };

  Layout layout() const {
    return {static_cast<int32_t>(columns_.size()), static_cast<int32_t>(runs_.size()) - 1, pointers_each_, width_};
  }

 private:
  struct Placing {
    int64_t coordinate;
    int32_t shift, vectors;
  };

  void add(int64_t numel, int64_t segment, const void* const* pointers, const Placing& placing) {
    const bool any = std::any_of(pointers, pointers + pointers_each_, [](const void* p) { return p != nullptr; });
    if (numel == 0 || !any) return;
    columns_.push_back(
        {numel, placing.coordinate, tiles_, static_cast<int32_t>(segment), placing.shift, placing.vectors});
    for (int i = 0; i < pointers_each_; ++i) pointers_.push_back(const_cast<void*>(pointers[i]));
    tiles_ += static_cast<int32_t>((numel - placing.shift + width_ - 1) / width_);
  }

  template <class T>
  static size_t size_of(const std::vector<T>& v) {
    static_assert(sizeof(T) % 8 == 0, "every part should keep the next one aligned");
    return v.size() * sizeof(T);
  }

  template <class F>
  void for_each_part(const Column& sentinel, F f) const {
    f(columns_.data(), size_of(columns_));
    f(&sentinel, sizeof(sentinel));
    f(runs_.data(), size_of(runs_));
    f(pointers_.data(), size_of(pointers_));
  }

  int pointers_each_, element_size_, width_;
  int32_t tiles_ = 0;
  std::vector<Column> columns_;
  std::vector<Run> runs_;
  std::vector<void*> pointers_;
};

// A large table reaches the device as the arguments of several launches; this is how it is cut into pieces.
struct Piece {
  size_t begin, size;
};

inline std::vector<Piece> pieces_of(size_t size, size_t limit) {
  std::vector<Piece> pieces;
  for (size_t begin = 0; begin < size; begin += limit) pieces.push_back({begin, std::min(limit, size - begin)});
  return pieces;
}

}  // namespace mtl_ops::launch
