// Vector of eight floats in plain C++, which compilers map to what the base instruction set has.
#pragma once

#include "core/dtype.h"

namespace vsr::cpu::portable {

template <class T>
struct Pick;

struct Vec {
  static constexpr int kWidth = 8;
  static constexpr int kPanel =
      2;  // vectors of a panel, and the sums that 16 registers of half the width have room for
  static constexpr int kAccumulators = 6;
  float lane[kWidth];

  static Vec set(float value) {
    Vec v;
    for (float& x : v.lane) x = value;
    return v;
  }
  template <class T>
  static Vec load(const T* p) {
    Vec v;
    for (int i = 0; i < kWidth; ++i) v.lane[i] = to_float(p[i]);
    return v;
  }
  template <class T>
  static Vec load(const T* p, int count) {
    Vec v = set(0.0f);
    for (int i = 0; i < count; ++i) v.lane[i] = to_float(p[i]);
    return v;
  }
  template <class T>
  void store(T* p) const {
    for (int i = 0; i < kWidth; ++i) p[i] = from_float<T>(lane[i]);
  }
  template <class T>
  void store(T* p, int count) const {
    for (int i = 0; i < count; ++i) p[i] = from_float<T>(lane[i]);
  }
  template <class T>
  static Vec load(const Pick<T>& pick, const T* row);  // lanes of a row
  float sum() const {
    float s[4];
    for (int i = 0; i < 4; ++i) s[i] = lane[i] + lane[i + 4];
    return (s[0] + s[2]) + (s[1] + s[3]);
  }
};

inline Vec add(Vec a, Vec b) {
  for (int i = 0; i < Vec::kWidth; ++i) a.lane[i] += b.lane[i];
  return a;
}
inline Vec sub(Vec a, Vec b) {
  for (int i = 0; i < Vec::kWidth; ++i) a.lane[i] -= b.lane[i];
  return a;
}
inline Vec mul(Vec a, Vec b) {
  for (int i = 0; i < Vec::kWidth; ++i) a.lane[i] *= b.lane[i];
  return a;
}
inline Vec fma(Vec a, Vec b, Vec c) {  // a * b + c
  for (int i = 0; i < Vec::kWidth; ++i) c.lane[i] += a.lane[i] * b.lane[i];
  return c;
}
// NaN passes, as in torch.
inline Vec relu(Vec x) {
  for (float& v : x.lane) v = v < 0.0f ? 0.0f : v;
  return x;
}
// Where x > 0: a, elsewhere (NaN too): b.
inline Vec where_positive(Vec x, Vec a, Vec b) {
  for (int i = 0; i < Vec::kWidth; ++i) b.lane[i] = x.lane[i] > 0.0f ? a.lane[i] : b.lane[i];
  return b;
}

// Adds to kWidth float64 values.
inline void add_to(double* p, const Vec& a) {
  for (int i = 0; i < Vec::kWidth; ++i) p[i] += static_cast<double>(a.lane[i]);
}

// Twice kWidth neighbouring values.
struct Wide {
  Vec a, b;
};

template <class T>
inline Wide load_wide(const T* p) {
  return {Vec::load(p), Vec::load(p + Vec::kWidth)};
}
template <class T>
inline void store_wide(const Wide& v, T* p) {
  v.a.store(p);
  v.b.store(p + Vec::kWidth);
}

// 16 bytes of elements that only move. T: an unsigned integer of their size.
struct Bits {
  static constexpr int kBytes = 16;
  unsigned char byte[kBytes];

  static Bits load(const void* p) {
    Bits v;
    __builtin_memcpy(v.byte, p, kBytes);
    return v;
  }
  void store(void* p) const { __builtin_memcpy(p, byte, kBytes); }
};

// The even and the odd elements of a and b, one after the other; and back.
template <class T>
inline void split(Bits a, Bits b, Bits& even, Bits& odd) {
  constexpr int kCount = Bits::kBytes / sizeof(T);
  T from[2 * kCount], to[2][kCount];
  a.store(from);
  b.store(from + kCount);
  for (int i = 0; i < kCount; ++i) to[0][i] = from[2 * i], to[1][i] = from[2 * i + 1];
  even = Bits::load(to[0]);
  odd = Bits::load(to[1]);
}
template <class T>
inline void zip(Bits even, Bits odd, Bits& a, Bits& b) {
  constexpr int kCount = Bits::kBytes / sizeof(T);
  T from[2][kCount], to[2 * kCount];
  even.store(from[0]);
  odd.store(from[1]);
  for (int i = 0; i < kCount; ++i) to[2 * i] = from[0][i], to[2 * i + 1] = from[1][i];
  a = Bits::load(to);
  b = Bits::load(to + kCount);
}

using HalfVec = Vec;  // there are no half vectors
inline HalfVec half_of(Vec a) { return a; }

// Elements picked out of a row: lane l is row[at[l]], or zero where at[l] is negative.
template <class T>
struct Pick {
  int64_t at[Vec::kWidth];

  // Lanes from `count` on are zero. The row has `size` elements.
  void set(const int64_t* from, int count, int64_t size) {
    for (int lane = 0; lane < Vec::kWidth; ++lane) at[lane] = lane < count ? from[lane] : -1;
  }
  Vec load(const T* row) const {
    Vec v;
    for (int lane = 0; lane < Vec::kWidth; ++lane) v.lane[lane] = at[lane] < 0 ? 0.0f : to_float(row[at[lane]]);
    return v;
  }
  // Lanes that are picked: `picked`; elsewhere `rest` as it is. The first `count` of them to `to`.
  template <class U>
  void store(Vec picked, const U* rest, U* to, int count) const {
    for (int lane = 0; lane < count; ++lane) to[lane] = at[lane] < 0 ? rest[lane] : from_float<U>(picked.lane[lane]);
  }
};

template <class T>
inline Vec Vec::load(const Pick<T>& pick, const T* row) {
  return pick.load(row);
}

}  // namespace vsr::cpu::portable
