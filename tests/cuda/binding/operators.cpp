// The CUDA binding of convolutions and flow warp as operators of CPU tensors, with the schemas of the library, in a
// namespace of its own: what it makes of a call can then be compared with what the CPU operators make of it.

#include "core/conv3x3.h"
#include "core/conv3x3_wgrad.h"
#include "core/conv_chain.h"
#include "core/residual_block.h"
#include "cpu/kernels.h"
#include "torch/conv_operators.h"
#include "torch/cuda_call.h"

#define vsr_kernels VSR_NAMESPACE  // which the compiler is given
#define CUDA CPU
#include "torch/chain_cuda.cpp"
#include "torch/conv_cuda.cpp"
#include "torch/library.cpp"
#include "torch/warp_cuda.cpp"

namespace vsr::cpu {

const Kernels& kernels() {  // behind a schema that nobody calls here
  static const Kernels none{.isa = "none"};
  return none;
}

}  // namespace vsr::cpu

// Launchers of kernels that are not linked: a test brings those of one arithmetic.
namespace vsr::cuda {

struct ThinArguments;

#define MISSING __attribute__((weak)) cudaError_t
#define NONE                      \
  {                               \
    return cudaErrorNotSupported; \
  }

MISSING launch_conv3x3_bf16(const Conv3x3&, int, cudaStream_t) NONE MISSING
    launch_conv3x3_f16(const Conv3x3&, int, cudaStream_t) NONE MISSING
    launch_conv3x3_f32(const Conv3x3&, int, cudaStream_t) NONE MISSING
    launch_weight_gradient_bf16(const Conv3x3WeightGradient&, const WeightGradientPlan&, bool,
                                cudaStream_t) NONE MISSING
    launch_weight_gradient_f16(const Conv3x3WeightGradient&, const WeightGradientPlan&, bool, cudaStream_t) NONE MISSING
    launch_weight_gradient_f32(const Conv3x3WeightGradient&, const WeightGradientPlan&, bool, cudaStream_t) NONE MISSING
    launch_residual_block_bf16(const ResidualBlock&, int, cudaStream_t) NONE MISSING
    launch_residual_block_f16(const ResidualBlock&, int, cudaStream_t) NONE MISSING
    launch_thin_net_bf16(const ThinArguments&, int64_t, int, cudaStream_t) NONE MISSING
    launch_thin_net_f16(const ThinArguments&, int64_t, int, cudaStream_t) NONE

}  // namespace vsr::cuda
