// Launcher of the CUDA pixel shuffle.
#pragma once

#include <cuda_runtime_api.h>

#include "core/pixel_shuffle.h"

namespace vsr::cuda {

// Enqueues the move on the stream. Returns the launch's error.
cudaError_t launch_pixel_shuffle(const PixelShuffle& problem, cudaStream_t stream);

}  // namespace vsr::cuda
