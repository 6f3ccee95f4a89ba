// Launchers of the CUDA weight gradient of a 3x3 convolution.
#pragma once

#include <cuda_runtime_api.h>

#include "core/conv3x3_wgrad.h"

namespace vsr::cuda {

// Bytes of workspace that the gradient wants on the current device; the pointers of the problem are not read. Returns
// the error of asking the device.
cudaError_t conv3x3_weight_gradient_workspace(const Conv3x3WeightGradient& problem, int64_t& bytes);

// Enqueues the gradients on the stream and the current device, in two launches: sums of splits, and their sum. The same
// bits every time. Returns the launch's error; cudaErrorNotSupported for arithmetic that the device lacks
// (conv3x3_weight_gradient_runs_on).
cudaError_t launch_conv3x3_weight_gradient(const Conv3x3WeightGradient& problem, cudaStream_t stream);

// The same with a given plan, for problems whose workspace has room for it.
cudaError_t launch_conv3x3_weight_gradient(const Conv3x3WeightGradient& problem, const WeightGradientPlan& plan,
                                           cudaStream_t stream);

// Whether devices of this compute capability (major * 10 + minor) have tensor cores for the dtype.
constexpr bool conv3x3_weight_gradient_runs_on(DType dtype, int capability) {
  return capability >= (dtype == DType::f16 ? 75 : 80);
}

}  // namespace vsr::cuda
