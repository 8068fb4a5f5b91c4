// Windows along one axis, and lists of what a pixel's sum is made of. See ops/neighborhood/window.py.
#pragma once

#include <algorithm>
#include <vector>

#include "simd.h"

// Pixels first, first + step, ..: `count` of them.
struct Span {
  int first, count;
};

// One axis of space. Keys of a query and queries of a key are `dilation` pixels apart.
struct Axis {
  int length, kernel, dilation;
  bool causal;
  std::vector<Span> keys;        // of each query; a causal window may have fewer than `kernel`
  std::vector<Span> queries;     // of each key
  std::vector<int> slots;        // [length][widest]: place of the key in the window of each of those
  std::vector<int> bias_first;   // of each query: index into rpb of its first key
  int widest = 0;                // the most queries of a key

  Axis(int length, int kernel, int dilation, bool causal)
      : length(length), kernel(kernel), dilation(dilation), causal(causal),
        keys(length), queries(length, Span{0, 0}), bias_first(length) {
    for (int p = 0; p < length; ++p) {
      const int start = start_of(p);
      keys[p] = {start * dilation + p % dilation, causal ? p / dilation - start + 1 : kernel};
      bias_first[p] = start - p / dilation + kernel - 1;
      for (int t = 0; t < keys[p].count; ++t) {
        Span& seen = queries[keys[p].first + t * dilation];
        if (seen.count++ == 0) seen.first = p;
        widest = std::max(widest, seen.count);
      }
    }
    slots.resize(size_t(length) * widest);
    for (int m = 0; m < length; ++m)
      for (int t = 0; t < queries[m].count; ++t)
        slots[size_t(m) * widest + t] =
            m / dilation - start_of(queries[m].first + t * dilation);
  }

  // Position, in its dilation group, of the first key of a query.
  int start_of(int p) const {
    const int position = p / dilation;
    if (causal) return std::max(position - kernel + 1, 0);
    const int group = (length - 1 - p % dilation) / dilation + 1;
    return std::min(std::max(position - kernel / 2, 0), group - kernel);
  }
  // Whether the window is centred on its query.
  bool is_centred(int p) const { return bias_first[p] == kernel / 2 && keys[p].count == kernel; }
};
