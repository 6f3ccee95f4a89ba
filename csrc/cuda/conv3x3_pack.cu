// Packing of convolution weights: the launch. The plan of the kernel is in conv3x3_pack_kernel.cuh.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/conv3x3.h"
#include "cuda/conv3x3_pack_kernel.cuh"

namespace vsr::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kPackThreads) pack_kernel(const Conv3x3Pack p, int64_t weights) {
  pack_element<T>(p, weights);
}

template <class T>
cudaError_t launch(const Conv3x3Pack& p, cudaStream_t stream) {
  const int64_t weights = packed_weights(p.layout);
  const int64_t blocks = ceil_div(weights + packed_columns(p.layout), kPackThreads);
  if (blocks > 0x7fffffff) return cudaErrorInvalidConfiguration;
  pack_kernel<T><<<static_cast<unsigned>(blocks), kPackThreads, 0, stream>>>(p, weights);
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
