// The packed data of one task, and what is computed on it, a block of ROWS query rows at a time.
#pragma once

#include <memory>

#include "plan.h"

// 64-byte aligned scratch memory of one thread. `take` before `reserve` only counts.
class Arena {
 public:
  void restart() { used_ = 0; }
  float* take(i64 count) {
    const i64 at = used_;
    used_ += (count + 15) & ~i64(15);
    return used_ <= size_ ? base_ + at : nullptr;
  }
  void reserve() {
    if (used_ > size_) {
      size_ = used_;
      memory_.reset(new float[size_ + 16]);
      const auto address = reinterpret_cast<std::uintptr_t>(memory_.get());
      base_ = memory_.get() + (64 - address % 64) % 64 / sizeof(float);
    }
  }

 private:
  std::unique_ptr<float[]> memory_;
  float* base_ = nullptr;
  i64 size_ = 0, used_ = 0;
};

// LANES queries of one row.
struct Strip {
  int col;         // first column (shift), or the one column (lanes)
  int valid;       // lanes that are queries
  int key_col;     // column of key 0 of lane 0
  int keys;        // key columns
  int bias_first;  // horizontal index into rpb of key column 0
  float* bias;     // [2k-1][bias_width][LANES]
  float* bias_grad;
  i64 bias_width;
};

// Keys, values and their gradients are rings of rows: key row y is at y % ring_rows. Queries and output
// gradients are blocks [strip][ROWS][D][LANES]; the sums that a strip yields take its queries' place.
class Tile {
 public:
  Tile(const Problem& problem, const Task& task, bool backward)
      : problem_(problem), task_(task), D_(problem.D), k_(task.group->k),
        step_(task.shift ? LANES : 1), backward_(backward) {
    make_strips();
    ring_rows_ = std::min(key_end(task.row1) - key_begin(task.row0), ROWS + k_ - 1);
    key_vectors_ = (columns_ + step_ - 1) / step_;
    step_d_ = task.shift ? LANES * (key_vectors_ | 1) : LANES;  // odd cache lines apart
    step_j_ = task.shift ? 1 : i64(D_) * LANES;
    step_row_ = task.shift ? i64(D_) * step_d_ : i64(columns_) * D_ * LANES;
    block_ = i64(ROWS) * D_ * LANES;
    score_row_ = i64(k_) * most_keys_ * LANES;
  }

  void allocate(Arena& arena) {
    const i64 ring = ring_rows_ * step_row_ + LANES, blocks = i64(strips_.size()) * block_;
    for (float** p : {&key, &value}) *p = arena.take(ring);
    query = arena.take(blocks);
    factors_ = arena.take(blocks / D_);
    scores_ = arena.take(ROWS * score_row_);
    if (backward_) {
      for (float** p : {&key_grad, &value_grad}) *p = arena.take(ring);
      out_grad = arena.take(blocks);
      score_grads_ = arena.take(ROWS * score_row_);
    }
    const Strip* shared = nullptr;
    for (Strip& strip : strips_) {
      strip.bias_width = task_.shift ? strip.keys : 2 * k_ - 1;
      const i64 table = (2 * k_ - 1) * strip.bias_width * LANES;
      strip.bias = shared && shares_bias(strip) ? shared->bias : arena.take(table);
      if (backward_)
        strip.bias_grad = shared && shares_bias(strip) ? shared->bias_grad : arena.take(table);
      if (shares_bias(strip)) shared = &strip;
    }
  }

  void fill_bias() const {
    each_bias([&](const Strip& strip) {
      const i64 side = 2 * k_ - 1, first = task_.shift ? strip.bias_first : 0;
      const float* rpb[LANES];  // the table of each lane's head
      for (int l = 0; problem_.rpb && l < LANES; ++l) {
        const Lane& lane = task_.lanes[task_.shift || l >= strip.valid ? 0 : l];
        rpb[l] = problem_.rpb + task_.group->bias_at + lane.head * side * side + first;
      }
      for (i64 j = 0; j < strip.bias_width; ++j) {
        const vec mask = key_mask(strip, int(j));
        for (i64 y = 0; y < side; ++y) {
          vec value = mask;
          for (int l = 0; problem_.rpb && l < LANES; ++l) value[l] += rpb[l][y * side + j];
          store(strip.bias + (y * strip.bias_width + j) * LANES, value);
        }
      }
      if (backward_)
        std::memset(strip.bias_grad, 0, sizeof(float) * side * strip.bias_width * LANES);
    });
  }

  // Queries of rows [row, row + rows) become their outputs, to be multiplied by `factor`.
  void forward(int row, int rows) const {
    for (size_t s = 0; s < strips_.size(); ++s) {
      const Strip& strip = strips_[s];
      float* q = query + s * block_;
      dots(strip, row, rows, q, key, scores_, true);
      for (int r = 0; r < rows; ++r) set_factor(s, r, 1.f / exponentials(strip, r));
      weighted_sums(strip, row, rows, scores_, value, q);
    }
  }

