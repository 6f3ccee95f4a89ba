// Vector of eight floats on AVX2, FMA and F16C. Included under the target pragma of kernels_avx2.cpp only.
#pragma once

#include <immintrin.h>

#include "core/dtype.h"

namespace vsr::cpu::avx2 {

inline __m256 widen(__m128i halves, bfloat16) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
inline __m256 widen(__m128i halves, float16) { return _mm256_cvtph_ps(halves); }

inline __m128i narrow(__m256 v, float16) { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
// In the upper half of every lane, with anything in the lower one.
inline __m256i rounded(__m256 v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(up, quiet, nan);
}
inline __m128i narrow(__m256 v, bfloat16) {
  const __m256i high = _mm256_srli_epi32(rounded(v), 16);
  const __m256i packed = _mm256_packus_epi32(high, high);  // each 128-bit half twice
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
}

template <class T>
struct Pick;

struct Vec {
  static constexpr int kWidth = 8;
  static constexpr int kPanel = 2;  // vectors of a panel, and the sums that the 16 registers have room for
  static constexpr int kAccumulators = 12;
  __m256 v;

  static Vec set(float value) { return {_mm256_set1_ps(value)}; }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec load(const float* p, int count) { return {_mm256_maskload_ps(p, mask(count))}; }
  template <class T>
  static Vec load(const T* p) {
    return {widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), T{})};
  }
  template <class T>
  static Vec load(const T* p, int count) {
    alignas(32) T part[kWidth] = {};
    for (int i = 0; i < count; ++i) part[i] = p[i];
    return load(part);
  }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void store(float* p, int count) const { _mm256_maskstore_ps(p, mask(count), v); }
  template <class T>
  void store(T* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(v, T{}));
  }
  template <class T>
  void store(T* p, int count) const {
    alignas(32) T part[kWidth];
    store(part);
    for (int i = 0; i < count; ++i) p[i] = part[i];
  }
  template <class T>
  static Vec load(const Pick<T>& pick, const T* row);  // lanes of a row
  float sum() const {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }

 private:
  static __m256i mask(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
};

inline Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
// NaN passes, as in torch: max returns its second operand then.
inline Vec relu(Vec x) { return {_mm256_max_ps(_mm256_setzero_ps(), x.v)}; }
// Where x > 0: a, elsewhere (NaN too): b.
inline Vec where_positive(Vec x, Vec a, Vec b) {
  return {_mm256_blendv_ps(b.v, a.v, _mm256_cmp_ps(x.v, _mm256_setzero_ps(), _CMP_GT_OQ))};
}

// Adds to kWidth float64 values.
inline void add_to(double* p, Vec a) {
  const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(a.v));
  const __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(a.v, 1));
  _mm256_storeu_pd(p, _mm256_add_pd(_mm256_loadu_pd(p), low));
  _mm256_storeu_pd(p + 4, _mm256_add_pd(_mm256_loadu_pd(p + 4), high));
}

// Twice kWidth neighbouring values, in whatever order their type makes cheapest: for work lane by lane.
struct Wide {
  Vec a, b;
};

inline Wide load_wide(const float* p) { return {Vec::load(p), Vec::load(p + Vec::kWidth)}; }
inline Wide load_wide(const float16* p) { return {Vec::load(p), Vec::load(p + Vec::kWidth)}; }
inline Wide load_wide(const bfloat16* p) {  // a: even, b: odd
  const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {{_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16))},
          {_mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000u))))}};
}

template <class T>
inline void store_wide(const Wide& v, T* p) {
  v.a.store(p);
  v.b.store(p + Vec::kWidth);
}
inline void store_wide(const Wide& v, bfloat16* p) {
  const __m256i both = _mm256_blend_epi16(_mm256_srli_epi32(rounded(v.a.v), 16), rounded(v.b.v), 0xaa);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), both);
}

// 32 bytes of elements that only move. T: an unsigned integer of their size.
struct Bits {
  static constexpr int kBytes = 32;
  __m256i v;

