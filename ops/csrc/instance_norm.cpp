// Instance normalisation with a scale and a shift of each image and channel, tokens last but one:
// out = (x - mean) / sqrt(var + eps) * gamma + beta for x [B, T, C], gamma and beta [B, C].
//
// Two passes over memory: one for the statistics, one for the result; and two for the gradient.
// Tokens go by chunks that stay in the cache, where the variance of a chunk is taken about the
// chunk's own mean; chunks are joined as in Chan, Golub and LeVeque (1979). So an outlier costs no
// digits.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "dtypes.h"

namespace {

constexpr int64_t CHUNK_BYTES = 32 * 1024;
constexpr int64_t MOST_ROWS = 128;  // longer sums in float32 would lose digits

// Mean and sum of squares about it of each channel of rows [count, C].
template <typename In>
void describe(const In* x, int64_t count, int64_t channels, float* mean, float* square) {
  for (int64_t c = 0; c < channels; ++c) mean[c] = square[c] = 0;
  for (int64_t t = 0; t < count; ++t)
    for (int64_t c = 0; c < channels; ++c) mean[c] += load(x + t * channels + c);
  const float share = 1.0f / static_cast<float>(count);
  for (int64_t c = 0; c < channels; ++c) mean[c] *= share;
  for (int64_t t = 0; t < count; ++t)
    for (int64_t c = 0; c < channels; ++c) {
      const float centered = load(x + t * channels + c) - mean[c];
      square[c] += centered * centered;
    }
}

template <typename In, typename Out>
void normalise(const In* x, Out* out, const float* gamma, const float* beta, float eps,
               float* center, float* inverse, int64_t batch, int64_t tokens, int64_t channels,
               int threads) {
  const int64_t row_bytes = channels * static_cast<int64_t>(sizeof(In));
  const int64_t chunk = std::max<int64_t>(1, std::min({tokens, MOST_ROWS, CHUNK_BYTES / row_bytes}));
  const int64_t chunks = (tokens + chunk - 1) / chunk;
  std::vector<float> means(batch * chunks * channels), squares(means.size());

#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t part = 0; part < batch * chunks; ++part) {
    const int64_t image = part / chunks, first = (part % chunks) * chunk;
    const int64_t count = std::min(chunk, tokens - first);
    describe(x + (image * tokens + first) * channels, count, channels,
             means.data() + part * channels, squares.data() + part * channels);
  }

#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t image = 0; image < batch; ++image) {
    std::vector<double> mean(channels, 0.0), square(channels, 0.0);
    int64_t seen = 0;
    for (int64_t index = 0; index < chunks; ++index) {
      const float* chunk_mean = means.data() + (image * chunks + index) * channels;
      const float* chunk_square = squares.data() + (image * chunks + index) * channels;
      const int64_t count = std::min(chunk, tokens - index * chunk);
      const double share = static_cast<double>(count) / static_cast<double>(seen + count);
      const double weight = share * static_cast<double>(seen);
      for (int64_t c = 0; c < channels; ++c) {
        const double delta = chunk_mean[c] - mean[c];
        mean[c] += delta * share;
        square[c] += chunk_square[c] + delta * delta * weight;
      }
      seen += count;
    }
    for (int64_t c = 0; c < channels; ++c) {
      const double variance = square[c] / static_cast<double>(tokens);
      center[image * channels + c] = static_cast<float>(mean[c]);
      inverse[image * channels + c] = static_cast<float>(1.0 / std::sqrt(variance + eps));
    }
  }

#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t part = 0; part < batch * chunks; ++part) {
    const int64_t image = part / chunks, first = (part % chunks) * chunk;
    const int64_t last = std::min(tokens, first + chunk);
    const float* m = center + image * channels;
    const float* b = beta + image * channels;
    std::vector<float> scale(channels);
    const float* s = scale.data();
    for (int64_t c = 0; c < channels; ++c)
      scale[c] = gamma[image * channels + c] * inverse[image * channels + c];
    for (int64_t t = first; t < last; ++t) {
      const In* row = x + (image * tokens + t) * channels;
      Out* result = out + (image * tokens + t) * channels;
      for (int64_t c = 0; c < channels; ++c) store(result + c, (load(row + c) - m[c]) * s[c] + b[c]);
    }
  }
}

