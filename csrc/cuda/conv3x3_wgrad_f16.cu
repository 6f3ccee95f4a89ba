// Instances of the weight gradient of a 3x3 convolution in float16.

#include "cuda/conv3x3_wgrad_launch.cuh"

namespace vsr::cuda {

cudaError_t launch_weight_gradient_f16(const Conv3x3WeightGradient& p, const WeightGradientPlan& plan,
                                       bool asynchronous, cudaStream_t stream) {
  return launch_16_bit_forms<MathF16>(p, plan, asynchronous, stream);
}

}  // namespace vsr::cuda
