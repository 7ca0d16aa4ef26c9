// Checks how csrc/launch shares elements out among blocks, and pairs of tasks among warps.  Prints what is wrong.
#include "../../csrc/launch/plan.h"

#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "../../csrc/launch/team.h"

using namespace mtl_ops::launch;

namespace {

void expect(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "wrong: %s\n", what.c_str());
  std::exit(1);
}

struct Param {
  int64_t numel, segment;
  std::vector<const void*> pointers;
};

const void* address(uintptr_t bytes) { return reinterpret_cast<const void*>(bytes); }

// What a block does with one tile.
struct Part {
  int64_t begin, end;
  int segment;
};

// Every element of every column lies in exactly one span, of a job of its segment; a span that is read in vectors is
// whole and begins on a boundary in every tensor.
void check(const std::vector<Param>& params, Plan plan, int element_size, int width, bool by_segment) {
  const std::vector<unsigned char> bytes = plan.bytes();
  const Table table = plan.layout().view(bytes.data());
  std::vector<std::vector<Part>> parts(table.column_count);
  for (int job = 0; job < plan.jobs(); ++job) {
    int64_t tiles = 0;
    Tiles walk(table, job);
    const int64_t left = walk.left();
    for (; !walk.done(); walk.next(), ++tiles) {
      const int column = walk.column();
      const Span span = walk.span();
      parts[column].push_back({span.begin, span.end, by_segment ? table.run_of(job) : -1});
      expect(span.begin < span.end && span.end - span.begin <= width, "the length of a span");
      if (!span.vectors) continue;
      expect(span.end - span.begin == width, "a span in vectors is whole");
      for (int i = 0; i < table.pointers_each; ++i) {
        const auto at = reinterpret_cast<uintptr_t>(table.row(column)[i]);
        expect(at == 0 || (at + span.begin * element_size) % kVectorBytes == 0, "a span in vectors is aligned");
      }
    }
    expect(tiles == left && tiles > 0, "how many tiles a job has");
  }
  size_t column = 0;
  for (const Param& param : params) {
    bool any = false;
    for (const void* pointer : param.pointers) any |= pointer != nullptr;
    if (param.numel == 0 || !any) continue;
    expect(column < parts.size() && table.columns[column].numel == param.numel, "the columns");
    std::vector<Part>& own = parts[column];
    std::sort(own.begin(), own.end(), [](const Part& a, const Part& b) { return a.begin < b.begin; });
    int64_t covered = 0;
    for (const Part& part : own) {
      expect(part.begin == covered, "elements that nobody, or several, have: at " + std::to_string(covered));
      expect(!by_segment || part.segment == param.segment, "the segment of a job");
      covered = part.end;
    }
    expect(covered == param.numel, "the last elements");
    for (size_t i = 0; i < param.pointers.size(); ++i)
      expect(table.row(column)[i] == param.pointers[i], "the pointers of a column");
    ++column;
  }
  expect(column == parts.size(), "the number of columns");
}

void check_both(const std::vector<Param>& params, int rows, int element_size, int width, int64_t segments,
                int64_t jobs) {
  Plan plan(rows, element_size, width);
  for (const Param& param : params) plan.add(param.numel, param.segment, param.pointers.data());
  plan.cut_by_segment(segments, jobs);
  expect(plan.runs().size() == static_cast<size_t>(segments) + 1, "a run a segment");
  check(params, plan, element_size, width, true);
  plan.cut_whole(jobs);
  expect(plan.jobs() <= jobs, "the number of jobs");
  check(params, plan, element_size, width, false);
}