  // Queries become their gradients, to be multiplied by `factor`; adds to those of keys, values, bias.
  void backward(int row, int rows) const {
    for (size_t s = 0; s < strips_.size(); ++s) {
      const Strip& strip = strips_[s];
      float* q = query + s * block_;
      const float* dout = out_grad + s * block_;
      dots(strip, row, rows, q, key, scores_, true);
      dots(strip, row, rows, dout, value, score_grads_, false);
      for (int r = 0; r < rows; ++r) {
        softmax_backward(strip, row + r, r);
        set_factor(s, r, broadcast(problem_.scale));
      }
      scatters(strip, row, rows, scores_, dout, value_grad);
      scatters(strip, row, rows, score_grads_, q, key_grad);
      weighted_sums(strip, row, rows, score_grads_, key, q);
    }
  }

  // partial: [heads of the task][2k-1][2k-1], added to.
  void reduce_bias_grad(float* partial) const {
    const int side = 2 * k_ - 1;
    each_bias([&](const Strip& strip) {
      const int first = task_.shift ? strip.bias_first : 0;
      for (int y = 0; y < side; ++y)
        for (int j = 0; j < strip.bias_width; ++j) {
          const float* grad = strip.bias_grad + (y * strip.bias_width + j) * LANES;
          if (task_.shift) {
            partial[y * side + first + j] += sum_of_lanes(load(grad));
          } else {
            for (int l = 0; l < strip.valid; ++l) {
              const int head = task_.lanes[l].head - task_.head0;
              partial[(i64(head) * side + y) * side + j] += grad[l];
            }
          }
        }
    });
  }

  // Key rows [key_begin(row0), key_end(row1)) are those that query rows [row0, row1) see.
  int key_begin(int row) const { return window_start(row, task_.Ly, k_); }
  int key_end(int row) const { return window_start(row - 1, task_.Ly, k_) + k_; }
  i64 packed_at(int key_row, int col) const {
    return key_row % ring_rows_ * step_row_ + (col - key_col0_) * step_j_;
  }
  vec factor(i64 strip, i64 r) const { return load(factors_ + (strip * ROWS + r) * LANES); }

  const Task& task() const { return task_; }
  int strips() const { return int(strips_.size()); }
  int step() const { return step_; }
  int key_col0() const { return key_col0_; }
  int key_vectors() const { return key_vectors_; }
  i64 step_d() const { return step_d_; }
  i64 step_row() const { return step_row_; }
  i64 block() const { return block_; }

  float *key, *value, *query;
  float *key_grad = nullptr, *value_grad = nullptr, *out_grad = nullptr;

 private:
  void make_strips() {
    const int L = task_.Lx;
    int high = 0;
    key_col0_ = L;
    for (int col = task_.col0; col < task_.col1; col += step_) {
      Strip strip{};
      strip.col = col;
      strip.valid = task_.shift ? std::min(LANES, L - col) : int(task_.lanes.size());
      int first = k_, last = -k_;  // offsets of keys from their query
      for (int p = col; p < col + (task_.shift ? strip.valid : 1); ++p) {
        first = std::min(first, window_start(p, L, k_) - p);
        last = std::max(last, window_start(p, L, k_) + k_ - 1 - p);
      }
      strip.key_col = col + first;
      strip.keys = last - first + 1;
      strip.bias_first = first + k_ - 1;
      key_col0_ = std::min(key_col0_, strip.key_col);
      high = std::max(high, strip.key_col + strip.keys + step_ - 1);
      most_keys_ = std::max(most_keys_, strip.keys);
      strips_.push_back(strip);
    }
    columns_ = high - key_col0_;
  }

  // Strips without masked keys share one table of the bias.
  bool shares_bias(const Strip& strip) const {
    return !task_.shift || (strip.valid == LANES && strip.keys == k_);
  }

  // Calls f(strip) once for each table of the bias.
  template <class F>
  void each_bias(F f) const {
    bool done = false;
    for (const Strip& strip : strips_) {
      if (done && shares_bias(strip)) continue;
      done = done || shares_bias(strip);
      f(strip);
    }
  }

  // 0 where key column j of a strip is in a lane's window, else -inf.
  vec key_mask(const Strip& strip, int j) const {
    vec mask{};
    for (int l = 0; task_.shift && l < strip.valid; ++l) {
      const int key_col = strip.key_col + l + j;
      const int start = window_start(strip.col + l, task_.Lx, k_);
      if (key_col < start || key_col >= start + k_)
        mask[l] = -std::numeric_limits<float>::infinity();
    }
    return mask;
  }

  void set_factor(i64 strip, i64 r, vec factor) const {
    store(factors_ + (strip * ROWS + r) * LANES, factor);
  }

