// The two plans of a residual block: which kernels they launch.
//
// The plan of the fused kernel is in residual_block_kernel.cuh, that of thin blocks in thin_net_kernel.cuh, that of the
// single convolution in conv3x3_kernel.cuh.

#include <cstdint>

#include "cuda/conv3x3.h"
#include "cuda/device.h"
#include "cuda/residual_block.h"
#include "cuda/residual_block_launch.cuh"
#include "cuda/thin_net.h"

namespace vsr::cuda {
namespace {

ConvChain thin_chain(const ResidualBlock& p) {
  ConvChain chain{};
  chain.x = p.x, chain.residual = p.x, chain.out = p.out, chain.kept = p.hidden;
  chain.packed[0] = p.packed1, chain.packed[1] = p.packed2;
  chain.activation[0] = p.activation, chain.activation[1] = Activation::none;
  chain.shape = thin_block(p.c, p.c_mid);
  chain.xs = {p.h * p.w * p.c, 1, p.w * p.c, p.c};
  chain.n = p.n, chain.h = p.h, chain.w = p.w;
  chain.scale = p.scale, chain.dtype = p.dtype, chain.kept_before_activation = p.hidden_before_activation;
  return chain;
}

cudaError_t launch_two(const ResidualBlock& p, cudaStream_t stream) {
  void* between = block_needs_scratch(p) ? p.scratch : p.hidden;
  Conv3x3 first = first_convolution(p, between);
  if (p.hidden_before_activation) first.kept = p.hidden;
  const cudaError_t error = launch_conv3x3(first, stream);
  return error == cudaSuccess ? launch_conv3x3(second_convolution(p, between), stream) : error;
}

}  // namespace

cudaError_t launch_fused_block(const ResidualBlock& p, int height, cudaStream_t stream) {
  const int columns = fused_columns(p.c, p.c_mid, p.dtype);
  if (columns == 0) return cudaErrorNotSupported;
  if (p.n * p.h * p.w == 0) return cudaSuccess;
  if (columns == kThinChannels) return launch_conv_chain(thin_chain(p), height, stream);
  constexpr int64_t kMax = 0x7fffffff;
  if (p.h > kMax - 64 || p.w > kMax - 64) return cudaErrorInvalidValue;
  const auto misplaced = [](int64_t channels, const void* pointer) {
    return channels % 8 == 0 && !on_vectors(pointer);
  };
  if (misplaced(p.c, p.x) || misplaced(p.c, p.out) || misplaced(p.c_mid, p.hidden)) return cudaErrorMisalignedAddress;
  return p.dtype == DType::bf16 ? launch_residual_block_bf16(p, height, stream)
                                : launch_residual_block_f16(p, height, stream);
}

cudaError_t launch_residual_block(const ResidualBlock& p, cudaStream_t stream) {
  if (p.plan == BlockPlan::two_launches) return launch_two(p, stream);
  Gpu gpu{};
  const cudaError_t error = current_gpu(gpu);
  if (error != cudaSuccess) return error;
  const int columns = fused_columns(p.c, p.c_mid, p.dtype);
  if (columns == 0 || !conv3x3_runs_on(p.dtype, gpu.capability)) return cudaErrorNotSupported;
  const int height = columns == kThinChannels ? thin_tile(thin_block(p.c, p.c_mid), p.n, p.h, p.w, gpu).rows
                                              : block_tile(p.c, p.c_mid, p.n, p.h, p.w, p.dtype, gpu).height;
  return height == 0 ? cudaErrorNotSupported : launch_fused_block(p, height, stream);
}

}  // namespace vsr::cuda
