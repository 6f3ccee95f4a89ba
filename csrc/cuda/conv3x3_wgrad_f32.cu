// Instances of the weight gradient of a 3x3 convolution in float32.

#include "cuda/conv3x3_wgrad_launch.cuh"

namespace vsr::cuda {

cudaError_t launch_weight_gradient_f32(const Conv3x3WeightGradient& p, const WeightGradientPlan& plan,
                                       bool asynchronous, cudaStream_t stream) {
  if (plan.name == kWgradFewOut)
    return p.exact ? launch_form<MathTf32x3, kWgradFewOut>(p, plan, asynchronous, stream)
                   : launch_form<MathTf32, kWgradFewOut>(p, plan, asynchronous, stream);
  if (plan.name != kWgradSquare || p.exact) return cudaErrorInvalidValue;
  return launch_form<MathTf32, kWgradSquare>(p, plan, asynchronous, stream);
}

}  // namespace vsr::cuda
