// Who multiplies what when there are more tasks than one thread's registers hold products of.
//
// The rows (tasks) are cut into *tiles* of M rows, four tiles make a *set*.  A block stages the rows of one set, or
// of two, in shared memory and its *team* of warps multiplies every tile of the set with every other (or with every
// tile of the second set), each warp one pair of tiles in its registers; where there are more warps than pairs,
// several share a pair, each taking every n-th step of columns.  So with up to 4 M tasks every row is read once; with
// more, once for each pair of sets it is in.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "../solvers/lanes.h"

namespace mtl_ops::launch {

constexpr int kTilesPerSet = 4;
constexpr int kStepBytes = 512;     // of a row: a 16-byte load for each lane of a warp
constexpr int kStageBytes = 32768;  // of all rows together
constexpr int kMaxTeamWarps = 16;
constexpr int kReservedBytes = 1024;  // of shared memory, which a block takes besides its own

MTL_HD constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

/// The k-th of the pairs (i, j), i <= j < n, in the order (0, 0), (0, 1), ...
struct Pair {
  int i, j;
};

MTL_HD constexpr Pair pair_at(int k, int n) {
  int i = 0;
  for (; k >= n - i; ++i) k -= n - i;
  return {i, i + k};
}

MTL_HD constexpr int pair_count(int n) { return n * (n + 1) / 2; }

/// Which of those pairs (i, j) is.
MTL_HD constexpr int pair_index(int i, int j, int n) { return i * (2 * n - i - 1) / 2 + j; }

struct Team {
  int left, right;      // tiles of the two sets; right = 0: of the set with itself
  int steps;            // in a stage
  int diagonal_slices;  // warps that share a tile multiplied with itself
  int slices;           // warps that share any other pair of tiles

  MTL_HD constexpr int tiles() const { return left + right; }
  MTL_HD constexpr int diagonals() const { return right == 0 ? left : 0; }
  MTL_HD constexpr int others() const { return right == 0 ? left * (left - 1) / 2 : left * right; }
  MTL_HD constexpr int warps() const { return diagonals() * diagonal_slices + others() * slices; }
};

// What one warp does: the tiles it multiplies, in the order they are staged, and the steps `slice`, `slice + slices`,
// ... of every stage.  A warp without work has a = -1.
struct Duty {
  int a, b, slice, slices;
};

/// A tile with itself is about half the work of another pair, so it gets half the warps.
MTL_HD constexpr Team make_team(int left, int right, int steps, int max_warps) {
  Team team{left, right, steps, 1, 1};
  for (;;) {
    Team larger = team;
    larger.slices = 2 * team.slices;
    larger.diagonal_slices = team.others() == 0 ? larger.slices : team.slices;
    if (larger.warps() > max_warps || larger.slices > steps) return team;
    team = larger;
  }
}

MTL_HD constexpr Duty duty_of(const Team& team, int warp) {
  const int on_diagonal = team.diagonals() * team.diagonal_slices;
  if (warp < on_diagonal) {
    const int tile = warp / team.diagonal_slices;
    return {tile, tile, warp % team.diagonal_slices, team.diagonal_slices};
  }
  const int pair = (warp - on_diagonal) / team.slices;
  const int slice = (warp - on_diagonal) % team.slices;
  if (pair >= team.others()) return {-1, -1, 0, 1};
  if (team.right != 0) return {pair / team.right, team.left + pair % team.right, slice, team.slices};
  const Pair without_diagonal = pair_at(pair, team.left - 1);
  return {without_diagonal.i, without_diagonal.j + 1, slice, team.slices};
}

// How the blocks of one launch share out T tasks.  Blocks of every *kind*, one for each pair of sets, go through the
// same tiles of columns, so they all stage as many columns as the kind with the most rows can.
struct Teams {
  int tasks, rows_per_tile;

  MTL_HD constexpr int rows_per_set() const { return kTilesPerSet * rows_per_tile; }
  MTL_HD constexpr int sets() const { return ceil_div(tasks, rows_per_set()); }
  MTL_HD constexpr int kinds() const { return pair_count(sets()); }
  MTL_HD constexpr int warps() const { return tasks <= 2 * rows_per_tile ? kMaxTeamWarps / 2 : kMaxTeamWarps; }

  MTL_HD constexpr int tiles_of_set(int set) const {
    const int rows = tasks - set * rows_per_set();
    return ceil_div(rows < rows_per_set() ? rows : rows_per_set(), rows_per_tile);
  }

  /// How many such blocks a multiprocessor holds, given the shared memory of each and of all.
  int blocks(size_t shared, size_t shared_of_processor) const {
    const int by_threads = kMaxTeamWarps / warps();
    const int by_memory = static_cast<int>(shared_of_processor / (shared + kReservedBytes));
    return std::max(1, std::min(by_threads, by_memory));
  }

  MTL_HD constexpr int most_tiles() const {
    return sets() == 1 ? tiles_of_set(0) : kTilesPerSet + tiles_of_set(sets() == 2 ? 1 : 0);
  }

  MTL_HD constexpr int steps() const {
    int steps = 1;
    while (2 * steps * most_tiles() * rows_per_tile * kStepBytes <= kStageBytes) steps *= 2;
    return steps;
  }

  MTL_HD constexpr Team team(int kind) const {
    const Pair two = pair_at(kind, sets());
    return make_team(tiles_of_set(two.i), two.i == two.j ? 0 : tiles_of_set(two.j), steps(), warps());
  }

  /// The task in row `row` of what a block of this kind stages: T or more for rows that only fill up the last tile.
  MTL_HD constexpr int task(int kind, int row) const {
    const Pair two = pair_at(kind, sets());
    const int in_left = tiles_of_set(two.i) * rows_per_tile;
    return row < in_left ? two.i * rows_per_set() + row : two.j * rows_per_set() + row - in_left;
  }
};

}  // namespace mtl_ops::launch
