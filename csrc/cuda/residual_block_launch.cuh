// From a fused residual block to a launch of one of the instances of an arithmetic.
#pragma once

#include "cuda/conv3x3_launch.cuh"
#include "cuda/residual_block.h"
#include "cuda/residual_block_kernel.cuh"

namespace vsr::cuda {

// One per arithmetic, each in a file of its own; height is one of block_heights.
cudaError_t launch_residual_block_bf16(const ResidualBlock& p, int height, cudaStream_t stream);
cudaError_t launch_residual_block_f16(const ResidualBlock& p, int height, cudaStream_t stream);

// The block's two convolutions: to `between`, and from there.
inline Conv3x3 first_convolution(const ResidualBlock& p, void* between) {
  Conv3x3 conv{};
  conv.x = p.x, conv.packed = p.packed1, conv.out = between;
  conv.xs = {p.h * p.w * p.c, 1, p.w * p.c, p.c};
  conv.n = p.n, conv.h = p.h, conv.w = p.w, conv.c_in = p.c, conv.c_out = p.c_mid, conv.r = 1;
  conv.scale = 1.0f, conv.activation = p.activation, conv.dtype = p.dtype, conv.exact = p.exact;
  return conv;
}
inline Conv3x3 second_convolution(const ResidualBlock& p, const void* between) {
  Conv3x3 conv{};
  conv.x = between, conv.packed = p.packed2, conv.residual = p.x, conv.out = p.out;
  conv.xs = {p.h * p.w * p.c_mid, 1, p.w * p.c_mid, p.c_mid};
  conv.n = p.n, conv.h = p.h, conv.w = p.w, conv.c_in = p.c_mid, conv.c_out = p.c, conv.r = 1;
  conv.scale = p.scale, conv.activation = Activation::none, conv.dtype = p.dtype, conv.exact = p.exact;
  return conv;
}

template <class Traits>
cudaError_t launch_fused_tiles(const ResidualBlock& p, const BlockArguments& arguments, cudaStream_t stream) {
  constexpr int kBytes = Traits::First::Math::kBytes;
  const int64_t grid_x = ceil_div(p.w, Traits::kWidth), grid_y = ceil_div(p.h, Traits::kHeight);
  if (grid_x > kMaxGridX || grid_y > kMaxGridYZ) return cudaErrorInvalidConfiguration;
  const auto kernel = residual_block_kernel<Traits>;
  const cudaError_t allowed =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Traits::kSharedBytes);
  if (allowed != cudaSuccess) return allowed;
  BlockArguments part = arguments;
  for (int64_t n = 0; n < p.n; n += kMaxGridYZ) {
    const int64_t images = p.n - n < kMaxGridYZ ? p.n - n : kMaxGridYZ;
    const int64_t pixel_bytes = n * p.h * p.w * kBytes;
    part.first.x = arguments.first.x + pixel_bytes * p.c;
    part.second.residual = arguments.second.residual + pixel_bytes * p.c;
    part.second.out = arguments.second.out + pixel_bytes * p.c;
    if (arguments.hidden != nullptr) part.hidden = arguments.hidden + pixel_bytes * p.c_mid;
    const dim3 grid(static_cast<unsigned>(grid_x), static_cast<unsigned>(grid_y), static_cast<unsigned>(images));
    kernel<<<grid, Traits::kThreads, Traits::kSharedBytes, stream>>>(part);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

// The instances of an arithmetic; the heights are those of block_heights.
template <class Math>
cudaError_t launch_fused_16_bit(const ResidualBlock& p, int height, cudaStream_t stream) {
  const BlockLayouts layouts = block_layouts(p.c, p.c_mid, p.dtype, p.exact, BlockPlan::fused);
  BlockArguments a{};
  const int step = block_tile_width(layouts.second.columns);
  a.first = conv_arguments(first_convolution(p, nullptr), layouts.first, step);
  a.second = conv_arguments(second_convolution(p, nullptr), layouts.second, step);
  a.hidden = static_cast<char*>(p.hidden);
  a.hidden_before_activation = p.hidden_before_activation;
  a.hidden_by_vectors = whole_vectors(layouts.first);
  switch (layouts.first.columns * 100 + height) {
    case 6406: return launch_fused_tiles<BlockTraits<Math, 64, 6>>(p, a, stream);
    case 6414: return launch_fused_tiles<BlockTraits<Math, 64, 14>>(p, a, stream);
    case 3206: return launch_fused_tiles<BlockTraits<Math, 32, 6>>(p, a, stream);
    case 3210: return launch_fused_tiles<BlockTraits<Math, 32, 10>>(p, a, stream);
    case 3214: return launch_fused_tiles<BlockTraits<Math, 32, 14>>(p, a, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace vsr::cuda
