// Vector of sixteen floats on AVX-512 F, BW, VL, DQ. Included under the target pragma of the files that define VSR_ISA
// for such a CPU.
#pragma once

// gcc 12 takes the deliberately undefined operands inside its own intrinsics for mistakes.
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <immintrin.h>

#include "core/dtype.h"

namespace vsr::cpu::VSR_ISA {

inline __m512 widen(__m256i halves, bfloat16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
inline __m512 widen(__m256i halves, float16) { return _mm512_cvtph_ps(halves); }

inline __m256i narrow(__m512 v, float16) { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
#if defined(VSR_BF16_DOT)
inline __m256i narrow(__m512 v, bfloat16) { return (__m256i)_mm512_cvtneps_pbh(v); }
#else
// In the upper half of every lane, with anything in the lower one.
inline __m512i rounded(__m512 v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  return _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x00400000));
}
inline __m256i narrow(__m512 v, bfloat16) { return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded(v), 16)); }
#endif

template <class T>
struct Pick;

struct Vec {
  static constexpr int kWidth = 16;
  static constexpr int kPanel = 4;  // vectors of a panel, and the sums that the 32 registers have room for
  static constexpr int kAccumulators = 24;
  __m512 v;

  static Vec set(float value) { return {_mm512_set1_ps(value)}; }
  static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec load(const float* p, int count) { return {_mm512_maskz_loadu_ps(mask(count), p)}; }
  template <class T>
  static Vec load(const T* p) {
    return {widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), T{})};
  }
  template <class T>
  static Vec load(const T* p, int count) {
    return {widen(_mm256_maskz_loadu_epi16(mask(count), p), T{})};
  }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store(float* p, int count) const { _mm512_mask_storeu_ps(p, mask(count), v); }
  template <class T>
  void store(T* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(v, T{}));
  }
  template <class T>
  void store(T* p, int count) const {
    _mm256_mask_storeu_epi16(p, mask(count), narrow(v, T{}));
  }
  template <class T>
  static Vec load(const Pick<T>& pick, const T* row);  // lanes of a row
  float sum() const { return _mm512_reduce_add_ps(v); }

 private:
  static __mmask16 mask(int count) { return static_cast<__mmask16>((1u << count) - 1u); }
};

inline Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// NaN passes, as in torch: max returns its second operand then.
inline Vec relu(Vec x) { return {_mm512_max_ps(_mm512_setzero_ps(), x.v)}; }
// Where x > 0: a, elsewhere (NaN too): b.
inline Vec where_positive(Vec x, Vec a, Vec b) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, _mm512_setzero_ps(), _CMP_GT_OQ), b.v, a.v)};
}

// Adds to kWidth float64 values.
inline void add_to(double* p, Vec a) {
  const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(a.v));
  const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v, 1));
  _mm512_storeu_pd(p, _mm512_add_pd(_mm512_loadu_pd(p), low));
  _mm512_storeu_pd(p + 8, _mm512_add_pd(_mm512_loadu_pd(p + 8), high));
}

// Twice kWidth neighbouring values, in whatever order their type makes cheapest: for work lane by lane.
struct Wide {
  Vec a, b;
};

inline Wide load_wide(const float* p) { return {Vec::load(p), Vec::load(p + Vec::kWidth)}; }
inline Wide load_wide(const float16* p) { return {Vec::load(p), Vec::load(p + Vec::kWidth)}; }
inline Wide load_wide(const bfloat16* p) {  // a: even, b: odd
  const __m512i pairs = _mm512_loadu_si512(p);
  return {{_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16))},
          {_mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))}};
}

