// Instance normalisation with a scale and a shift of each image and channel, tokens last but one:
// out = (x - mean) / sqrt(var + eps) * gamma + beta for x [B, T, C], gamma and beta [B, C].
//
// Two passes over memory: one for the statistics, one for the result. Tokens go by chunks that stay
// in the cache, where the variance of a chunk is taken about the chunk's own mean; chunks are joined
// as in Chan, Golub and LeVeque (1979). So an outlier costs no digits.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int64_t CHUNK_BYTES = 32 * 1024;

struct BFloat16 {
  uint16_t bits;
};

inline float load(const float* x) { return *x; }

inline float load(const BFloat16* x) {
  const uint32_t bits = static_cast<uint32_t>(x->bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline void store(float* x, float value) { *x = value; }

inline void store(BFloat16* x, float value) {  // to the nearest, halves to even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  x->bits = static_cast<uint16_t>(value != value ? 0x7fc0 : rounded);
}

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
               int64_t batch, int64_t tokens, int64_t channels, int threads) {
  const int64_t row_bytes = channels * static_cast<int64_t>(sizeof(In));
  const int64_t chunk = std::max<int64_t>(1, std::min(tokens, CHUNK_BYTES / row_bytes));
  const int64_t chunks = (tokens + chunk - 1) / chunk;
  std::vector<float> means(batch * chunks * channels), squares(means.size());
  std::vector<float> center(batch * channels), scale(center.size());

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
      scale[image * channels + c] =
          gamma[image * channels + c] * static_cast<float>(1.0 / std::sqrt(variance + eps));
    }
  }

#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t part = 0; part < batch * chunks; ++part) {
    const int64_t image = part / chunks, first = (part % chunks) * chunk;
    const int64_t last = std::min(tokens, first + chunk);
    const float* m = center.data() + image * channels;
    const float* s = scale.data() + image * channels;
    const float* b = beta + image * channels;
    for (int64_t t = first; t < last; ++t) {
      const In* row = x + (image * tokens + t) * channels;
      Out* result = out + (image * tokens + t) * channels;
      for (int64_t c = 0; c < channels; ++c) store(result + c, (load(row + c) - m[c]) * s[c] + b[c]);
    }
  }
}

}  // namespace

// shape: B, T, C, threads, whether x and whether out is bfloat16.
extern "C" void instance_norm(const int64_t* shape, float eps, const void* x, const float* gamma,
                              const float* beta, void* out) {
  const int threads = static_cast<int>(shape[3]);
  const auto run = [&](const auto* from, auto* to) {
    normalise(from, to, gamma, beta, eps, shape[0], shape[1], shape[2], threads);
  };
  const auto* wide = static_cast<const float*>(x);
  const auto* narrow = static_cast<const BFloat16*>(x);
  if (shape[4] && shape[5])
    run(narrow, static_cast<BFloat16*>(out));
  else if (shape[4])
    run(narrow, static_cast<float*>(out));
  else if (shape[5])
    run(wide, static_cast<BFloat16*>(out));
  else
    run(wide, static_cast<float*>(out));
}
