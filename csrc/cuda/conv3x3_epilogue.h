// Launchers of the backward of what follows the sums of a 3x3 convolution.
#pragma once

#include <cuda_runtime_api.h>

#include "core/epilogue.h"

namespace vsr::cuda {

// Enqueues the gradient before the epilogue on the stream and, where slope_parts is given, epilogue_slices(N H W) parts
// of the slope's gradient. Returns the launch's error.
cudaError_t launch_conv3x3_epilogue_backward(const EpilogueBackward& problem, cudaStream_t stream);

// Enqueues their sum.
cudaError_t launch_slope_sum(const SlopeSum& problem, cudaStream_t stream);

}  // namespace vsr::cuda
