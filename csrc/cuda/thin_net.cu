// Choice of the tiles of a chain of thin convolutions for the current device.
//
// The plan of the kernel itself is in thin_net_kernel.cuh.

#include <cstdint>

#include "cuda/conv3x3.h"
#include "cuda/device.h"
#include "cuda/thin_net.h"
#include "cuda/thin_net_launch.cuh"

namespace vsr::cuda {
namespace {

// Columns that can be stored at once where `run` of them are neighbours.
int piece_of(int64_t run, const void* first, const void* second) {
  const auto on = [](const void* pointer, unsigned bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; };
  if (run % 4 == 0 && on(first, 8) && on(second, 8)) return 4;
  return run % 2 == 0 && on(first, 4) && on(second, 4) ? 2 : 1;
}

ThinArguments thin_arguments(const ConvChain& p, int rows) {
  constexpr int kBytes = 2;
  const int layers = p.shape.layers;
  const auto whole = [](int64_t elements) { return elements * kBytes % 16 == 0; };
  ThinArguments a{};
  a.x = static_cast<const char*>(p.x), a.residual = static_cast<const char*>(p.residual);
  a.out = static_cast<char*>(p.out), a.kept = static_cast<char*>(p.kept);
  for (int layer = 0; layer < layers; ++layer) {
    const Conv3x3Layout layout = thin_layout(p.shape, layer, p.dtype);
    a.weights[layer] = static_cast<const char*>(p.packed[layer]);
    a.bias[layer] = reinterpret_cast<const float*>(a.weights[layer] + packed_weights(layout) * kBytes);
    a.layer[layer] = {layout.column_blocks, static_cast<int>(layout.c_out), p.activation[layer]};
  }
  a.x_bytes = {p.xs.n * kBytes, p.xs.c * kBytes, p.xs.h * kBytes, p.xs.w * kBytes};
  a.tiles_x = static_cast<int>(ceil_div(p.w, thin_tile_width(layers)));
  a.tiles_y = static_cast<int>(ceil_div(p.h, rows));
  a.tiles = static_cast<int>(p.n * a.tiles_x * a.tiles_y);
  a.layers = layers, a.rows = rows;
  a.h = static_cast<int>(p.h), a.w = static_cast<int>(p.w), a.c_in = static_cast<int>(p.shape.c_in);
  a.r = static_cast<int>(p.shape.r), a.run = static_cast<int>(p.shape.c_out[layers - 1] / p.shape.r);
  a.scale = p.scale;
  a.piece = piece_of(a.run, p.out, p.residual), a.kept_piece = piece_of(p.shape.c_out[0], p.kept, nullptr);
  a.layers_at = thin_shared_bytes(p.shape, rows) - kThinLayerBytes;
  // Strides of dimensions of size 1 say nothing.
  a.x_by_vectors = p.xs.c == 1 && whole(p.shape.c_in) && (p.n == 1 || whole(p.xs.n)) && (p.h == 1 || whole(p.xs.h)) &&
                   (p.w == 1 || whole(p.xs.w)) && on_vectors(p.x);
  a.kept_before_activation = p.kept_before_activation;
  return a;
}

cudaError_t launch(const ConvChain& p, int rows, const Gpu& gpu, cudaStream_t stream) {
  constexpr int64_t kMax = 0x7fffffff;
  if (!thin_runs(p.shape, p.dtype) || !conv3x3_runs_on(p.dtype, gpu.capability)) return cudaErrorNotSupported;
  if (rows < 2 || rows % 2 != 0 || p.h > kMax - 64 || p.w > kMax - 64) return cudaErrorInvalidValue;
  if (p.n * p.h * p.w == 0) return cudaSuccess;
  if (p.n * ceil_div(p.h, rows) * ceil_div(p.w, thin_tile_width(p.shape.layers)) > kMax) return cudaErrorInvalidValue;
  const ThinArguments a = thin_arguments(p, rows);
  const int64_t resident = static_cast<int64_t>(gpu.multiprocessors) * thin_blocks(p.shape, rows, gpu);
  if (resident == 0) return cudaErrorInvalidValue;
  const int64_t blocks = a.tiles < resident ? a.tiles : resident;
  const int shared = thin_shared_bytes(p.shape, rows);
  return p.dtype == DType::bf16 ? launch_thin_net_bf16(a, blocks, shared, stream)
                                : launch_thin_net_f16(a, blocks, shared, stream);
}

}  // namespace

cudaError_t launch_conv_chain(const ConvChain& p, int rows, cudaStream_t stream) {
  Gpu gpu{};
  const cudaError_t error = current_gpu(gpu);
  return error == cudaSuccess ? launch(p, rows, gpu, stream) : error;
}

cudaError_t launch_conv_chain(const ConvChain& p, cudaStream_t stream) {
  Gpu gpu{};
  const cudaError_t error = current_gpu(gpu);
  if (error != cudaSuccess) return error;
  if (!thin_runs(p.shape, p.dtype)) return cudaErrorNotSupported;
  const int rows = thin_tile(p.shape, p.n, p.h, p.w, gpu).rows;
  return rows == 0 ? cudaErrorNotSupported : launch(p, rows, gpu, stream);
}

}  // namespace vsr::cuda
