// Launchers of the CUDA flow warp.
#pragma once

#include <cuda_runtime_api.h>

#include "core/flow_warp.h"

namespace vsr::cuda {

// One launch. Height and width up to 2^30.
cudaError_t launch_flow_warp(const FlowWarp& problem, cudaStream_t stream);
cudaError_t launch_flow_warp_concat(const FlowWarpConcat& problem, cudaStream_t stream);

// Without grad_x: one launch. Float32: clears grad_x (a memset) and one launch; 16 bits: one more, which rounds the
// sums. Deterministic: a memset and three launches.
cudaError_t launch_flow_warp_backward(const FlowWarpBackward& problem, bool deterministic, cudaStream_t stream);

}  // namespace vsr::cuda