// Random lengths, alignments, missing gradients and segments without any parameter.
void check_random(std::mt19937& random, int count, int64_t segments) {
  const auto below = [&](int n) { return static_cast<int>(random() % n); };
  const int rows = 1 + below(5), element_size = 2 << below(3), width = 256 << below(3);
  std::vector<Param> params;
  for (int p = 0; p < count; ++p) {
    const int lengths[] = {0, 1, below(20), width, width - 1, below(5000)};
    Param param{lengths[below(6)], p * segments / count, {}};
    const int common = below(16);
    for (int r = 0; r < rows; ++r) {
      const uintptr_t away = below(3) == 0 ? below(16) : common;
      param.pointers.push_back(below(5) == 0 ? nullptr : address(4096u * (1 + r) + element_size * away));
    }
    params.push_back(param);
  }
  check_both(params, rows, element_size, width, segments, 1 + below(300));
}

// Tiles of numbered elements begin at multiples of the group.
void check_grouped() {
  constexpr int group = 64, width = 256;
  std::vector<Param> params;
  Plan plan(1, 4, width);
  int64_t coordinate = 0;
  for (const int64_t numel : {1, 63, 64, 500, 7, 3000}) {
    params.push_back({numel, 0, {address(4096)}});
    plan.add_grouped(numel, 0, params.back().pointers.data(), coordinate, group);
    coordinate += numel;
  }
  plan.cut_whole(5);
  const std::vector<unsigned char> bytes = plan.bytes();
  const Table table = plan.layout().view(bytes.data());
  for (int job = 0; job < plan.jobs(); ++job) {
    for (Tiles walk(table, job); !walk.done(); walk.next())
      expect((table.columns[walk.column()].coordinate + walk.span().origin) % group == 0, "where a group begins");
  }
  check(params, plan, 4, width, false);
}

// Every pair of tasks is multiplied once for every step of columns.
void check_teams(int tasks, int rows_per_tile) {
  const Teams teams{tasks, rows_per_tile};
  std::vector<int> times(tasks * tasks * teams.steps());
  for (int kind = 0; kind < teams.kinds(); ++kind) {
    const Team team = teams.team(kind);
    expect(team.warps() <= teams.warps(), "the warps of a team");
    expect(team.tiles() * rows_per_tile * team.steps * kStepBytes <= kStageBytes, "what a stage holds");
    for (int warp = 0; warp < teams.warps(); ++warp) {
      const Duty duty = duty_of(team, warp);
      if (duty.a < 0) continue;
      for (int at = 0; at < rows_per_tile * rows_per_tile; ++at) {
        const int i = teams.task(kind, duty.a * rows_per_tile + at / rows_per_tile);
        const int j = teams.task(kind, duty.b * rows_per_tile + at % rows_per_tile);
        if (i > j || j >= tasks) continue;
        for (int step = duty.slice; step < team.steps; step += duty.slices)
          ++times[(i * tasks + j) * teams.steps() + step];
      }
    }
  }
  for (int i = 0; i < tasks; ++i) {
    for (int j = i; j < tasks; ++j) {
      const Pair back = pair_at(pair_index(i, j, tasks), tasks);
      expect(back.i == i && back.j == j, "the number of a pair");
      for (int step = 0; step < teams.steps(); ++step)
        expect(times[(i * tasks + j) * teams.steps() + step] == 1, "how often two tasks are multiplied");
    }
  }
}

void check_pieces() {
  for (const size_t size : {0, 1, 99, 100, 101, 1000}) {
    size_t at = 0;
    for (const Piece& piece : pieces_of(size, 100)) {
      expect(piece.begin == at && piece.size >= 1 && piece.size <= 100, "a piece");
      at += piece.size;
    }
    expect(at == size, "all pieces");
  }
}

}  // namespace

int main() {
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) check_random(random, 1 + round % 40, 1 + round % 7);
  check_random(random, 5000, 1000);
  const int64_t large = (int64_t{1} << 31) + 4099;  // more than 32 bits count
  check_both({{large, 0, {address(4100), address(8196)}}, {large, 1, {address(4096), nullptr}}}, 2, 4, 2048, 2, 264);
  check_grouped();
  check_pieces();
  for (int tasks = 1; tasks <= 64; ++tasks) {
    for (const int rows_per_tile : {4, 8}) check_teams(tasks, rows_per_tile);
  }
  std::puts("checked");
}
