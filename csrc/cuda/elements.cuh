// Elements to and from float32, one by one and by words of packed elements.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "core/platform.h"
#include "cuda/standard.cuh"

namespace vsr::cuda {

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(__half v) { return __half2float(v); }
__device__ __forceinline__ float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }

template <class Element>
__device__ __forceinline__ Element from_float(float v);
template <>
__device__ __forceinline__ float from_float<float>(float v) {
  return v;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float v) {
  return __float2half_rn(v);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float v) {
  return __float2bfloat16_rn(v);
}

// One of the two 16-bit elements of a word, and a word of two.
template <class Element>
__device__ __forceinline__ float half_of(uint32_t word, bool upper) {
  if constexpr (std::is_same_v<Element, __nv_bfloat16>) {
    return __uint_as_float(upper ? word & 0xffff0000u : word << 16);
  } else {
    return __half2float(__ushort_as_half(static_cast<unsigned short>(upper ? word >> 16 : word)));
  }
}
template <class Element>
__device__ __forceinline__ uint32_t halves(float lower, float upper) {
  if constexpr (std::is_same_v<Element, __nv_bfloat16>) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(lower, upper);
    return *reinterpret_cast<const uint32_t*>(&pair);
  } else {
    const __half2 pair = __floats2half2_rn(lower, upper);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
}

// As PyTorch's: NaN stays NaN.
__device__ __forceinline__ float relu(float v) {
#if __CUDA_ARCH__ >= 800
  float out;
  asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(out) : "f"(v));
  return out;
#else
  return v <= 0.0f ? 0.0f : v;
#endif
}

// Values to words, through relu on request. Math is one of mma.cuh.
template <class Math, bool kRelu, int kWords, int kValues>
__device__ __forceinline__ void narrow(uint32_t (&words)[kWords], const float (&values)[kValues]) {
  static_assert(kValues * Math::kBytes == kWords * 4);
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    if constexpr (Math::kBytes == 4) {
      words[i] = __float_as_uint(kRelu ? relu(values[i]) : values[i]);
    } else if constexpr (kRelu) {
      words[i] = Math::narrow2_relu(values[2 * i], values[2 * i + 1]);
    } else {
      words[i] = Math::narrow2(values[2 * i], values[2 * i + 1]);
    }
  }
}

template <class Math, int kWords, int kValues>
__device__ __forceinline__ void widen(float (&values)[kValues], const uint32_t (&words)[kWords]) {
  static_assert(kValues * Math::kBytes == kWords * 4);
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    if constexpr (Math::kBytes == 4) {
      values[i] = __uint_as_float(words[i]);
    } else {
      const float2 pair = Math::widen2(words[i]);
      values[2 * i] = pair.x, values[2 * i + 1] = pair.y;
    }
  }
}

}  // namespace vsr::cuda
