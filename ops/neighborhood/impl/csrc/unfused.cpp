// The maps of unfused neighborhood attention on the CPU, for one to three axes of space.
//
// A map yields each pixel of its output from a list of pixels: a query's keys, or the queries that see
// a key. Lanes are elements of head_dim, so that maps are read where they lie, whatever their strides.
// A sum over keys needs nothing else; dot products are summed across lanes, LANES of them at a time.
// No two pixels share a sum, so that the result is the same whatever the number of threads; sums for
// the bias are in float64, cut into segments of rows that depend on the problem alone.
//
// Names: B batch; N heads; Z, Y, X axes of space (1 long where there is none); D head_dim;
// K keys of a window; `a` weights [B, N, Z, Y, X, K]; `x` features of queries, `y` of keys.

#include "sums.h"
#include "window.h"

namespace {

constexpr int SEGMENT = 64;  // pixels of a row that a thread takes together
constexpr int CHUNK = 16;    // segments whose bias gradients are summed together

template <class T>
struct Map {  // a [B, N, Z, Y, X, C] tensor; C contiguous, strides in elements
  T* data;
  i64 b, n, z, y, x;
  T* at(i64 ib, i64 in, i64 iz, i64 iy, i64 ix) const {
    return data + ib * b + in * n + iz * z + iy * y + ix * x;
  }
};

struct Problem {
  int B, N, D, threads;
  Axis z, y, x;
  int keys() const { return z.kernel * y.kernel * x.kernel; }
  int segments_of_row() const { return (x.length + SEGMENT - 1) / SEGMENT; }
};

// Pixels [x0, x1) of one row.
struct Segment {
  int b, n, z, y, x0, x1;
};

Segment segment_of(const Problem& problem, i64 index) {
  Segment s;
  const int pieces = problem.segments_of_row(), piece = int(index % pieces);
  index /= pieces;
  s.x0 = int(i64(problem.x.length) * piece / pieces);
  s.x1 = int(i64(problem.x.length) * (piece + 1) / pieces);
  s.y = int(index % problem.y.length), index /= problem.y.length;
  s.z = int(index % problem.z.length), index /= problem.z.length;
  s.b = int(index % problem.B), s.n = int(index / problem.B);
  return s;
}

i64 count_segments(const Problem& problem) {
  return i64(problem.B) * problem.N * problem.z.length * problem.y.length *
         problem.segments_of_row();
}

// Calls f(segment, scratch of the thread) for all segments.
template <class Scratch, class F>
void each_segment(const Problem& problem, F f) {
  const i64 count = count_segments(problem);
#pragma omp parallel num_threads(problem.threads)
  {
    Scratch scratch(problem);
#pragma omp for schedule(static)
    for (i64 i = 0; i < count; ++i) f(segment_of(problem, i), scratch);
  }
}

// The maps

template <class T>
struct Lists {  // what one pixel's sum is made of
  explicit Lists(const Problem& problem)
      : pixels(rounded(most(problem))), weights(rounded(most(problem))) {}
  static size_t most(const Problem& p) {
    const size_t queries = size_t(p.z.widest) * p.y.widest * p.x.widest;
    return std::max(queries, size_t(p.keys()));
  }
  static size_t rounded(size_t count) { return (count + LANES - 1) / LANES * LANES; }
  std::vector<const T*> pixels;
  std::vector<float> weights;
};

// Calls f(slot of the first key in the row, rows of pixels z and y) for each row of a query's keys.
template <class F>
inline void each_key_row(const Problem& problem, const Segment& s, F f) {
  const Span zs = problem.z.keys[s.z], ys = problem.y.keys[s.y];
  for (int tz = 0; tz < zs.count; ++tz)
    for (int ty = 0; ty < ys.count; ++ty)
      f(tz, ty, zs.first + tz * problem.z.dilation, ys.first + ty * problem.y.dilation);
}

template <class T>
void query_key(const Problem& problem, const Map<T> x, const Map<T> y, const Map<T> a,
               const float* rpb, float fill) {
  const Axis& row = problem.x;
  const i64 side_x = 2 * row.kernel - 1, side_y = 2 * problem.y.kernel - 1;
  const i64 table = (2 * problem.z.kernel - 1) * side_y * side_x;
  each_segment<Lists<T>>(problem, [&](const Segment& s, Lists<T>& lists) {
    for (int ix = s.x0; ix < s.x1; ++ix) {
      const Span xs = row.keys[ix];
      int count = 0;
      each_key_row(problem, s, [&](int tz, int ty, int kz, int ky) {
        const T* key = y.at(s.b, s.n, kz, ky, xs.first);
        for (int t = 0; t < xs.count; ++t) lists.pixels[count + t] = key + t * row.dilation * y.x;
        float* dots = &lists.weights[count];
        if (rpb) {
          const i64 above = (problem.z.bias_first[s.z] + tz) * side_y + problem.y.bias_first[s.y] + ty;
          const float* bias = rpb + s.n * table + above * side_x + row.bias_first[ix];
          for (int t = 0; t < xs.count; ++t) dots[t] = bias[t];
        } else {
          for (int t = 0; t < xs.count; ++t) dots[t] = 0;
        }
        count += xs.count;
      });
      const T* query = x.at(s.b, s.n, s.z, s.y, ix);
      for (int i = count; i < int(lists.pixels.size()) && i % LANES; ++i) lists.pixels[i] = query;
      for (int i = 0; i < count; i += LANES)
        add_dots(query, &lists.pixels[i], problem.D, &lists.weights[i]);
      T* out = a.at(s.b, s.n, s.z, s.y, ix);
      if (count == problem.keys()) {
        for (int i = 0; i < count; ++i) from_float(lists.weights[i], out + i);
        continue;
      }
      for (int i = 0; i < problem.keys(); ++i) from_float(fill, out + i);
      count = 0;
      each_key_row(problem, s, [&](int tz, int ty, int, int) {
        T* of_row = out + (i64(tz) * problem.y.kernel + ty) * row.kernel;
        for (int t = 0; t < xs.count; ++t) from_float(lists.weights[count++], of_row + t);
      });
    }
  });
}

template <class T>
void gather(const Problem& problem, const Map<T> a, const Map<T> y, const Map<T> out) {
  const Axis& row = problem.x;
  each_segment<Lists<T>>(problem, [&](const Segment& s, Lists<T>& lists) {
    for (int ix = s.x0; ix < s.x1; ++ix) {
      const Span xs = row.keys[ix];
      const T* weights = a.at(s.b, s.n, s.z, s.y, ix);
      int count = 0;
      each_key_row(problem, s, [&](int tz, int ty, int kz, int ky) {
        const T* key = y.at(s.b, s.n, kz, ky, xs.first);
        const T* of_row = weights + (i64(tz) * problem.y.kernel + ty) * row.kernel;
        for (int t = 0; t < xs.count; ++t, ++count) {
          lists.pixels[count] = key + t * row.dilation * y.x;
          lists.weights[count] = to_float(of_row[t]);
        }
      });
      weighted_sum(lists.weights.data(), lists.pixels.data(), count, problem.D,
                   out.at(s.b, s.n, s.z, s.y, ix));
    }
  });
}

// out[m] = sum of a[i][j] x[i] over the queries i that see the key m, at place j of their window
template <class T>
void scatter(const Problem& problem, const Map<T> a, const Map<T> x, const Map<T> out) {
  const Axis &plane = problem.z, &column = problem.y, &row = problem.x;
  each_segment<Lists<T>>(problem, [&](const Segment& s, Lists<T>& lists) {
    const Span zs = plane.queries[s.z], ys = column.queries[s.y];
    for (int ix = s.x0; ix < s.x1; ++ix) {
      const Span xs = row.queries[ix];
      const int* slots = &row.slots[size_t(ix) * row.widest];
      int count = 0;
      for (int tz = 0; tz < zs.count; ++tz)
        for (int ty = 0; ty < ys.count; ++ty) {
          const int qz = zs.first + tz * plane.dilation, qy = ys.first + ty * column.dilation;
          const T* query = x.at(s.b, s.n, qz, qy, xs.first);
          const T* weight = a.at(s.b, s.n, qz, qy, xs.first);
          weight += (i64(plane.slots[size_t(s.z) * plane.widest + tz]) * column.kernel +
                     column.slots[size_t(s.y) * column.widest + ty]) * row.kernel;
          for (int t = 0; t < xs.count; ++t, ++count) {
            lists.pixels[count] = query + t * row.dilation * x.x;
            lists.weights[count] = to_float(weight[t * row.dilation * a.x + slots[t]]);
          }
        }
      weighted_sum(lists.weights.data(), lists.pixels.data(), count, problem.D,
                   out.at(s.b, s.n, s.z, s.y, ix));
    }
  });
}

inline double to_double(double x) { return x; }
template <class T>
inline double to_double(T x) { return to_float(x); }

// The gradient of the bias of one segment, added to a table [2kz-1][2ky-1][2kx-1].
template <class T>
void add_bias_gradient(const Problem& problem, const Segment& s, const Map<T>& da, double* table,
                       std::vector<double>& centred) {
  const Axis &plane = problem.z, &column = problem.y, &row = problem.x;
  const i64 side_x = 2 * row.kernel - 1, side_y = 2 * column.kernel - 1;
  const int keys = problem.keys();
  const auto add = [&](const auto* from, int bias_x) {
    for (int tz = 0; tz < plane.kernel; ++tz)
      for (int ty = 0; ty < column.kernel; ++ty) {
        const i64 above = (plane.bias_first[s.z] + tz) * side_y + column.bias_first[s.y] + ty;
        double* to = table + above * side_x + bias_x;
        for (int t = 0; t < row.kernel; ++t) to[t] += to_double(*from++);
      }
  };
  std::fill(centred.begin(), centred.end(), 0.0);
  for (int ix = s.x0; ix < s.x1; ++ix) {
    const T* from = da.at(s.b, s.n, s.z, s.y, ix);
    if (!row.is_centred(ix)) add(from, row.bias_first[ix]);
    else for (int i = 0; i < keys; ++i) centred[i] += to_double(from[i]);
  }
  add(centred.data(), row.kernel / 2);
}

template <class T>
void bias_gradient(const Problem& problem, const Map<T> da, float* drpb) {
  const i64 table = i64(2 * problem.z.kernel - 1) * (2 * problem.y.kernel - 1) *
                    (2 * problem.x.kernel - 1);
  const i64 segments = problem.N ? count_segments(problem) / problem.N : 0;  // of a head
  const i64 chunks = (segments + CHUNK - 1) / CHUNK;
  std::vector<double> partial(problem.N * chunks * table);
#pragma omp parallel num_threads(problem.threads)
  {
    std::vector<double> centred(problem.keys());
#pragma omp for schedule(static)
    for (i64 i = 0; i < problem.N * chunks; ++i) {
      const i64 first = i / chunks * segments, begin = i % chunks * CHUNK;
      for (i64 j = begin; j < std::min(begin + CHUNK, segments); ++j)
        add_bias_gradient(problem, segment_of(problem, first + j), da, &partial[i * table], centred);
    }
  }
  for (i64 n = 0; n < problem.N; ++n)
    for (i64 e = 0; e < table; ++e) {
      double total = 0;
      for (i64 i = n * chunks; i < (n + 1) * chunks; ++i) total += partial[i * table + e];
      drpb[n * table + e] = float(total);
    }
}

// shape: B, N, D, threads; then length, kernel_size, dilation, is_causal of Z, Y and X.
Problem read_problem(const i64* shape) {
  const auto axis = [&](int i) {
    const i64* of = shape + 4 + 4 * i;
    return Axis(int(of[0]), int(of[1]), int(of[2]), of[3] != 0);
  };
  return {int(shape[0]), int(shape[1]), int(shape[2]), int(shape[3]), axis(0), axis(1), axis(2)};
}

template <class T>
Map<T> read_map(void* const* data, const i64* strides, int i) {
  const i64* s = strides + 5 * i;
  return {static_cast<T*>(data[i]), s[0], s[1], s[2], s[3], s[4]};
}

// Calls f with a value of the type that the maps hold.
template <class F>
void with_type(i64 is_bfloat16, F f) {
  is_bfloat16 ? f(bf16()) : f(float());
}

}  // namespace

