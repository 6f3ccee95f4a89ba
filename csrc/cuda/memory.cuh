// Accesses of global and shared memory by words of 32 bits. Offsets are constants that become part of the instruction;
// conditions become its predicate, not a branch.
#pragma once

#include "core/platform.h"

namespace vsr::cuda {

// The value itself, which the compiler then keeps in a register instead of computing it again wherever it is used.
__device__ __forceinline__ uint32_t computed(uint32_t value) {
  asm volatile("" : "+r"(value));
  return value;
}
__device__ __forceinline__ const char* computed(const char* value) {
  asm volatile("" : "+l"(value));
  return value;
}

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

// 16 bits from global memory where kIndex < limit, else zero.
template <int kIndex>
__device__ __forceinline__ uint32_t load_global16_below(const void* from, int limit) {
  uint16_t bits = 0;
  asm volatile("{.reg .pred p; setp.gt.s32 p, %2, %3; @p ld.global.b16 %0, [%1];}"
               : "+h"(bits)
               : "l"(__cvta_generic_to_global(from)), "r"(limit), "n"(kIndex)
               : "memory");
  return bits;
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
  static_assert(kWords == 1 || kWords == 2 || kWords == 4);
  if constexpr (kWords == 1) {
    asm volatile("ld.shared.b32 %0, [%1 + %2];" : "=r"(words[0]) : "r"(from), "n"(kOffset) : "memory");
  } else if constexpr (kWords == 2) {
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

// A number `bytes` behind an address, or if bytes are negative -0, which changes nothing that it is added to.
__device__ __forceinline__ float load_shared_at(uint32_t from, int bytes) {
  float value = -0.0f;
  asm volatile("{.reg .pred p; setp.ge.s32 p, %2, 0; @p ld.shared.f32 %0, [%1];}"
               : "+f"(value)
               : "r"(from + bytes), "r"(bytes)
               : "memory");
  return value;
}

template <int kOffset = 0, int kWords>
__device__ __forceinline__ void store_shared(uint32_t to, const uint32_t (&words)[kWords]) {
  static_assert(kWords == 1 || kWords == 2 || kWords == 4);
  if constexpr (kWords == 1) {
    asm volatile("st.shared.b32 [%0 + %2], %1;" ::"r"(to), "r"(words[0]), "n"(kOffset) : "memory");
  } else if constexpr (kWords == 2) {
    asm volatile("st.shared.v2.b32 [%0 + %3], {%1, %2};" ::"r"(to), "r"(words[0]), "r"(words[1]), "n"(kOffset)
                 : "memory");
  } else {
    asm volatile("st.shared.v4.b32 [%0 + %5], {%1, %2, %3, %4};" ::"r"(to), "r"(words[0]), "r"(words[1]), "r"(words[2]),
                 "r"(words[3]), "n"(kOffset)
                 : "memory");
  }
}

// The low 16 bits of a word.
__device__ __forceinline__ void store_shared16(uint32_t to, uint32_t word) {
  asm volatile("st.shared.b16 [%0], %1;" ::"r"(to), "h"(static_cast<uint16_t>(word)) : "memory");
}

}  // namespace vsr::cuda