template <class T>
inline void store_wide(const Wide& v, T* p) {
  v.a.store(p);
  v.b.store(p + Vec::kWidth);
}
inline void store_wide(const Wide& v, bfloat16* p) {
#if defined(VSR_BF16_DOT)
  // One conversion puts the even values in front of the odd ones.
  alignas(64) static constexpr uint16_t kZip[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                    8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(v.b.v, v.a.v);
  _mm512_storeu_si512(p, _mm512_permutexvar_epi16(_mm512_load_si512(kZip), halves));
#else
  const __m512i odd = _mm512_and_si512(rounded(v.b.v), _mm512_set1_epi32(static_cast<int>(0xffff0000u)));
  _mm512_storeu_si512(p, _mm512_or_si512(_mm512_srli_epi32(rounded(v.a.v), 16), odd));
#endif
}

// 64 bytes of elements that only move. T: an unsigned integer of their size.
struct Bits {
  static constexpr int kBytes = 64;
  __m512i v;

  static Bits load(const void* p) { return {_mm512_loadu_si512(p)}; }
  void store(void* p) const { _mm512_storeu_si512(p, v); }
};

// Where the elements of two vectors, one after the other, go.
template <class T>
struct Picks {
  static constexpr int kCount = Bits::kBytes / sizeof(T);
  alignas(64) T even[kCount], odd[kCount], low[kCount], high[kCount];

  constexpr Picks() : even(), odd(), low(), high() {
    for (int i = 0; i < kCount; ++i) {
      even[i] = static_cast<T>(2 * i);
      odd[i] = static_cast<T>(2 * i + 1);
      low[i] = static_cast<T>(i / 2 + i % 2 * kCount);
      high[i] = static_cast<T>(low[i] + kCount / 2);
    }
  }
};
template <class T>
inline constexpr Picks<T> kPicks{};

template <class T>
inline Bits pick(Bits a, Bits b, const T* from) {
  const __m512i index = _mm512_load_si512(from);
  if constexpr (sizeof(T) == 2) return {_mm512_permutex2var_epi16(a.v, index, b.v)};
  if constexpr (sizeof(T) == 4) return {_mm512_permutex2var_epi32(a.v, index, b.v)};
  if constexpr (sizeof(T) == 8) return {_mm512_permutex2var_epi64(a.v, index, b.v)};
}

// The even and the odd elements of a and b, one after the other; and back.
template <class T>
inline void split(Bits a, Bits b, Bits& even, Bits& odd) {
  even = pick(a, b, kPicks<T>.even);
  odd = pick(a, b, kPicks<T>.odd);
}
template <class T>
inline void zip(Bits even, Bits odd, Bits& a, Bits& b) {
  a = pick(even, odd, kPicks<T>.low);
  b = pick(even, odd, kPicks<T>.high);
}

struct HalfVec {
  static constexpr int kWidth = 8;
  __m256 v;

  static HalfVec set(float value) { return {_mm256_set1_ps(value)}; }
  static HalfVec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
};

inline HalfVec half_of(Vec a) { return {_mm512_castps512_ps256(a.v)}; }
inline HalfVec add(HalfVec a, HalfVec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline HalfVec fma(HalfVec a, HalfVec b, HalfVec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }

// Elements picked out of a row: lane l is row[at[l]], or zero where at[l] is negative. A part takes what lies in one
// window of the row, two registers wide; with rising numbers there are hardly more parts than the lanes have windows.
template <class T>
struct Pick {
  static constexpr int kLanes = 64 / sizeof(T);  // of a register; a Vec has the first sixteen
  static constexpr int kWindow = 2 * kLanes;

  struct Part {
    int64_t first;       // of the window
    uint32_t lanes;      // that come from it
    uint32_t low, high;  // elements of its halves that the row has
    alignas(64) uint8_t index[64];
  };
  int parts;
  Part part[kLanes];

  // Lanes from `count` on are zero. The row has `size` elements.
  void set(const int64_t* at, int count, int64_t size) {
    parts = 0;
    for (int lane = 0; lane < count; ++lane) {
      if (at[lane] < 0) continue;
      const int64_t first = at[lane] / kWindow * kWindow;
      int i = 0;
      while (i < parts && part[i].first != first) ++i;
      Part& in = part[i];
      if (i == parts) {
        const int64_t left = size - first;
        in = Part{first, 0, below(left), below(left - kLanes), {}};
        ++parts;
      }
      in.lanes |= 1u << lane;
      const int64_t element = at[lane] - first;
      if constexpr (sizeof(T) == 4) {
        const int32_t index = static_cast<int32_t>(element);
        __builtin_memcpy(in.index + lane * 4, &index, 4);
      } else {
        const int16_t index = static_cast<int16_t>(element);
        __builtin_memcpy(in.index + lane * 2, &index, 2);
      }
    }
  }

  __m512i bits(const T* row) const {
    __m512i all = _mm512_setzero_si512();
    for (int i = 0; i < parts; ++i) {
      const Part& from = part[i];
      const T* window = row + from.first;
      const __m512i index = _mm512_load_si512(from.index);
      if constexpr (sizeof(T) == 4) {
        const __m512i low = _mm512_maskz_loadu_epi32(static_cast<__mmask16>(from.low), window);
        const __m512i high = _mm512_maskz_loadu_epi32(static_cast<__mmask16>(from.high), window + kLanes);
        all =
            _mm512_mask_mov_epi32(all, static_cast<__mmask16>(from.lanes), _mm512_permutex2var_epi32(low, index, high));
      } else {
        const __m512i low = _mm512_maskz_loadu_epi16(from.low, window);
        const __m512i high = _mm512_maskz_loadu_epi16(from.high, window + kLanes);
        all = _mm512_mask_mov_epi16(all, from.lanes, _mm512_permutex2var_epi16(low, index, high));
      }
    }
    return all;
  }

  Vec load(const T* row) const {
    if constexpr (sizeof(T) == 4) {
      return {_mm512_castsi512_ps(bits(row))};
    } else {
      return {widen(_mm512_castsi512_si256(bits(row)), T{})};
    }
  }

  // Lanes that are picked: `picked`; elsewhere `rest` as it is. The first `count` of them to `to`.
  template <class U>
  void store(Vec picked, const U* rest, U* to, int count) const {
    uint32_t lanes = 0;
    for (int i = 0; i < parts; ++i) lanes |= part[i].lanes;
    const __mmask16 all = static_cast<__mmask16>((1u << count) - 1u), mine = static_cast<__mmask16>(lanes);
    if constexpr (sizeof(U) == 4) {
      _mm512_mask_storeu_ps(to, all, _mm512_mask_mov_ps(_mm512_maskz_loadu_ps(all, rest), mine, picked.v));
    } else {
      const __m256i bits = _mm256_mask_mov_epi16(_mm256_maskz_loadu_epi16(all, rest), mine, narrow(picked.v, U{}));
      _mm256_mask_storeu_epi16(to, all, bits);
    }
  }

 private:
  static uint32_t below(int64_t count) {
    if (count <= 0) return 0;
    return count >= kLanes ? static_cast<uint32_t>((uint64_t{1} << kLanes) - 1) : (1u << count) - 1u;
  }
};

template <class T>
inline Vec Vec::load(const Pick<T>& pick, const T* row) {
  return pick.load(row);
}

}  // namespace vsr::cpu::VSR_ISA
