// Packing of convolution weights into the order in which the kernel reads them.
//
// Plan. One thread per packed element: it asks the index map of core/conv3x3.h what the element holds, gathers it and
// stores it; writes are contiguous, reads come from a weight small enough for the L2. Some 40 thousand elements for
// 64 x 64 channels: a few microseconds, to be spent once where the caller keeps the result.

#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdint>

#include "cuda/conv3x3.h"
#include "cuda/elements.cuh"

namespace vsr::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
__device__ float at(const void* values, int64_t index) {
  return to_float(static_cast<const T*>(values)[index]);
}

// What is stored of a weight: all of it, or a part of the sum of TF32 numbers that stands for it.
template <class T>
__device__ T stored(T weight, int) {
  return weight;
}
__device__ float stored(float weight, int part) {
  if (!isfinite(weight)) return part == 0 ? weight : 0.0f;
  const auto rounded = [](float v) {  // to 10 bits of mantissa, ties away from zero
    return __uint_as_float((__float_as_uint(v) + 0x1000u) & 0xffffe000u);
  };
  const float first = rounded(weight);
  return part == 0 ? first : isfinite(first) ? rounded(weight - first) : 0.0f;
}

template <class T>
__global__ void __launch_bounds__(kThreads) pack_kernel(const Conv3x3Pack p, int64_t weights) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  T* packed = static_cast<T*>(p.packed);
  if (index < weights) {
    const PackedWeight place = packed_weight(p.layout, index);
    T value = from_float<T>(0.0f);
    if (place.channel_out >= 0)
      value = stored(static_cast<const T*>(p.weight)[place.channel_out * p.strides.n + place.channel_in * p.strides.c +
                                                     place.ky * p.strides.h + place.kx * p.strides.w],
                     place.part);
    packed[index] = value;
    return;
  }
  const int64_t column = index - weights, columns = packed_columns(p.layout);
  if (column >= columns) return;
  float bias = 0.0f, slope = 0.0f;
  if (column < p.layout.c_out) {
    const int64_t channel = conv_channel(p.layout, column);
    if (p.bias != nullptr) bias = at<T>(p.bias, channel);
    if (p.activation == Activation::leaky_relu) slope = p.number;
    if (p.activation == Activation::prelu) slope = at<T>(p.slope, p.slope_count == 1 ? 0 : channel);
  }
  float* behind = reinterpret_cast<float*>(packed + weights);
  behind[column] = bias;
  behind[columns + column] = slope;
}

template <class T>
cudaError_t launch(const Conv3x3Pack& p, cudaStream_t stream) {
  const int64_t weights = packed_weights(p.layout);
  const int64_t blocks = ceil_div(weights + packed_columns(p.layout), kThreads);
  if (blocks > 0x7fffffff) return cudaErrorInvalidConfiguration;
  pack_kernel<T><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(p, weights);
  return cudaGetLastError();
}

// The same weight seen with its channels exchanged and its taps in reverse is a matter of strides.
Conv3x3Pack turned(Conv3x3Pack p) {
  if (!p.transposed) return p;
  const int64_t last = 2 * (p.strides.h + p.strides.w) * p.layout.element_bytes;
  p.weight = static_cast<const char*>(p.weight) + last;
  p.strides = {p.strides.c, p.strides.n, -p.strides.h, -p.strides.w};
  return p;
}

}  // namespace

cudaError_t launch_conv3x3_pack(const Conv3x3Pack& given, cudaStream_t stream) {
  const Conv3x3Pack problem = turned(given);
  switch (problem.dtype) {
    case DType::bf16: return launch<__nv_bfloat16>(problem, stream);
    case DType::f16: return launch<__half>(problem, stream);
    case DType::f32: return launch<float>(problem, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace vsr::cuda
