// Tiles of neighboring heads, swept together from their first query row to their last.
//
// A key row is packed when the first window reaches it; in the backward pass its gradient is added to
// the output when the last window has left it. The heads of a pixel are neighbors in memory, so taking
// them together reads pixels whole.
#pragma once

#include "tile.h"

struct Map {  // a [B, H, W, N, D] tensor; D contiguous, strides in elements
  void* data;
  i64 b, h, w, n;
};

// Where the lanes of a task lie in a map.
template <class T>
struct View {
  View(const Task& task, const Map& map) {
    const i64 d = task.group->dilation;
    row_step = d * map.h;
    col_step = d * map.w;
    for (int l = 0; l < LANES; ++l) {
      const Lane& lane = task.lanes[!task.shift && l < int(task.lanes.size()) ? l : 0];
      base[l] = static_cast<T*>(map.data) + lane.b * map.b + lane.y * map.h + lane.x * map.w +
                (task.group->first_head + lane.head) * map.n + (task.shift ? l * col_step : 0);
    }
  }

  // Pointers to the pixel of every lane, in columns below `end`; null where there is none.
  void pixels(const Task& task, int row, int col, int end, T* pixel[LANES]) const {
    const i64 at = row * row_step + col * col_step;
    const int first = task.shift ? std::max(0, -col) : 0;
    const int last = task.shift ? end - col : int(task.lanes.size());
    for (int l = 0; l < LANES; ++l) pixel[l] = l >= first && l < last ? base[l] + at : nullptr;
  }

  T* base[LANES];
  i64 row_step, col_step;
};

template <class T>
class Sweep {
 public:
  Sweep(const Problem& problem, const Task* tasks, int count, Arena& arena, bool backward)
      : D_(problem.D), scale_(problem.scale) {
    tiles_.reserve(count);
    for (int i = 0; i < count; ++i) tiles_.emplace_back(problem, tasks[i], backward);
    for (int attempt = 0; attempt < 2; ++attempt) {  // count, then take
      arena.restart();
      for (Tile& tile : tiles_) tile.allocate(arena);
      arena.reserve();
    }
    for (const Tile& tile : tiles_) tile.fill_bias();
  }

  void forward(const Map* maps) {  // q, k, v, out
    const Views<T> q = views<T>(maps[0]), k = views<T>(maps[1]), v = views<T>(maps[2]),
                   out = views<T>(maps[3]);
    each_block([&](int row, int rows) {
      pack_keys(k, v, row + rows);
      pack_queries(q, row, rows, scale_, &Tile::query);
      for (const Tile& tile : tiles_) tile.forward(row, rows);
      unpack_queries(out, row, rows);
    });
  }

  // q, k, v, gradient of out, gradients of q, and of k and v (float32, added to)
  void backward(const Map* maps) {
    const Views<T> q = views<T>(maps[0]), k = views<T>(maps[1]), v = views<T>(maps[2]),
                   dout = views<T>(maps[3]), dq = views<T>(maps[4]);
    const Views<float> dk = views<float>(maps[5]), dv = views<float>(maps[6]);
    each_block([&](int row, int rows) {
      pack_keys(k, v, row + rows);
      pack_queries(q, row, rows, scale_, &Tile::query);
      pack_queries(dout, row, rows, 1.f, &Tile::out_grad);
      for (const Tile& tile : tiles_) tile.backward(row, rows);
      unpack_queries(dq, row, rows);
      const bool last = row + rows == tiles_[0].task().row1;
      const int complete = last ? packed_ : tiles_[0].key_begin(row + rows);
      for (; added_ < complete; ++added_) {
        add_key_row(dk, &Tile::key_grad);
        add_key_row(dv, &Tile::value_grad);
      }
    });
  }

  const std::vector<Tile>& tiles() const { return tiles_; }

 private:
  template <class U>
  using Views = std::vector<View<U>>;

  template <class U>
  Views<U> views(const Map& map) const {
    Views<U> result;
    for (const Tile& tile : tiles_) result.emplace_back(tile.task(), map);
    return result;
  }

  template <class F>
  void each_block(F f) {
    const Task& task = tiles_[0].task();
    packed_ = added_ = tiles_[0].key_begin(task.row0);
    for (int row = task.row0; row < task.row1; row += ROWS)
      f(row, std::min(ROWS, task.row1 - row));
  }

