// Instances of the 3x3 convolution in bfloat16.

#include "cuda/conv3x3_launch.cuh"

namespace vsr::cuda {

cudaError_t launch_conv3x3_bf16(const Conv3x3& p, int tile_height, cudaStream_t stream) {
  return launch_16_bit<MathBf16>(p, tile_height, stream);
}

}  // namespace vsr::cuda
