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
inline __m256i narrow(__m512 v, bfloat16) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  const __m512i kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x00400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
}
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
