// From a problem to a launch of one of the instances of an arithmetic.
#pragma once

#include "cuda/conv3x3.h"
#include "cuda/conv3x3_kernel.cuh"

namespace vsr::cuda {

constexpr int64_t kMaxGridX = 0x7fffffff, kMaxGridYZ = 65535;

// One per arithmetic, each in a file of its own; tile_height is one of conv_heights.
cudaError_t launch_conv3x3_bf16(const Conv3x3& p, int tile_height, cudaStream_t stream);
cudaError_t launch_conv3x3_f16(const Conv3x3& p, int tile_height, cudaStream_t stream);
cudaError_t launch_conv3x3_f32(const Conv3x3& p, int tile_height, cudaStream_t stream);

template <class Traits>
cudaError_t launch_tiles(const Conv3x3& p, const ConvArguments& arguments, cudaStream_t stream) {
  const int64_t grid_x = ceil_div(p.w, Traits::kWidth) * arguments.column_blocks, grid_y = ceil_div(p.h, Traits::kRows);
  if (grid_x > kMaxGridX || grid_y > kMaxGridYZ) return cudaErrorInvalidConfiguration;
  const bool listed = p.out_channels != nullptr;
  int shared = Traits::kSharedBytes;
  const auto at_least = [&shared](int bytes) { shared = bytes > shared ? bytes : shared; };
  if (arguments.store == ConvStore::staged) at_least(Traits::kRows * static_cast<int>(p.r) * arguments.staged_pitch);
  if (arguments.store == ConvStore::assembled || conv_assembles(p))
    at_least(conv_assembled_bytes(Traits::kColumns, Traits::kRows));
  const auto kernel = conv3x3_kernel<Traits>;
  const cudaError_t allowed = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  if (allowed != cudaSuccess) return allowed;
  ConvArguments part = arguments;
  for (int64_t n = 0; n < p.n; n += kMaxGridYZ) {
    const int64_t images = p.n - n < kMaxGridYZ ? p.n - n : kMaxGridYZ;
    const int64_t pixel_bytes = n * p.h * p.w * Traits::Math::kBytes;
    const int64_t out_bytes = pixel_bytes * (listed ? p.c_total : p.c_out);
    part.x = arguments.x + n * arguments.x_bytes.n;
    part.out = arguments.out + out_bytes;
    if (arguments.residual != nullptr) part.residual = arguments.residual + out_bytes;
    if (arguments.kept != nullptr) part.kept = arguments.kept + pixel_bytes * p.c_out;
    const dim3 grid(static_cast<unsigned>(grid_x), static_cast<unsigned>(grid_y), static_cast<unsigned>(images));
    kernel<<<grid, Traits::kThreads, shared, stream>>>(part);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

inline bool on_vectors(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

// The arguments that every instance takes. From a tile to the next are tile_step pixels.
inline ConvArguments conv_arguments(const Conv3x3& p, const Conv3x3Layout& layout, int tile_step) {
  const int bytes = layout.element_bytes;
  const int64_t run = conv_run(layout), width = conv_tile_width(layout.columns);
  const bool listed = p.out_channels != nullptr;
  const auto whole = [bytes](int64_t elements) { return elements * bytes % 16 == 0; };
  const auto size = [](int64_t stride) { return stride < 0 ? -stride : stride; };
  ConvArguments a{};
  a.x = static_cast<const char*>(p.x);
  a.weights = static_cast<const char*>(p.packed);
  a.bias = reinterpret_cast<const float*>(a.weights + packed_weights(layout) * bytes);
  a.slope = a.bias + packed_columns(layout);
  a.residual = static_cast<const char*>(p.residual);
  a.out = static_cast<char*>(p.out);
  a.kept = static_cast<char*>(p.kept);
  a.in_channels = p.in_channels, a.out_channels = p.out_channels;
  a.x_bytes = {p.xs.n * bytes, p.xs.c * bytes, p.xs.h * bytes, p.xs.w * bytes};
  a.h = static_cast<int>(p.h), a.w = static_cast<int>(p.w);
  a.c_in = static_cast<int>(p.c_in), a.c_out = static_cast<int>(p.c_out), a.c_total = static_cast<int>(p.c_total);
  a.r = static_cast<int>(p.r), a.run = static_cast<int>(run);
  a.column_blocks = layout.column_blocks, a.stages = layout.stages;
  // 32 bytes more than whole vectors: with 48 channels shuffled by 4, the pieces of a warp then hit all banks.
  a.staged_pitch = static_cast<int>(ceil_div(width * run * bytes, 16) * 16 + 32);
  a.scale = p.scale;
  a.activation = p.activation;
  a.store = whole_vectors(layout)       ? ConvStore::vectors
            : layout.column_blocks == 1 ? ConvStore::staged
                                        : ConvStore::assembled;
  a.plain_relu = a.store == ConvStore::vectors && p.activation == Activation::relu && p.residual == nullptr &&
                 p.kept == nullptr && !listed && p.scale == 1.0f;
  // Strides of dimensions of size 1 say nothing.
  a.x_by_vectors = p.in_channels == nullptr && p.xs.c == 1 && whole(p.c_in) && (p.n == 1 || whole(p.xs.n)) &&
                   (p.h == 1 || whole(p.xs.h)) && (p.w == 1 || whole(p.xs.w)) && on_vectors(p.x);
  a.lanes_along_w = size(p.xs.w) < size(p.xs.c) || p.c_in * bytes <= 32;
  const bool outputs = on_vectors(p.out) && on_vectors(p.residual);
  a.rows_by_vectors = whole(p.w * run) && whole(tile_step * run) && outputs;
  const int64_t units = width * run * bytes / (a.rows_by_vectors ? 16 : bytes);
  a.staged_side = static_cast<int>(units < kConvThreads ? units : kConvThreads);
  a.staged_together = kConvThreads / a.staged_side;
  a.run_inverse = small_inverse(a.run), a.side_inverse = small_inverse(a.staged_side);
  a.listed_by_vectors = listed && whole(p.c_total) && outputs;
  return a;
}

inline ConvArguments conv_arguments(const Conv3x3& p, const Conv3x3Layout& layout) {
  return conv_arguments(p, layout, conv_tile_width(layout.columns));
}

// The instances of an arithmetic with 16-bit elements; the heights are those of conv_heights.
template <class Math>
cudaError_t launch_16_bit(const Conv3x3& p, int tile_height, cudaStream_t stream) {
  const Conv3x3Layout layout = conv3x3_layout(p.c_in, p.c_out, p.r, p.dtype, p.exact);
  const ConvArguments a = conv_arguments(p, layout);
  switch (layout.columns * 100 + tile_height) {
    case 6408: return launch_tiles<ConvTraits<Math, 64, 8>>(p, a, stream);
    case 6410: return launch_tiles<ConvTraits<Math, 64, 10>>(p, a, stream);
    case 6412: return launch_tiles<ConvTraits<Math, 64, 12>>(p, a, stream);
    case 6414: return launch_tiles<ConvTraits<Math, 64, 14>>(p, a, stream);
    case 6416: return launch_tiles<ConvTraits<Math, 64, 16>>(p, a, stream);
    case 4808: return launch_tiles<ConvTraits<Math, 48, 8>>(p, a, stream);
    case 4812: return launch_tiles<ConvTraits<Math, 48, 12>>(p, a, stream);
    case 4816: return launch_tiles<ConvTraits<Math, 48, 16>>(p, a, stream);
    case 3208: return launch_tiles<ConvTraits<Math, 32, 8>>(p, a, stream);
    case 3212: return launch_tiles<ConvTraits<Math, 32, 12>>(p, a, stream);
    case 3216: return launch_tiles<ConvTraits<Math, 32, 16>>(p, a, stream);
    case 1608: return launch_tiles<ConvTraits<Math, 16, 8>>(p, a, stream);
    case 1616: return launch_tiles<ConvTraits<Math, 16, 16>>(p, a, stream);
    case 808: return launch_tiles<ConvTraits<Math, 8, 8>>(p, a, stream);
    case 816: return launch_tiles<ConvTraits<Math, 8, 16>>(p, a, stream);
  }
  return cudaErrorInvalidValue;
}

// The same with float32 elements.
template <class Math>
cudaError_t launch_32_bit(const Conv3x3& p, int tile_height, cudaStream_t stream) {
  const Conv3x3Layout layout = conv3x3_layout(p.c_in, p.c_out, p.r, p.dtype, p.exact);
  const ConvArguments a = conv_arguments(p, layout);
  switch (layout.columns * 100 + tile_height) {
    case 6408: return launch_tiles<ConvTraits<Math, 64, 8>>(p, a, stream);
    case 4808: return launch_tiles<ConvTraits<Math, 48, 8>>(p, a, stream);
    case 3208: return launch_tiles<ConvTraits<Math, 32, 8>>(p, a, stream);
    case 1608: return launch_tiles<ConvTraits<Math, 16, 8>>(p, a, stream);
    case 808: return launch_tiles<ConvTraits<Math, 8, 8>>(p, a, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace vsr::cuda
