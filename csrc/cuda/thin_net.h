// Launchers of the CUDA chain of thin convolutions.
#pragma once

#include <cuda_runtime_api.h>

#include "core/thin_net.h"

namespace vsr::cuda {

// Enqueues the whole chain as one launch on the stream and the current device, with tiles that suit the device. Returns
// the launch's error; cudaErrorNotSupported for arithmetic that the device lacks, or where thin_runs() says no.
cudaError_t launch_conv_chain(const ConvChain& problem, cudaStream_t stream);

// The same with tiles of a given height, one of kThinRows.
cudaError_t launch_conv_chain(const ConvChain& problem, int rows, cudaStream_t stream);

}  // namespace vsr::cuda
