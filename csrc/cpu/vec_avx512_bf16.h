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

}  // namespace vsr::cpu::VSR_ISA
