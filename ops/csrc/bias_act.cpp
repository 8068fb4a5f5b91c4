// out = gain * leaky_relu(x + bias[c]) for x [outer, C, inner], and its gradient: one pass over
// memory each. Sums for the bias's gradient go by blocks of fixed size, so that the number of
// threads changes no bit.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "dtypes.h"

namespace {

constexpr int64_t ROWS = 128;  // longer sums in float32 would lose digits
constexpr int64_t LANES = 16;

struct Shape {
  int64_t outer, channels, inner;
  int threads;
};

struct Slopes {
  float negative, gain;
  float of(float value) const { return value > 0 ? value : value * negative; }
};

// Calls run(first, last) for parts of `count` rows, `rows` at a time.
template <typename Run>
void in_parts(int64_t count, int64_t rows, int threads, Run run) {
  const int64_t parts = (count + rows - 1) / rows;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t part = 0; part < parts; ++part)
    run(part * rows, std::min(count, (part + 1) * rows));
}

template <typename In>
void forward(const In* __restrict x, const float* __restrict bias, float* __restrict out,
             Shape shape, Slopes slopes) {
  const int64_t channels = shape.channels, inner = shape.inner;
  if (inner == 1) {
    in_parts(shape.outer, ROWS, shape.threads, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row)
        for (int64_t c = 0; c < channels; ++c) {
          const int64_t at = row * channels + c;
          out[at] = slopes.of(load(x + at) + bias[c]) * slopes.gain;
        }
    });
    return;
  }
  in_parts(shape.outer * channels, 1, shape.threads, [&](int64_t row, int64_t) {
    const float b = bias[row % channels];
    for (int64_t at = row * inner; at < (row + 1) * inner; ++at)
      out[at] = slopes.of(load(x + at) + b) * slopes.gain;
  });
}

// dx = gain * dy, times the slope where out is not positive; dbias is its sum over all but c.
template <typename In>
void backward(const float* __restrict dy, const float* __restrict out, In* __restrict dx,
              float* dbias, Shape shape, Slopes slopes) {
  const int64_t channels = shape.channels, inner = shape.inner;
  const auto grad_at = [&](int64_t at) {
    const float grad = dy[at] * slopes.gain;
    return out[at] > 0 ? grad : grad * slopes.negative;
  };
  std::vector<float> sums;
  if (inner == 1) {
    sums.assign((shape.outer + ROWS - 1) / ROWS * channels, 0.0f);
    in_parts(shape.outer, ROWS, shape.threads, [&](int64_t first, int64_t last) {
      float* __restrict sum = sums.data() + first / ROWS * channels;
      for (int64_t row = first; row < last; ++row)
        for (int64_t c = 0; c < channels; ++c) {
          const float grad = grad_at(row * channels + c);
          sum[c] += grad;
          store(dx + row * channels + c, grad);
        }
    });
  } else {
    sums.resize(shape.outer * channels);
    in_parts(shape.outer * channels, 1, shape.threads, [&](int64_t row, int64_t) {
      double sum = 0;
      for (int64_t first = row * inner; first < (row + 1) * inner; first += ROWS * LANES) {
        const int64_t last = std::min((row + 1) * inner, first + ROWS * LANES);
        float lanes[LANES] = {};
        for (int64_t at = first; at < last; at += LANES)
          for (int64_t lane = 0; lane < std::min(LANES, last - at); ++lane) {
            const float grad = grad_at(at + lane);
            lanes[lane] += grad;
            store(dx + at + lane, grad);
          }
        for (const float lane : lanes) sum += lane;
      }
      sums[row] = static_cast<float>(sum);
    });
  }
  if (dbias == nullptr) return;
  std::vector<double> total(channels, 0.0);
  for (size_t at = 0; at < sums.size(); ++at) total[at % channels] += sums[at];
  for (int64_t c = 0; c < channels; ++c) dbias[c] = static_cast<float>(total[c]);
}

Shape shape_of(const int64_t* numbers) {
  return {numbers[0], numbers[1], numbers[2], static_cast<int>(numbers[3])};
}

}  // namespace

// shape: outer, C, inner, threads, whether x is bfloat16; slopes: that of negative values, and the
// gain. Writes out.
extern "C" void bias_act(const int64_t* shape, const float* slopes, const void* x,
                         const float* bias, float* out) {
  const auto run = [&](const auto* from) {
    forward(from, bias, out, shape_of(shape), Slopes{slopes[0], slopes[1]});
  };
  shape[4] ? run(static_cast<const BFloat16*>(x)) : run(static_cast<const float*>(x));
}

// The same shape, of dx. Writes dx and the gradient of the bias, unless that is null.
extern "C" void bias_act_backward(const int64_t* shape, const float* slopes, const float* dy,
                                  const float* out, void* dx, float* dbias) {
  const auto run = [&](auto* to) {
    backward(dy, out, to, dbias, shape_of(shape), Slopes{slopes[0], slopes[1]});
  };
  shape[4] ? run(static_cast<BFloat16*>(dx)) : run(static_cast<float*>(dx));
}
