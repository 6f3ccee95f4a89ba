// Instances of the fused residual block in float16.

#include "cuda/residual_block_launch.cuh"

namespace vsr::cuda {

cudaError_t launch_residual_block_f16(const ResidualBlock& p, int height, cudaStream_t stream) {
  return launch_fused_16_bit<MathF16>(p, height, stream);
}

}  // namespace vsr::cuda
