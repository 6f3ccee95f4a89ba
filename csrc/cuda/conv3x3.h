// Launchers of the CUDA 3x3 convolution.
#pragma once

#include <cuda_runtime_api.h>

#include "core/conv3x3.h"

namespace vsr::cuda {

// Packs weights, bias and slope for launch_conv3x3 (one element per thread). Returns the launch's error.
cudaError_t launch_conv3x3_pack(const Conv3x3Pack& problem, cudaStream_t stream);

// Enqueues the convolution on the stream and the current device, with the tile height that suits the device.
// Returns the launch's error; cudaErrorNotSupported for arithmetic that the device lacks (conv3x3_runs_on).
cudaError_t launch_conv3x3(const Conv3x3& problem, cudaStream_t stream);

// The same with a given tile height, one of conv_heights.
cudaError_t launch_conv3x3(const Conv3x3& problem, int tile_height, cudaStream_t stream);

// Whether devices of this compute capability (major * 10 + minor) have tensor cores for the dtype.
constexpr bool conv3x3_runs_on(DType dtype, int capability) { return capability >= (dtype == DType::f16 ? 75 : 80); }

}  // namespace vsr::cuda
