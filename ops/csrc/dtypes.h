// float32 and bfloat16 in memory.

#pragma once

#include <cstdint>
#include <cstring>

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
