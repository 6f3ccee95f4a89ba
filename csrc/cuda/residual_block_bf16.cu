// Instances of the fused residual block in bfloat16.

#include "cuda/residual_block_launch.cuh"

namespace vsr::cuda {

cudaError_t launch_residual_block_bf16(const ResidualBlock& p, int height, cudaStream_t stream) {
  return launch_fused_16_bit<MathBf16>(p, height, stream);
}

}  // namespace vsr::cuda