// dx = gamma / std * (dy - mean(dy) - x^ mean(dy x^)), x^ = (x - mean) / std; the sums over tokens of
// dy and dy x^ are the gradients of beta and gamma.
template <typename In, typename Out>
void differentiate(const In* x, const Out* dy, const float* gamma, const float* center,
                   const float* inverse, In* dx, float* dgamma, float* dbeta, int64_t batch,
                   int64_t tokens, int64_t channels, int threads) {
  const int64_t row_bytes = channels * static_cast<int64_t>(sizeof(In));
  const int64_t chunk = std::max<int64_t>(1, std::min({tokens, MOST_ROWS, CHUNK_BYTES / row_bytes}));
  const int64_t chunks = (tokens + chunk - 1) / chunk;
  std::vector<float> sums(batch * chunks * channels, 0.0f), products(sums.size(), 0.0f);

#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t part = 0; part < batch * chunks; ++part) {
    const int64_t image = part / chunks, first = (part % chunks) * chunk;
    const int64_t last = std::min(tokens, first + chunk);
    const float* m = center + image * channels;
    float* sum = sums.data() + part * channels;
    float* product = products.data() + part * channels;
    for (int64_t t = first; t < last; ++t) {
      const int64_t row = (image * tokens + t) * channels;
      for (int64_t c = 0; c < channels; ++c) {
        const float g = load(dy + row + c);
        sum[c] += g;
        product[c] += g * (load(x + row + c) - m[c]);
      }
    }
  }

#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t image = 0; image < batch; ++image) {
    std::vector<double> sum(channels, 0.0), product(channels, 0.0);
    for (int64_t index = 0; index < chunks; ++index)
      for (int64_t c = 0; c < channels; ++c) {
        sum[c] += sums[(image * chunks + index) * channels + c];
        product[c] += products[(image * chunks + index) * channels + c];
      }
    for (int64_t c = 0; c < channels; ++c) {
      dbeta[image * channels + c] = static_cast<float>(sum[c]);
      dgamma[image * channels + c] = static_cast<float>(product[c] * inverse[image * channels + c]);
    }
  }

#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t part = 0; part < batch * chunks; ++part) {
    const int64_t image = part / chunks, first = (part % chunks) * chunk;
    const int64_t last = std::min(tokens, first + chunk);
    const float* m = center + image * channels;
    std::vector<float> scale(channels), shift(channels), slope(channels);
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t at = image * channels + c;
      scale[c] = gamma[at] * inverse[at];
      shift[c] = dbeta[at] / static_cast<float>(tokens);
      slope[c] = dgamma[at] * inverse[at] / static_cast<float>(tokens);
    }
    for (int64_t t = first; t < last; ++t) {
      const int64_t row = (image * tokens + t) * channels;
      for (int64_t c = 0; c < channels; ++c)
        store(dx + row + c, scale[c] * (load(dy + row + c) - shift[c] -
                                        slope[c] * (load(x + row + c) - m[c])));
    }
  }
}

template <typename Run>
void by_type(bool is_x_narrow, bool is_y_narrow, Run run) {
  const float* wide = nullptr;
  const BFloat16* narrow = nullptr;
  if (is_x_narrow && is_y_narrow)
    run(narrow, narrow);
  else if (is_x_narrow)
    run(narrow, wide);
  else if (is_y_narrow)
    run(wide, narrow);
  else
    run(wide, wide);
}

}  // namespace

// shape: B, T, C, threads, whether x and whether out is bfloat16. Writes out, and the mean and the
// inverse of the standard deviation of each image and channel, [B, C].
extern "C" void instance_norm(const int64_t* shape, float eps, const void* x, const float* gamma,
                              const float* beta, void* out, float* center, float* inverse) {
  by_type(shape[4], shape[5], [&](const auto* from, const auto* to) {
    using In = std::remove_const_t<std::remove_pointer_t<decltype(from)>>;
    using Out = std::remove_const_t<std::remove_pointer_t<decltype(to)>>;
    normalise(static_cast<const In*>(x), static_cast<Out*>(out), gamma, beta, eps, center, inverse,
              shape[0], shape[1], shape[2], static_cast<int>(shape[3]));
  });
}

// The same shape, of x and dy. Writes dx, of x's type, and the gradients of gamma and beta.
extern "C" void instance_norm_backward(const int64_t* shape, const void* x, const void* dy,
                                       const float* gamma, const float* center,
                                       const float* inverse, void* dx, float* dgamma,
                                       float* dbeta) {
  by_type(shape[4], shape[5], [&](const auto* from, const auto* to) {
    using In = std::remove_const_t<std::remove_pointer_t<decltype(from)>>;
    using Out = std::remove_const_t<std::remove_pointer_t<decltype(to)>>;
    differentiate(static_cast<const In*>(x), static_cast<const Out*>(dy), gamma, center, inverse,
                  static_cast<In*>(dx), dgamma, dbeta, shape[0], shape[1], shape[2],
                  static_cast<int>(shape[3]));
  });
}