  // Calls f(key row, first row of the block whose window holds it, count of rows that do, their places
  // in `scores`) for all key rows of a block of query rows.
  template <class F>
  void each_key_row(const Strip& strip, int row, int rows, float* scores, F f) const {
    for (int key_row = key_begin(row); key_row < key_end(row + rows); ++key_row) {
      int first = 0, last = rows;
      while (key_begin(row + first) + k_ <= key_row) ++first;
      while (key_begin(row + last - 1) > key_row) --last;
      float* at[ROWS];
      for (int r = first; r < last; ++r)
        at[r - first] =
            scores + r * score_row_ + i64(key_row - key_begin(row + r)) * strip.keys * LANES;
      f(key_row, first, last - first, at);
    }
  }

  void dots(const Strip& strip, int row, int rows, const float* x, const float* packed,
            float* scores, bool with_bias) const {
    each_key_row(strip, row, rows, scores, [&](int key_row, int first, int count, float** at) {
      const float* bias[ROWS];
      for (int r = 0; r < count; ++r)
        bias[r] = bias_at(strip.bias, strip, key_row - (row + first + r));
      with_rows(count, [&](auto R) {
        dot<R.value>(x + i64(first) * D_ * LANES, packed + packed_at(key_row, strip.key_col),
                     step_j_, step_d_, D_, with_bias ? bias : nullptr, at, strip.keys);
      });
    });
  }

  void weighted_sums(const Strip& strip, int row, int rows, float* weights, const float* packed,
                     float* total) const {
    std::memset(total, 0, sizeof(float) * rows * D_ * LANES);
    each_key_row(strip, row, rows, weights, [&](int key_row, int first, int count, float** at) {
      with_rows(count, [&](auto R) {
        weighted<R.value>(at, packed + packed_at(key_row, strip.key_col), step_j_, step_d_, D_,
                          strip.keys, total + i64(first) * D_ * LANES);
      });
    });
  }

  void scatters(const Strip& strip, int row, int rows, float* weights, const float* x,
                float* packed) const {
    each_key_row(strip, row, rows, weights, [&](int key_row, int first, int count, float** at) {
      with_rows(count, [&](auto R) {
        scatter<R.value>(at, x + i64(first) * D_ * LANES, step_j_, step_d_, D_, strip.keys,
                         packed + packed_at(key_row, strip.key_col));
      });
    });
  }

  // Row of a bias table for keys `offset` rows below their query.
  float* bias_at(float* table, const Strip& strip, int offset) const {
    const i64 first = task_.shift ? 0 : strip.bias_first;
    return table + ((offset + k_ - 1) * strip.bias_width + first) * LANES;
  }

  // Scores of query row r become e^(score - maximum); returns their sum.
  vec exponentials(const Strip& strip, int r) const {
    float* scores = scores_ + r * score_row_;
    const i64 row = i64(strip.keys) * LANES;
    vec most = load(scores), total{};
    for (i64 at = LANES; at < k_ * row; at += LANES) most = maximum(most, load(scores + at));
    for (i64 y = 0; y < k_; ++y) {
      vec row_total{};
      for (i64 at = y * row; at < (y + 1) * row; at += LANES) {
        const vec e = exponential(load(scores + at) - most);
        row_total += e;
        store(scores + at, e);
      }
      total += row_total;
    }
    return total;
  }

  // Scores become weights, gradients of weights those of scores:
  // d score = weight * (d weight - sum of weight * d weight). The bias has the same gradient.
  void softmax_backward(const Strip& strip, int row, int r) const {
    const vec inverse = 1.f / exponentials(strip, r);
    float *weights = scores_ + r * score_row_, *grads = score_grads_ + r * score_row_;
    const i64 count = i64(strip.keys) * LANES;
    vec mean{};
    for (i64 y = 0; y < k_; ++y) {
      vec row_mean{};
      for (i64 at = y * count; at < (y + 1) * count; at += LANES) {
        const vec weight = load(weights + at) * inverse;
        store(weights + at, weight);
        row_mean += weight * load(grads + at);
      }
      mean += row_mean;
    }
    for (i64 at = 0; at < k_ * count; at += LANES)
      store(grads + at, load(weights + at) * (load(grads + at) - mean));
    if (!problem_.rpb) return;
    for (int y = 0; y < k_; ++y) {
      float* total = bias_at(strip.bias_grad, strip, key_begin(row) + y - row);
      for (i64 j = 0; j < count; j += LANES)
        store(total + j, load(total + j) + load(grads + y * count + j));
    }
  }

  const Problem& problem_;
  const Task& task_;
  const int D_, k_, step_;  // step: columns of a vector
  const bool backward_;
  std::vector<Strip> strips_;
  int key_col0_, columns_, most_keys_ = 0, ring_rows_, key_vectors_;
  i64 step_j_, step_d_, step_row_, score_row_, block_;
  float *factors_, *scores_, *score_grads_ = nullptr;
};
