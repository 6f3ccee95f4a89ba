// Packing of convolution weights into the order in which the kernel reads them: what a thread does.
//
// Plan. One thread per packed element: it asks the index map of core/conv3x3.h what the element holds, gathers it and
// stores it; writes are contiguous, reads come from a weight small enough for the L2. Some 40 thousand elements for
// 64 x 64 channels: a few microseconds, to be spent once where the caller keeps the result.
#pragma once

#include "core/conv3x3.h"
#include "cuda/elements.cuh"
#include "cuda/standard.cuh"

namespace vsr::cuda {

constexpr int kPackThreads = 256;

template <class T>
__device__ float packed_value(const void* values, int64_t index) {
  return to_float(static_cast<const T*>(values)[index]);
}

// What is stored of a weight: all of it, or a part of the sum of TF32 numbers that stands for it.
template <class T>
__device__ T packed_part(T weight, int) {
  return weight;
}
__device__ inline float packed_part(float weight, int part) {
  if (!isfinite(weight)) return part == 0 ? weight : 0.0f;
  const auto rounded = [](float v) {  // to 10 bits of mantissa, ties away from zero
    return __uint_as_float((__float_as_uint(v) + 0x1000u) & 0xffffe000u);
  };
  const float first = rounded(weight);
  return part == 0 ? first : isfinite(first) ? rounded(weight - first) : 0.0f;
}

// What one thread packs; `weights` elements come before the biases and slopes.
template <class T>
__device__ __forceinline__ void pack_element(const Conv3x3Pack& p, int64_t weights) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kPackThreads + threadIdx.x;
  T* packed = static_cast<T*>(p.packed);
  if (index < weights) {
    const PackedWeight place = packed_weight(p.layout, index);
    T value = from_float<T>(0.0f);
    if (place.channel_out >= 0)
      value =
          packed_part(static_cast<const T*>(p.weight)[place.channel_out * p.strides.n + place.channel_in * p.strides.c +
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
    if (p.bias != nullptr) bias = packed_value<T>(p.bias, channel);
    if (p.activation == Activation::leaky_relu) slope = p.number;
    if (p.activation == Activation::prelu) slope = packed_value<T>(p.slope, p.slope_count == 1 ? 0 : channel);
  }
  float* behind = reinterpret_cast<float*>(packed + weights);
  behind[column] = bias;
  behind[columns + column] = slope;
}

}  // namespace vsr::cuda
