// The problem, and how it is cut into tiles. The cut depends on the problem alone.
#pragma once

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "blocks.h"

constexpr int TOGETHER = 4;              // tiles of neighboring heads that a thread takes together
constexpr i64 CACHE_BYTES = 320 << 10;  // packed keys and values of one tile
constexpr int PASSES = 4;  // even and odd rows and columns of tiles
constexpr int BAND_ROWS = 64;           // query rows of a tile: what one task is worth
constexpr size_t ENOUGH_TASKS = 16;     // lower bands where there are fewer tasks

struct Group {
  int first_head, heads, k, dilation;
  i64 bias_at;  // start of its [heads, 2k-1, 2k-1] table in rpb
};

struct Problem {
  int B, H, W, D, threads;
  float scale;
  std::vector<Group> groups;
  const float* rpb;  // or null
};

inline int window_start(int p, int L, int k) { return std::min(std::max(p - k / 2, 0), L - k); }

struct Lane {
  int b, head, y, x;  // head within the group; residues modulo the dilation
};

// Queries [row0, row1) x [col0, col1) of sub-maps of Ly x Lx positions.
struct Task {
  const Group* group;
  bool shift;
  int Ly, Lx, row0, row1, col0, col1;
  int pass;                 // tiles of one pass share no keys
  int head0, heads;         // range of the lanes' heads
  std::vector<Lane> lanes;  // shift: the one sub-map
};

// Into how many equal tiles to cut `size`: of about `wanted`, and none smaller than `least`. Tiles of
// at least a window keep every second one clear of the keys of the other.
inline int count_tiles(int size, int wanted, int least) {
  return std::max(1, std::min((size + wanted - 1) / wanted, size / least));
}

// Columns of a tile, in units of `step`: the most whose key rows fit the cache.
inline int choose_columns(int columns, int least, int step, int k, i64 pixel_bytes) {
  int best = least;
  for (int n = least; n <= columns; ++n) {
    const i64 packed = (i64(n) * step + k - 1 + step - 1) / step * step;
    if (packed * (ROWS + k - 1) * pixel_bytes > CACHE_BYTES) break;
    best = n;
  }
  return best;
}

inline void add_tiles(std::vector<Task>& tasks, Task task, int band, i64 pixel_bytes) {
  const int step = task.shift ? LANES : 1, k = task.group->k;
  const int columns = (task.Lx + step - 1) / step, least = (2 * k - 1) / step + 1;
  const int wanted = choose_columns(columns, least, step, k, pixel_bytes);
  const int tiles_x = count_tiles(columns, wanted, least);
  const int tiles_y = count_tiles(task.Ly, band, k);
  for (int y = 0; y < tiles_y; ++y)
    for (int x = 0; x < tiles_x; ++x) {
      task.row0 = int(i64(task.Ly) * y / tiles_y);
      task.row1 = int(i64(task.Ly) * (y + 1) / tiles_y);
      task.col0 = int(i64(columns) * x / tiles_x) * step;
      task.col1 = std::min(task.Lx, int(i64(columns) * (x + 1) / tiles_x) * step);
      task.pass = (y % 2) * 2 + x % 2;
      tasks.push_back(task);
    }
}

// Work for one useful query of either way to fill a vector: idle lanes, masked keys, packing halos.
inline double shift_cost(int Lx, int k) {
  const int strips = (Lx + LANES - 1) / LANES;
  double keys = 0;
  for (int s = 0; s < strips; ++s) {
    const int first = s * LANES, last = std::min(Lx, first + LANES) - 1;
    const int right = window_start(first, Lx, k) - first + k / 2;  // how far its window is shifted
    const int left = last - k / 2 - window_start(last, Lx, k);
    keys += k + std::max(right, 0) + std::max(left, 0);
  }
  return keys / k * LANES / Lx;
}
inline double lanes_cost(size_t lanes, int Lx, int k) {
  const size_t vectors = (lanes + LANES - 1) / LANES;
  const double halo = Lx > ROWS ? double(k - 1) / ROWS : 0;
  return double(vectors * LANES) / double(lanes) * (1 + 0.3 * halo);
}

