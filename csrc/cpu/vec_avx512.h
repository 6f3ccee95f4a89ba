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

}  // namespace vsr::cpu::VSR_ISA