// data: the maps in the order of the names; strides: of B, N, Z, Y and X, five a map, in elements.

extern "C" void unfused_query_key(const i64* shape, i64 is_bfloat16, void* const* data,
                                  const i64* strides, const float* rpb, float fill) {
  const Problem problem = read_problem(shape);
  with_type(is_bfloat16, [&](auto type) {  // x, y, a
    using T = decltype(type);
    query_key<T>(problem, read_map<T>(data, strides, 0), read_map<T>(data, strides, 1),
                 read_map<T>(data, strides, 2), rpb, fill);
  });
}

extern "C" void unfused_gather(const i64* shape, i64 is_bfloat16, void* const* data,
                               const i64* strides) {
  const Problem problem = read_problem(shape);
  with_type(is_bfloat16, [&](auto type) {  // a, y, x
    using T = decltype(type);
    gather<T>(problem, read_map<T>(data, strides, 0), read_map<T>(data, strides, 1),
              read_map<T>(data, strides, 2));
  });
}

extern "C" void unfused_scatter(const i64* shape, i64 is_bfloat16, void* const* data,
                                const i64* strides) {
  const Problem problem = read_problem(shape);
  with_type(is_bfloat16, [&](auto type) {  // a, x, y
    using T = decltype(type);
    scatter<T>(problem, read_map<T>(data, strides, 0), read_map<T>(data, strides, 1),
               read_map<T>(data, strides, 2));
  });
}

extern "C" void unfused_bias_gradient(const i64* shape, i64 is_bfloat16, void* const* data,
                                      const i64* strides, float* drpb) {
  const Problem problem = read_problem(shape);
  with_type(is_bfloat16, [&](auto type) {  // da
    using T = decltype(type);
    bias_gradient<T>(problem, read_map<T>(data, strides, 0), drpb);
  });
}
