// Vectors of one element of LANES pixels each; float32 and bfloat16 in memory; transposition.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#define NEIGHBORHOOD_AVX512 1
#endif

using i64 = std::int64_t;

#if defined(NEIGHBORHOOD_AVX512)
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX2__)
constexpr int LANES = 8, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef std::int32_t ivec __attribute__((vector_size(4 * LANES)));

inline vec load(const float* p) {
  vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, vec v) { std::memcpy(p, &v, sizeof v); }
inline vec broadcast(float x) { return vec{} + x; }
inline vec maximum(vec a, vec b) { return a > b ? a : b; }
inline float sum_of_lanes(vec v) {
  float total = 0;
  for (int l = 0; l < LANES; ++l) total += v[l];
  return total;
}

// e^x for x <= 0, to 2.5e-7 of its value: 2^n e^r with |r| <= ln(2)/2. Below -87, -inf included: 0.
inline vec exponential(vec x) {
  const vec shifted = x * 1.44269504f + 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer
  const vec n = shifted - 12582912.f;
  vec r = x - n * 0.693359375f;  // ln 2 in two parts, the first exact in few bits
  r = r + n * 2.12194440e-4f;
  // Minimax polynomial of the relative error, fitted by iteratively reweighted least squares: 7.5e-8.
  vec e = broadcast(0.00829764083f);
  e = e * r + 0.0419154316f;
  e = e * r + 0.166675746f;
  e = e * r + 0.499988943f;
  e = e * r + 0.999999702f;
  e = e * r + 1.00000012f;
  ivec bits, exponent;
  std::memcpy(&bits, &e, sizeof bits);
  std::memcpy(&exponent, &shifted, sizeof exponent);
  bits += exponent << 23;  // the low bits of `shifted` are n
  std::memcpy(&e, &bits, sizeof e);
  return x < -87.f ? vec{} : e;
}

struct bf16 {
  std::uint16_t bits;
};

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) {
  const std::uint32_t bits = std::uint32_t(x.bits) << 16;
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}
inline void from_float(float x, float* out) { *out = x; }
inline void from_float(float x, bf16* out) {  // round to nearest even
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  out->bits = x != x ? 0x7fc0 : std::uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

#if defined(NEIGHBORHOOD_AVX512)

inline __m512 load_depth(const float* p, __mmask16 m) { return _mm512_maskz_loadu_ps(m, p); }
inline __m512 load_depth(const bf16* p, __mmask16 m) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
inline void store_depth(float* p, __mmask16 m, __m512 v) { _mm512_mask_storeu_ps(p, m, v); }
inline void store_depth(bf16* p, __mmask16 m, __m512 v) {  // round to nearest even
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  rounded = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000));
  _mm256_mask_storeu_epi16(p, m, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}

inline void transpose(__m512 a[16]) {
  __m512 b[16];
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_shuffle_ps(b[i], b[i + 2], 0x44);
    a[i + 1] = _mm512_shuffle_ps(b[i], b[i + 2], 0xee);
    a[i + 2] = _mm512_shuffle_ps(b[i + 1], b[i + 3], 0x44);
    a[i + 3] = _mm512_shuffle_ps(b[i + 1], b[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    b[i] = _mm512_shuffle_f32x4(a[i], a[i + 4], 0x88);
    b[i + 4] = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd);
    b[i + 8] = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0x88);
    b[i + 12] = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    a[i] = _mm512_shuffle_f32x4(b[i], b[i + 8], 0x88);
    a[i + 4] = _mm512_shuffle_f32x4(b[i + 4], b[i + 12], 0x88);
    a[i + 8] = _mm512_shuffle_f32x4(b[i], b[i + 8], 0xdd);
    a[i + 12] = _mm512_shuffle_f32x4(b[i + 4], b[i + 12], 0xdd);
  }
}

// The first n elements of head_dim, zeros behind them; n is LANES, or less at the end.
template <class T>
inline vec load_depths(const T* p, int n) {
  return vec(load_depth(p, __mmask16((1u << n) - 1)));
}
template <class T>
inline void store_depths(T* p, int n, vec v) {
  store_depth(p, __mmask16((1u << n) - 1), __m512(v));
}

#else

template <class T>
inline vec load_depths(const T* p, int n) {
  vec v{};
  if (n == LANES)
    for (int l = 0; l < LANES; ++l) v[l] = to_float(p[l]);
  else
    for (int l = 0; l < n; ++l) v[l] = to_float(p[l]);
  return v;
}
inline vec load_depths(const float* p, int n) {
  if (n == LANES) return load(p);
  vec v{};
  for (int l = 0; l < n; ++l) v[l] = p[l];
  return v;
}
template <class T>
inline void store_depths(T* p, int n, vec v) {
  for (int l = 0; l < n; ++l) from_float(v[l], p + l);
}

#endif

// packed[d * stride + lane] = factor * pixel[lane][d]; a null pixel gives zeros.
template <class T>
void pack(const T* const pixel[LANES], int D, float factor, float* packed, i64 stride) {
#if defined(NEIGHBORHOOD_AVX512)
  const __m512 scale = _mm512_set1_ps(factor);
  for (int d0 = 0; d0 < D; d0 += 16) {
    const int depth = D - d0 < 16 ? D - d0 : 16;
    const __mmask16 mask = __mmask16((1u << depth) - 1);
    __m512 a[16];
    for (int l = 0; l < 16; ++l)
      a[l] = pixel[l] ? load_depth(pixel[l] + d0, mask) : _mm512_setzero_ps();
    transpose(a);
    for (int d = 0; d < 16; ++d)
      if (d < depth) _mm512_storeu_ps(packed + (d0 + d) * stride, _mm512_mul_ps(a[d], scale));
  }
#else
  for (int l = 0; l < LANES; ++l)
    for (int d = 0; d < D; ++d)
      packed[d * stride + l] = pixel[l] ? factor * to_float(pixel[l][d]) : 0.f;
#endif
}

// The way back: pixel[lane][d] = (ADD: +=) factor[lane] * packed[d * stride + lane].
template <bool ADD, class T>
void unpack(const float* packed, i64 stride, int D, vec factor, T* const pixel[LANES]) {
#if defined(NEIGHBORHOOD_AVX512)
  for (int d0 = 0; d0 < D; d0 += 16) {
    const int depth = D - d0 < 16 ? D - d0 : 16;
    const __mmask16 mask = __mmask16((1u << depth) - 1);
    __m512 a[16];
    for (int d = 0; d < 16; ++d)
      a[d] = d < depth ? __m512(load(packed + (d0 + d) * stride) * factor) : _mm512_setzero_ps();
    transpose(a);
    for (int l = 0; l < 16; ++l) {
      if (!pixel[l]) continue;
      T* out = pixel[l] + d0;
      store_depth(out, mask, ADD ? _mm512_add_ps(load_depth(out, mask), a[l]) : a[l]);
    }
  }
#else
  for (int l = 0; l < LANES; ++l)
    for (int d = 0; pixel[l] && d < D; ++d) {
      T* out = pixel[l] + d;
      from_float(factor[l] * packed[d * stride + l] + (ADD ? to_float(*out) : 0.f), out);
    }
#endif
}
