// Launcher of the CUDA residual block.
#pragma once

#include <cuda_runtime_api.h>

#include "core/residual_block.h"

namespace vsr::cuda {

// Enqueues the block on the stream and the current device by the plan it holds: one launch or two. Returns the launch's
// error; cudaErrorNotSupported for arithmetic that the device lacks, or a fused block that does not exist or fit.
cudaError_t launch_residual_block(const ResidualBlock& problem, cudaStream_t stream);

// The fused form with tiles of a given height: one of block_heights, of kThinRows for a thin block.
cudaError_t launch_fused_block(const ResidualBlock& problem, int height, cudaStream_t stream);

}  // namespace vsr::cuda
