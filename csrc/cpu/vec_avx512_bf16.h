// Products of pairs of bfloat16 on AVX-512 BF16. Included after vec_avx512.h, under the target pragma of
// kernels_avx512_bf16.cpp only. These instructions, and the conversion to bfloat16, take subnormal numbers for zero.
#pragma once

namespace vsr::cpu::VSR_ISA {

struct BfloatPairs {
  __m512bh v;
};

inline BfloatPairs load_pairs(const bfloat16* p) { return {(__m512bh)_mm512_loadu_si512(p)}; }

inline BfloatPairs broadcast_pair(const bfloat16* p) {
  int pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return {(__m512bh)_mm512_set1_epi32(pair)};
}

inline Vec dot(BfloatPairs a, BfloatPairs b, Vec sum) { return {_mm512_dpbf16_ps(sum.v, a.v, b.v)}; }

struct HalfBfloatPairs {
  __m256bh v;
};

inline HalfBfloatPairs load_half_pairs(const bfloat16* p) {
  return {(__m256bh)_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
}
inline HalfBfloatPairs half_of(BfloatPairs a) { return {(__m256bh)_mm512_castsi512_si256((__m512i)a.v)}; }
inline HalfVec dot(HalfBfloatPairs a, HalfBfloatPairs b, HalfVec sum) { return {_mm256_dpbf16_ps(sum.v, a.v, b.v)}; }

// 32 elements of bfloat16 as float32: those at even and those at odd places, which takes one instruction each. They are
// stored the even ones first.
struct VecPair {
  static constexpr int kWidth = 32;
  Vec even, odd;

  static VecPair set(float value) { return {Vec::set(value), Vec::set(value)}; }
  static VecPair split(__m512i bits) {
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    return {{_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16))}, {_mm512_castsi512_ps(_mm512_and_si512(bits, high))}};
  }
  static VecPair load(const bfloat16* p) { return split(_mm512_loadu_si512(p)); }
  static VecPair load(const Pick<bfloat16>& pick, const bfloat16* row) { return split(pick.bits(row)); }
  void store(bfloat16* p) const { _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh(odd.v, even.v)); }
};

inline VecPair add(VecPair a, VecPair b) { return {add(a.even, b.even), add(a.odd, b.odd)}; }
inline VecPair mul(VecPair a, VecPair b) { return {mul(a.even, b.even), mul(a.odd, b.odd)}; }
inline VecPair fma(VecPair a, VecPair b, VecPair c) { return {fma(a.even, b.even, c.even), fma(a.odd, b.odd, c.odd)}; }
inline VecPair sub(VecPair a, VecPair b) { return {sub(a.even, b.even), sub(a.odd, b.odd)}; }

}  // namespace vsr::cpu::VSR_ISA