  static Bits load(const void* p) { return {_mm256_loadu_si256(static_cast<const __m256i*>(p))}; }
  void store(void* p) const { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
};

// The even and the odd elements of a and b, one after the other; and back.
template <class T>
inline void split(Bits a, Bits b, Bits& even, Bits& odd) {
  __m256i x = a.v, y = b.v;
  if constexpr (sizeof(T) == 2) {  // even elements of each half in front
    const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12,
                                           13, 2, 3, 6, 7, 10, 11, 14, 15);
    x = _mm256_shuffle_epi8(x, order), y = _mm256_shuffle_epi8(y, order);
  }
  if constexpr (sizeof(T) == 4) x = _mm256_shuffle_epi32(x, 0xd8), y = _mm256_shuffle_epi32(y, 0xd8);
  even.v = _mm256_permute4x64_epi64(_mm256_unpacklo_epi64(x, y), 0xd8);
  odd.v = _mm256_permute4x64_epi64(_mm256_unpackhi_epi64(x, y), 0xd8);
}
template <class T>
inline void zip(Bits even, Bits odd, Bits& a, Bits& b) {
  __m256i low, high;
  if constexpr (sizeof(T) == 2) low = _mm256_unpacklo_epi16(even.v, odd.v), high = _mm256_unpackhi_epi16(even.v, odd.v);
  if constexpr (sizeof(T) == 4) low = _mm256_unpacklo_epi32(even.v, odd.v), high = _mm256_unpackhi_epi32(even.v, odd.v);
  if constexpr (sizeof(T) == 8) low = _mm256_unpacklo_epi64(even.v, odd.v), high = _mm256_unpackhi_epi64(even.v, odd.v);
  a.v = _mm256_permute2x128_si256(low, high, 0x20);
  b.v = _mm256_permute2x128_si256(low, high, 0x31);
}

// A product of 128 bits takes as long as one of 256: there are no half vectors.
using HalfVec = Vec;
inline HalfVec half_of(Vec a) { return a; }

// Elements picked out of a row: lane l is row[at[l]], or zero where at[l] is negative.
template <class T>
struct Pick {
  int32_t at[Vec::kWidth];

  // Lanes from `count` on are zero. The row has `size` elements.
  void set(const int64_t* from, int count, int64_t size) {
    for (int lane = 0; lane < Vec::kWidth; ++lane) at[lane] = lane < count ? static_cast<int32_t>(from[lane]) : -1;
  }
  Vec load(const T* row) const {
    alignas(32) T part[Vec::kWidth];
    for (int lane = 0; lane < Vec::kWidth; ++lane) part[lane] = at[lane] < 0 ? T{} : row[at[lane]];
    return Vec::load(part);
  }
};

// The same by permutations. A part takes what lies in one window of the row, one register wide.
template <>
struct Pick<float> {
  struct Part {
    int64_t first;  // of the window
    int elements;   // that the row has of it
    alignas(32) int32_t index[Vec::kWidth];
    alignas(32) int32_t lanes[Vec::kWidth];  // -1 where they come from it
  };
  int parts;
  Part part[Vec::kWidth];
  alignas(32) int32_t lanes[Vec::kWidth];  // -1 where they come from any

  void set(const int64_t* at, int count, int64_t size) {
    parts = 0;
    for (int lane = 0; lane < Vec::kWidth; ++lane) {
      lanes[lane] = lane < count && at[lane] >= 0 ? -1 : 0;
      if (!lanes[lane]) continue;
      const int64_t first = at[lane] / Vec::kWidth * Vec::kWidth;
      int i = 0;
      while (i < parts && part[i].first != first) ++i;
      if (i == parts) {
        const int64_t left = size - first;
        part[parts++] = Part{first, left < Vec::kWidth ? static_cast<int>(left) : Vec::kWidth, {}, {}};
      }
      part[i].index[lane] = static_cast<int32_t>(at[lane] - first);
      part[i].lanes[lane] = -1;
    }
  }

  Vec load(const float* row) const {
    __m256 all = _mm256_setzero_ps();
    for (int i = 0; i < parts; ++i) {
      const Part& from = part[i];
      const float* window = row + from.first;
      const Vec v = from.elements == Vec::kWidth ? Vec::load(window) : Vec::load(window, from.elements);
      const __m256 picked = _mm256_permutevar8x32_ps(v.v, load_lanes(from.index));
      all = _mm256_blendv_ps(all, picked, _mm256_castsi256_ps(load_lanes(from.lanes)));
    }
    return {all};
  }

  // Lanes that are picked: `picked`; elsewhere `rest` as it is. The first `count` of them to `to`.
  void store(Vec picked, const float* rest, float* to, int count) const {
    const __m256 mine = _mm256_castsi256_ps(load_lanes(lanes));
    if (count == Vec::kWidth) {
      Vec{_mm256_blendv_ps(Vec::load(rest).v, picked.v, mine)}.store(to);
    } else {
      Vec{_mm256_blendv_ps(Vec::load(rest, count).v, picked.v, mine)}.store(to, count);
    }
  }
  template <class U>
  void store(Vec picked, const U* rest, U* to, int count) const {
    alignas(32) U part[Vec::kWidth];
    picked.store(part);
    for (int lane = 0; lane < count; ++lane) to[lane] = lanes[lane] ? part[lane] : rest[lane];
  }

 private:
  static __m256i load_lanes(const int32_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }
};

template <class T>
inline Vec Vec::load(const Pick<T>& pick, const T* row) {
  return pick.load(row);
}

}  // namespace vsr::cpu::avx2
