// Accesses of global and shared memory by words of 32 bits. Offsets are constants that become part of the instruction;
// conditions become its predicate, not a branch.
#pragma once

#include <cstdint>

namespace vsr::cuda {

// kWords words from global memory where kIndex < limit, else zeros.
template <int kIndex, int kWords>
__device__ __forceinline__ void load_global_below(uint32_t (&words)[kWords], const void* from, int limit) {
  static_assert(kWords == 1 || kWords == 2 || kWords == 4);
#pragma unroll
  for (int i = 0; i < kWords; ++i) words[i] = 0;
  if constexpr (kWords == 1) {
    asm volatile("{.reg .pred p; setp.gt.s32 p, %2, %3; @p ld.global.b32 %0, [%1];}"
                 : "+r"(words[0])
                 : "l"(__cvta_generic_to_global(from)), "r"(limit), "n"(kIndex)
                 : "memory");
  } else if constexpr (kWords == 2) {
    asm volatile("{.reg .pred p; setp.gt.s32 p, %3, %4; @p ld.global.v2.b32 {%0, %1}, [%2];}"
                 : "+r"(words[0]), "+r"(words[1])
                 : "l"(__cvta_generic_to_global(from)), "r"(limit), "n"(kIndex)
                 : "memory");
  } else {
    asm volatile("{.reg .pred p; setp.gt.s32 p, %5, %6; @p ld.global.v4.b32 {%0, %1, %2, %3}, [%4];}"
                 : "+r"(words[0]), "+r"(words[1]), "+r"(words[2]), "+r"(words[3])
                 : "l"(__cvta_generic_to_global(from)), "r"(limit), "n"(kIndex)
                 : "memory");
  }
}

// kWords words to global memory where kIndex < limit.
template <int kIndex, int kWords>
__device__ __forceinline__ void store_global_below(void* to, const uint32_t (&words)[kWords], int limit) {
  static_assert(kWords == 1 || kWords == 2 || kWords == 4);
  if constexpr (kWords == 1) {
    asm volatile("{.reg .pred p; setp.gt.s32 p, %2, %3; @p st.global.b32 [%1], %0;}" ::"r"(words[0]),
                 "l"(__cvta_generic_to_global(to)), "r"(limit), "n"(kIndex)
                 : "memory");
  } else if constexpr (kWords == 2) {
    asm volatile("{.reg .pred p; setp.gt.s32 p, %3, %4; @p st.global.v2.b32 [%2], {%0, %1};}" ::"r"(words[0]),
                 "r"(words[1]), "l"(__cvta_generic_to_global(to)), "r"(limit), "n"(kIndex)
                 : "memory");
  } else {
    asm volatile("{.reg .pred p; setp.gt.s32 p, %5, %6; @p st.global.v4.b32 [%4], {%0, %1, %2, %3};}" ::"r"(words[0]),
                 "r"(words[1]), "r"(words[2]), "r"(words[3]), "l"(__cvta_generic_to_global(to)), "r"(limit), "n"(kIndex)
                 : "memory");
  }
}

template <int kOffset = 0, int kWords>
__device__ __forceinline__ void load_shared(uint32_t (&words)[kWords], uint32_t from) {
  static_assert(kWords == 2 || kWords == 4);
  if constexpr (kWords == 2) {
    asm volatile("ld.shared.v2.b32 {%0, %1}, [%2 + %3];"
                 : "=r"(words[0]), "=r"(words[1])
                 : "r"(from), "n"(kOffset)
                 : "memory");
  } else {
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4 + %5];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(from), "n"(kOffset)
                 : "memory");
  }
}

template <int kOffset = 0>
__device__ __forceinline__ void store_shared(uint32_t to, const uint32_t (&words)[4]) {
  asm volatile("st.shared.v4.b32 [%0 + %5], {%1, %2, %3, %4};" ::"r"(to), "r"(words[0]), "r"(words[1]), "r"(words[2]),
               "r"(words[3]), "n"(kOffset)
               : "memory");
}

}  // namespace vsr::cuda
