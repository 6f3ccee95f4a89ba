// From a chain of thin convolutions to a launch of the instance of an arithmetic.
#pragma once

#include "cuda/conv3x3_launch.cuh"
#include "cuda/thin_net.h"
#include "cuda/thin_net_kernel.cuh"

namespace vsr::cuda {

// One per arithmetic, each in a file of its own; `blocks` of them stay and share the tiles.
cudaError_t launch_thin_net_bf16(const ThinArguments& arguments, int64_t blocks, int shared, cudaStream_t stream);
cudaError_t launch_thin_net_f16(const ThinArguments& arguments, int64_t blocks, int shared, cudaStream_t stream);

template <class Math>
cudaError_t launch_thin_tiles(const ThinArguments& arguments, int64_t blocks, int shared, cudaStream_t stream) {
  const auto kernel = thin_net_kernel<Math>;
  const cudaError_t allowed = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  if (allowed != cudaSuccess) return allowed;
  kernel<<<static_cast<unsigned>(blocks), kThinThreads, shared, stream>>>(arguments);
  return cudaGetLastError();
}

}  // namespace vsr::cuda