// Sub-maps of one size: residues [y0, y1) x [x0, x1) of every head and image.
inline void add_submaps(std::vector<Task>& tasks, const Problem& problem, const Group& group,
                        int y0, int y1, int x0, int x1, int band) {
  if (y0 == y1 || x0 == x1) return;
  Task task{};
  task.group = &group;
  task.Ly = (problem.H - 1 - y0) / group.dilation + 1;
  task.Lx = (problem.W - 1 - x0) / group.dilation + 1;
  std::vector<Lane> lanes;
  for (int b = 0; b < problem.B; ++b)
    for (int n = 0; n < group.heads; ++n)
      for (int y = y0; y < y1; ++y)
        for (int x = x0; x < x1; ++x) lanes.push_back({b, n, y, x});
  task.shift = shift_cost(task.Lx, group.k) < lanes_cost(lanes.size(), task.Lx, group.k);
  const size_t chunk = task.shift ? 1 : LANES;
  const i64 pixel_bytes = i64(2) * sizeof(float) * problem.D * (task.shift ? 1 : LANES);
  for (size_t at = 0; at < lanes.size(); at += chunk) {
    const size_t end = std::min(at + chunk, lanes.size());
    task.lanes.assign(lanes.begin() + at, lanes.begin() + end);
    const auto [low, high] = std::minmax_element(
        task.lanes.begin(), task.lanes.end(),
        [](const Lane& a, const Lane& b) { return a.head < b.head; });
    task.head0 = low->head;
    task.heads = high->head - low->head + 1;
    add_tiles(tasks, task, band, pixel_bytes);
  }
}

// What the tiles of different heads at one place have in common.
inline auto place(const Task& task) {
  const Lane& lane = task.lanes[0];
  return std::make_tuple(task.pass, task.group->first_head, lane.b, task.row0, task.col0, lane.y,
                         lane.x);
}

// All tasks, those of one pass together, and within it those of one place.
inline std::vector<Task> plan(const Problem& problem) {
  std::vector<Task> tasks;
  for (int band = BAND_ROWS;; band /= 2) {
    tasks.clear();
    for (const Group& group : problem.groups) {
      // The first size % dilation residues have one position more than the others.
      const int d = group.dilation, more_y = problem.H % d, more_x = problem.W % d;
      add_submaps(tasks, problem, group, 0, more_y, 0, more_x, band);
      add_submaps(tasks, problem, group, 0, more_y, more_x, d, band);
      add_submaps(tasks, problem, group, more_y, d, 0, more_x, band);
      add_submaps(tasks, problem, group, more_y, d, more_x, d, band);
    }
    if (tasks.size() >= ENOUGH_TASKS || band <= ROWS) break;
  }
  std::stable_sort(tasks.begin(), tasks.end(),
                   [](const Task& a, const Task& b) { return place(a) < place(b); });
  return tasks;
}

// Runs [first, last) of tasks that differ only in their heads, few enough to keep the threads busy,
// with all tasks at once or pass by pass.
inline std::vector<std::pair<i64, i64>> put_together(const std::vector<Task>& tasks, int threads,
                                                     bool by_pass) {
  i64 at_once[PASSES] = {};
  for (const Task& task : tasks) ++at_once[by_pass ? task.pass : 0];
  const int wanted = (by_pass ? 2 : 4) * threads;  // the tiles of a pass are much of a size
  std::vector<std::pair<i64, i64>> runs;
  for (i64 i = 0; i < i64(tasks.size()); ++i) {
    const i64 shared = at_once[by_pass ? tasks[i].pass : 0] / wanted;
    const i64 enough = std::max<i64>(1, std::min<i64>(TOGETHER, shared));
    const bool joins = !runs.empty() && i - runs.back().first < enough &&
                       place(tasks[i]) == place(tasks[i - 1]) &&
                       tasks[i].lanes.size() == tasks[i - 1].lanes.size();
    if (!joins) runs.emplace_back(i, i);
    runs.back().second = i + 1;
  }
  return runs;
}
