// Inner loops: R query rows against the keys of one key row.
// Long sums are sums of short ones, which costs nothing and keeps their rounding errors small.
// Queries x and sums are [R][D][LANES]; element d of key j is at key + j * step_j + d * step_d.
#pragma once

#include <algorithm>
#include <type_traits>

#include "simd.h"

// Register blocking: a block's accumulators, and what they are made of, fit the registers.
constexpr int ROWS = REGISTERS / 4;
constexpr int keys_of(int rows) { return std::min(7, REGISTERS * 3 / 4 / rows); }
constexpr int DOT_DEPTH = 32;
constexpr int depth_of(int rows) { return rows <= 2 ? 8 : rows <= 3 * REGISTERS / 16 ? 4 : 2; }

// Calls f with `rows` (1..ROWS) as a compile-time constant.
template <int R = ROWS, class F>
void with_rows(int rows, F f) {
  if constexpr (R > 0) {
    if (rows == R) return f(std::integral_constant<int, R>());
    with_rows<R - 1>(rows, f);
  }
}

template <int R, int J>
void dot_block(const float* x, const float* key, i64 step_j, i64 step_d, int D,
               const float* const* bias, float* const* scores, int j0) {
  for (int d0 = 0; d0 < D; d0 += DOT_DEPTH) {
    vec sum[R][J] = {};
    for (int d = d0; d < std::min(d0 + DOT_DEPTH, D); ++d)
      for (int j = 0; j < J; ++j) {
        const vec y = load(key + (j0 + j) * step_j + d * step_d);
        for (int r = 0; r < R; ++r) sum[r][j] += y * load(x + (i64(r) * D + d) * LANES);
      }
    for (int r = 0; r < R; ++r) {
      const float* more = d0 > 0 ? scores[r] : bias ? bias[r] : nullptr;
      for (int j = 0; j < J; ++j) {
        const i64 at = i64(j0 + j) * LANES;
        store(scores[r] + at, more ? sum[r][j] + load(more + at) : sum[r][j]);
      }
    }
  }
}

template <int R, int J = keys_of(R)>
void dot_some(const float* x, const float* key, i64 step_j, i64 step_d, int D,
              const float* const* bias, float* const* scores, int j0, int keys) {
  if constexpr (J > 0) {
    if (keys == J) return dot_block<R, J>(x, key, step_j, step_d, D, bias, scores, j0);
    dot_some<R, J - 1>(x, key, step_j, step_d, D, bias, scores, j0, keys);
  }
}

// scores[r][j] = x[r] . key[j] (+ bias[r][j], unless bias is null)
template <int R>
void dot(const float* x, const float* key, i64 step_j, i64 step_d, int D, const float* const* bias,
         float* const* scores, int keys) {
  const int blocks = (keys + keys_of(R) - 1) / keys_of(R);
  for (int i = 0; i < blocks; ++i) {
    const int j0 = keys * i / blocks, j1 = keys * (i + 1) / blocks;
    dot_some<R>(x, key, step_j, step_d, D, bias, scores, j0, j1 - j0);
  }
}

template <int R, int DEPTH>
void weighted_block(float* const* weights, const float* key, i64 step_j, i64 step_d, int D, int keys,
                    float* sums, int d0) {
  vec sum[R][DEPTH] = {};
  for (int j = 0; j < keys; ++j) {
    vec w[R];
    for (int r = 0; r < R; ++r) w[r] = load(weights[r] + i64(j) * LANES);
    for (int d = 0; d < DEPTH; ++d) {
      const vec y = load(key + j * step_j + (d0 + d) * step_d);
      for (int r = 0; r < R; ++r) sum[r][d] += w[r] * y;
    }
  }
  for (int r = 0; r < R; ++r)
    for (int d = 0; d < DEPTH; ++d) {
      float* at = sums + (i64(r) * D + d0 + d) * LANES;
      store(at, load(at) + sum[r][d]);
    }
}

// sums[r] += weights[r][j] * key[j] over j
template <int R>
void weighted(float* const* weights, const float* key, i64 step_j, i64 step_d, int D, int keys,
              float* sums) {
  constexpr int DEPTH = depth_of(R);
  int d = 0;
  for (; d + DEPTH <= D; d += DEPTH)
    weighted_block<R, DEPTH>(weights, key, step_j, step_d, D, keys, sums, d);
  for (; d < D; ++d) weighted_block<R, 1>(weights, key, step_j, step_d, D, keys, sums, d);
}

// key[j] += weights[r][j] * x[r] over r
template <int R>
void scatter(float* const* weights, const float* x, i64 step_j, i64 step_d, int D, int keys,
             float* key) {
  for (int j = 0; j < keys; ++j) {
    vec w[R];
    for (int r = 0; r < R; ++r) w[r] = load(weights[r] + i64(j) * LANES);
    for (int d = 0; d < D; ++d) {
      float* at = key + j * step_j + d * step_d;
      vec sum{};
      for (int r = 0; r < R; ++r) sum += w[r] * load(x + (i64(r) * D + d) * LANES);
      store(at, load(at) + sum);
    }
  }
}
