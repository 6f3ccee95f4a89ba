// What launchers ask of the current device.
#pragma once

#include <cuda_runtime_api.h>

#include "core/launch_cost.h"

namespace vsr::cuda {

inline cudaError_t current_gpu(Gpu& gpu) {
  int index = 0, major = 0, minor = 0, l2 = 0;
  cudaError_t error = cudaGetDevice(&index);
  const auto ask = [&](int& value, cudaDeviceAttr attribute) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&value, attribute, index);
  };
  ask(gpu.multiprocessors, cudaDevAttrMultiProcessorCount);
  ask(gpu.shared_per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  ask(gpu.shared_per_multiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  ask(l2, cudaDevAttrL2CacheSize);
  ask(major, cudaDevAttrComputeCapabilityMajor);
  ask(minor, cudaDevAttrComputeCapabilityMinor);
  gpu.capability = major * 10 + minor;
  gpu.l2_bytes = l2;
  return error;
}

}  // namespace vsr::cuda
