// Tensor core products of a warp: fragments from shared memory, and one struct per arithmetic.
//
// All arithmetics share one register layout, in which a 16 x 32 byte tile of A is four registers and a 32 byte x 8 tile
// of B two: m16n8k16 of 16-bit floats, m16n8k8 of TF32. Lane = 4 * g + q holds
//   A: rows g and g + 8 (registers 0, 1), bytes 4 q .. 4 q + 3; the same of bytes 16 .. 31 (registers 2, 3)
//   B: column g, bytes 4 q .. 4 q + 3, and 16 bytes on
//   D: row g, columns 2 q and 2 q + 1; the same of row g + 8
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "core/platform.h"
#include "cuda/elements.cuh"
#include "cuda/standard.cuh"

namespace vsr::cuda {

// Four 8 x 16 byte matrices, whose row addresses (`address` + kOffset) the lanes give in turn: an A fragment.
template <int kOffset>
__device__ __forceinline__ void load_matrices(uint32_t (&a)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4 + %5];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(address), "n"(kOffset)
               : "memory");
}

// The same, each matrix transposed: operands whose depth runs along the rows of memory.
template <int kOffset>
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&a)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4 + %5];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(address), "n"(kOffset)
               : "memory");
}

// Two matrices, whose row addresses the first sixteen lanes give.
template <int kOffset>
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&b)[2], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2 + %3];"
               : "=r"(b[0]), "=r"(b[1])
               : "r"(address), "n"(kOffset)
               : "memory");
}

struct MathBf16 {
  using Element = __nv_bfloat16;
  static constexpr int kCapability = 80;  // of the oldest device that has it
  static constexpr int kBytes = 2;
  static constexpr int kParts = 1;
  static constexpr uint32_t kOnes = 0x3f803f80;  // two elements

  template <int kCount>
  static __device__ __forceinline__ void split(uint32_t (&)[1][kCount]) {}
  static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[1][4], const uint32_t (&b)[1][2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0][0]), "r"(a[0][1]), "r"(a[0][2]), "r"(a[0][3]), "r"(b[0][0]), "r"(b[0][1]));
  }
  static __device__ __forceinline__ uint32_t narrow2(float low, float high) {
    uint32_t bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
  }
  static __device__ __forceinline__ uint32_t narrow2_relu(float low, float high) {
    uint32_t bits;
    asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
  }
  static __device__ __forceinline__ float2 widen2(uint32_t bits) {
    return {__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u)};
  }
};

struct MathF16 {
  using Element = __half;
  static constexpr int kCapability = 75;  // of the oldest device that has it
  static constexpr int kBytes = 2;
  static constexpr int kParts = 1;
  static constexpr uint32_t kOnes = 0x3c003c00;  // two elements

  template <int kCount>
  static __device__ __forceinline__ void split(uint32_t (&)[1][kCount]) {}
  static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[1][4], const uint32_t (&b)[1][2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0][0]), "r"(a[0][1]), "r"(a[0][2]), "r"(a[0][3]), "r"(b[0][0]), "r"(b[0][1]));
#else
#pragma unroll
    for (int half = 0; half < 2; ++half)
      asm volatile(
          "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
          : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
          : "r"(a[0][2 * half]), "r"(a[0][2 * half + 1]), "r"(b[0][half]));
#endif
  }
  static __device__ __forceinline__ uint32_t narrow2(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
  static __device__ __forceinline__ uint32_t narrow2_relu(float low, float high) {
#if __CUDA_ARCH__ >= 800
    uint32_t bits;
    asm("cvt.rn.relu.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
#else
    return narrow2(relu(low), relu(high));
#endif
  }
  static __device__ __forceinline__ float2 widen2(uint32_t bits) {
    return __half22float2(*reinterpret_cast<const __half2*>(&bits));
  }
};

// d += a * b in TF32: the operands' low 13 bits are ignored.
__device__ __forceinline__ void multiply_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ uint32_t round_to_tf32(float v) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
  return bits;
}

struct MathTf32 {
  using Element = float;
  static constexpr int kCapability = 80;
  static constexpr int kBytes = 4;
  static constexpr int kParts = 1;

  template <int kCount>
  static __device__ __forceinline__ void split(uint32_t (&a)[1][kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) a[0][i] = round_to_tf32(__uint_as_float(a[0][i]));
  }
  static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[1][4], const uint32_t (&b)[1][2]) {
    multiply_tf32(d, a[0], b[0]);
  }
};

// Nearly float32: operands are sums of two TF32 numbers; the product of the two small ones is left out. What is
// infinite may come out as NaN, because the parts of the other factor may differ in sign.
struct MathTf32x3 {
  using Element = float;
  static constexpr int kCapability = 80;
  static constexpr int kBytes = 4;
  static constexpr int kParts = 2;

  template <int kCount>
  static __device__ __forceinline__ void split(uint32_t (&a)[2][kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float whole = __uint_as_float(a[0][i]);
      a[0][i] = round_to_tf32(whole);
      const float rest = whole - __uint_as_float(a[0][i]);
      a[1][i] = fabsf(rest) < INFINITY ? round_to_tf32(rest) : 0;  // infinity and NaN are whole in the first part
    }
  }
  static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[2][4], const uint32_t (&b)[2][2]) {
    multiply_tf32(d, a[1], b[0]);
    multiply_tf32(d, a[0], b[1]);
    multiply_tf32(d, a[0], b[0]);
  }
};

}  // namespace vsr::cuda
