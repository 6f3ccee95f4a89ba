// Instance of the chain of thin convolutions in float16.

#include "cuda/thin_net_launch.cuh"

namespace vsr::cuda {

cudaError_t launch_thin_net_f16(const ThinArguments& arguments, int64_t blocks, int shared, cudaStream_t stream) {
  return launch_thin_tiles<MathF16>(arguments, blocks, shared, stream);
}

}  // namespace vsr::cuda
