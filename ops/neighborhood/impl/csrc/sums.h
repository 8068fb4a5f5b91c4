// Sums over lists of pixels, whose elements of head_dim lie side by side.
#pragma once

#include <algorithm>
#include <utility>

#include "simd.h"

// Dot products, summed across lanes

// Of each block of 2 * W lanes the lower (PART 0) or upper (1) half of a, then that of b.
template <int W, int PART, std::size_t... L>
inline vec halves(vec a, vec b, std::index_sequence<L...>) {
  return __builtin_shufflevector(
      a, b, int(L % (2 * W) < W ? L + PART * W : LANES + L - W + PART * W)...);
}

// Lane l of the result is the sum of the lanes of sums[l].
template <int W = LANES / 2>
inline vec across_lanes(vec* sums) {
  if constexpr (W == 0) {
    return sums[0];
  } else {
    constexpr auto lanes = std::make_index_sequence<LANES>();
    for (int i = 0; i < W; ++i)
      sums[i] = halves<W, 0>(sums[i], sums[i + W], lanes) + halves<W, 1>(sums[i], sums[i + W], lanes);
    return across_lanes<W / 2>(sums);
  }
}

// dots[l] += x . key[l]
template <class T>
inline void add_dots(const T* x, const T* const* key, int D, float* dots) {
  vec sums[LANES] = {};
  int d = 0;
  for (; d + LANES <= D; d += LANES) {
    const vec part = load_depths(x + d, LANES);
    for (int l = 0; l < LANES; ++l) sums[l] += part * load_depths(key[l] + d, LANES);
  }
  if (d < D) {
    const vec part = load_depths(x + d, D - d);
    for (int l = 0; l < LANES; ++l) sums[l] += part * load_depths(key[l] + d, D - d);
  }
  store(dots, load(dots) + across_lanes(sums));
}

// Weighted sums: lanes stay apart

constexpr int MOST_VECTORS = 4;

// out[0 .. D) = sum of weight[i] * pixel[i], for up to VECTORS vectors; several sums run side by side.
template <int VECTORS, class T>
inline void weighted_part(const float* weight, const T* const* pixel, int count, int d, int last,
                          T* out) {
  constexpr int SIDES = VECTORS >= 4 ? 2 : 4;
  vec sums[SIDES][VECTORS] = {};
  const auto add = [&](int side, int i) {
    const vec w = broadcast(weight[i]);
    for (int v = 0; v < VECTORS; ++v)
      sums[side][v] += w * load_depths(pixel[i] + d + v * LANES, v + 1 < VECTORS ? LANES : last);
  };
  int i = 0;
  for (; i + SIDES <= count; i += SIDES)
    for (int side = 0; side < SIDES; ++side) add(side, i + side);
  for (; i < count; ++i) add(0, i);
  for (int v = 0; v < VECTORS; ++v) {
    vec total = sums[0][v] + sums[1][v];
    if constexpr (SIDES == 4) total += sums[2][v] + sums[3][v];
    store_depths(out + d + v * LANES, v + 1 < VECTORS ? LANES : last, total);
  }
}

template <class T>
inline void weighted_sum(const float* weight, const T* const* pixel, int count, int D, T* out) {
  for (int d = 0; d < D; d += MOST_VECTORS * LANES) {
    const int depth = std::min(D - d, MOST_VECTORS * LANES);
    const int vectors = (depth + LANES - 1) / LANES, last = depth - (vectors - 1) * LANES;
    switch (vectors) {
      case 1: last == LANES ? weighted_part<1>(weight, pixel, count, d, LANES, out)
                            : weighted_part<1>(weight, pixel, count, d, last, out); break;
      case 2: last == LANES ? weighted_part<2>(weight, pixel, count, d, LANES, out)
                            : weighted_part<2>(weight, pixel, count, d, last, out); break;
      case 3: weighted_part<3>(weight, pixel, count, d, last, out); break;
      default: last == LANES ? weighted_part<4>(weight, pixel, count, d, LANES, out)
                             : weighted_part<4>(weight, pixel, count, d, last, out);
    }
  }
}
