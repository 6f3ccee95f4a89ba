// Instances of the 3x3 convolution in float32: TF32 products, or three of them for nearly the accuracy of float32.

#include "cuda/conv3x3_launch.cuh"

namespace vsr::cuda {

cudaError_t launch_conv3x3_f32(const Conv3x3& p, int tile_height, cudaStream_t stream) {
  return p.exact ? launch_32_bit<MathTf32x3>(p, tile_height, stream) : launch_32_bit<MathTf32>(p, tile_height, stream);
}

}  // namespace vsr::cuda