  // Calls f(tile, i, pixels) for vectors i of one row from column `col` on, of all tiles. Pixels lie far
  // apart in memory, and rows often a power of two, so that the caches hold few of them: the next
  // vectors are fetched just before they are needed.
  template <bool WRITE, class U, class F>
  void each_vector(const Views<U>& views, int row, int col, int vectors, int end, F f) {
    const int count = int(tiles_.size()), step = tiles_[0].step();
    U* pixel[AHEAD + 1][LANES];
    for (int i = 0; i < vectors * count + AHEAD; ++i) {
      if (i < vectors * count) {
        U** ahead = pixel[i % (AHEAD + 1)];
        const Task& task = tiles_[i % count].task();
        views[i % count].pixels(task, row, col + i / count * step, end, ahead);
        for (int l = 0; l < LANES; ++l)
          for (int d = 0; ahead[l] && d < D_; d += 64 / int(sizeof(U)))
            __builtin_prefetch(ahead[l] + d, WRITE);
      }
      const int j = i - AHEAD;
      if (j >= 0) f(tiles_[j % count], j / count, pixel[j % (AHEAD + 1)]);
    }
  }

  // Packs the key rows that the windows of query rows before `row_end` add.
  void pack_keys(const Views<T>& k, const Views<T>& v, int row_end) {
    const Tile& first = tiles_[0];
    const int col = first.key_col0(), end = first.task().Lx;
    for (; packed_ < first.key_end(row_end); ++packed_) {
      each_vector<false>(k, packed_, col, first.key_vectors(), end, [&](Tile& t, int i, T** pixel) {
        pack<T>(pixel, D_, 1.f, t.key + t.packed_at(packed_, col + i * t.step()), t.step_d());
      });
      each_vector<false>(v, packed_, col, first.key_vectors(), end, [&](Tile& t, int i, T** pixel) {
        pack<T>(pixel, D_, 1.f, t.value + t.packed_at(packed_, col + i * t.step()), t.step_d());
      });
      for (const Tile& t : tiles_)
        for (float* ring : {t.key_grad, t.value_grad})
          if (ring)
            std::memset(ring + t.packed_at(packed_, col), 0, sizeof(float) * t.step_row());
    }
  }

  // Adds one row of a ring to the output: only the keys that the tile's windows touch, since other
  // tiles may be writing those beside them.
  void add_key_row(const Views<float>& views, float* Tile::*ring) {
    const Task& task = tiles_[0].task();
    const int k = task.group->k, step = tiles_[0].step();
    const int begin = window_start(task.col0, task.Lx, k);
    const int end = window_start(task.col1 - 1, task.Lx, k) + k;
    const int vectors = (end - begin + step - 1) / step;
    each_vector<true>(views, added_, begin, vectors, end, [&](Tile& t, int i, float** pixel) {
      unpack<true>(t.*ring + t.packed_at(added_, begin + i * step), t.step_d(), D_, broadcast(1.f),
                   pixel);
    });
  }

  void pack_queries(const Views<T>& views, int row, int rows, float factor, float* Tile::*blocks) {
    const Task& task = tiles_[0].task();
    for (int r = 0; r < rows; ++r)
      each_vector<false>(views, row + r, task.col0, tiles_[0].strips(), task.Lx,
                         [&](Tile& t, int s, T** pixel) {
        pack<T>(pixel, D_, factor, t.*blocks + s * t.block() + i64(r) * D_ * LANES, LANES);
      });
  }

  void unpack_queries(const Views<T>& views, int row, int rows) {
    const Task& task = tiles_[0].task();
    for (int r = 0; r < rows; ++r)
      each_vector<true>(views, row + r, task.col0, tiles_[0].strips(), task.Lx,
                        [&](Tile& t, int s, T** pixel) {
        const float* at = t.query + s * t.block() + i64(r) * D_ * LANES;
        unpack<false>(at, LANES, D_, t.factor(s, r), pixel);
      });
  }

  static constexpr int AHEAD = 2;  // vectors of pixels

  const int D_;
  const float scale_;
  std::vector<Tile> tiles_;
  int packed_ = 0, added_ = 0;  // key rows below are packed; below are added to the output
};
