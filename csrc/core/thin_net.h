// Description of a chain of thin 3x3 convolutions that runs as one launch, and the choice of its tiles.
#pragma once

#include <cstdint>

#include "core/activation.h"
#include "core/conv3x3.h"
#include "core/dtype.h"
#include "core/launch_cost.h"

namespace vsr {

constexpr int kThinChannels = 16;        // of x and of what is between layers, at most
constexpr int kThinOutputChannels = 48;  // of the last layer, before the shuffle
constexpr int kThinLayers = 4;           // at most; at least two

// Channel counts of a chain.
struct ThinShape {
  int layers;
  int64_t c_in;
  int64_t c_out[kThinLayers];
  int64_t r;  // of the pixel shuffle behind the last layer
};

// out = residual + scale * pixel_shuffle(layer_L(... layer_1(x)), r), where layer(v) = act(conv(v, weight) + bias). out
// and residual are dense channels_last; weights, biases and slopes come packed (Conv3x3Pack) for thin_layout(). 16-bit
// floats only. Pointers need the alignment of their elements.
struct ConvChain {
  const void* x;         // (N, C_in, H, W), strides xs; read fastest dense channels_last with 8 or 16 channels
  const void* residual;  // as out, or null
  void* out;             // (N, r H, r W, C_L / r^2), not x or residual
  void* kept;            // null, or (N, H, W, C_1): what the first layer gives
  const void* packed[kThinLayers];  // 16-byte aligned
  Activation activation[kThinLayers];
  ThinShape shape;
  Strides xs;
  int64_t n, h, w;
  float scale;
  DType dtype;
  bool kept_before_activation;
};

// How the weights of layer `layer` are packed.
inline Conv3x3Layout thin_layout(const ThinShape& shape, int layer, DType dtype) {
  const int64_t c_in = layer == 0 ? shape.c_in : shape.c_out[layer - 1];
  return conv3x3_layout(c_in, shape.c_out[layer], layer == shape.layers - 1 ? shape.r : 1, dtype, false, kThinChannels);
}

// Whether the kernel can do it.
inline bool thin_runs(const ThinShape& shape, DType dtype) {
  if (dtype == DType::f32 || shape.layers < 2 || shape.layers > kThinLayers) return false;
  if (shape.c_in < 1 || shape.c_in > kThinChannels) return false;
  for (int layer = 0; layer < shape.layers; ++layer) {
    const bool last = layer == shape.layers - 1;
    if (shape.c_out[layer] < 1 || shape.c_out[layer] > (last ? kThinOutputChannels : kThinChannels)) return false;
  }
  return shape.r >= 1 && shape.c_out[shape.layers - 1] % (shape.r * shape.r) == 0;
}

// A pass computes 16 output channels of a layer.
constexpr int64_t thin_passes(const ThinShape& shape, int layer) { return ceil_div(shape.c_out[layer], kThinChannels); }
inline int thin_all_passes(const ThinShape& shape) {
  int64_t passes = 0;
  for (int layer = 0; layer < shape.layers; ++layer) passes += thin_passes(shape, layer);
  return static_cast<int>(passes);
}

// A tile: every layer computes kThinWidth columns, and two rows less than the one before. Of the last one's columns
// those count that no missing neighbour has reached.
constexpr int kThinWidth = 32;
constexpr int kThinPixelBytes = 32;
constexpr int kThinRowBytes = (kThinWidth + 2) * kThinPixelBytes;
constexpr int kThinPassBytes = 9 * 512 + 2 * 16 * 4;  // weights, bias, slope
constexpr int kThinLayerBytes = 16 * kThinLayers;     // what threads have to know of the layers
VSR_HOST_DEVICE constexpr int thin_tile_width(int layers) { return kThinWidth - 2 * (layers - 1); }
VSR_HOST_DEVICE constexpr int thin_input_rows(int layers, int rows) { return rows + 2 * layers; }
inline int thin_shared_bytes(const ThinShape& shape, int rows) {
  const int buffers = thin_input_rows(shape.layers, rows) + thin_input_rows(shape.layers - 1, rows);
  return buffers * kThinRowBytes + thin_all_passes(shape) * kThinPassBytes + kThinLayerBytes;
}

// Blocks on a multiprocessor; registers allow kThinBlocks.
constexpr int kThinBlocks = 3;
inline int thin_blocks(const ThinShape& shape, int rows, const Gpu& gpu) {
  const int shared = thin_shared_bytes(shape, rows);
  if (shared > gpu.shared_per_block) return 0;
  const int fitting = gpu.shared_per_multiprocessor / (shared + 1024);
  return fitting < kThinBlocks ? fitting : kThinBlocks;
}

inline TileWork thin_work(const ThinShape& shape, int64_t n, int64_t h, int64_t w, int rows, const Gpu& gpu) {
  const double pixels = static_cast<double>(n) * static_cast<double>(h) * static_cast<double>(w);
  const double last = static_cast<double>(shape.c_out[shape.layers - 1]), c_in = static_cast<double>(shape.c_in);
  TileWork work{};
  work.tiles = n * ceil_div(h, rows) * ceil_div(w, thin_tile_width(shape.layers));
  const double step = 18.0 * gpu_rates(gpu.capability).tensor_cycles + 120.0;  // a row of a pass of a warp by itself
  for (int layer = 0; layer < shape.layers; ++layer) {
    const double computed = rows + 2.0 * (shape.layers - 1 - layer),
                 passes = static_cast<double>(thin_passes(shape, layer));
    work.products += computed * (kThinWidth / 16) * 18.0 * passes;
    work.latency += (computed / 2 + 2) * step * passes;
  }
  work.instructions = 3.6;
  work.wavefronts = 1.3;
  work.blocks = thin_blocks(shape, rows, gpu);
  const int64_t resident = static_cast<int64_t>(gpu.multiprocessors) * work.blocks;
  const double blocks = static_cast<double>(work.tiles < resident ? work.tiles : resident);
  work.asked = static_cast<double>(work.tiles) * thin_input_rows(shape.layers, rows) * (kThinWidth + 2) * c_in * 2 +
               blocks * thin_all_passes(shape) * kThinPassBytes + 2 * pixels * last * 2;
  work.compulsory = pixels * (c_in + 2 * last) * 2;
  work.shared_bytes = thin_shared_bytes(shape, rows);
  return work;
}

// Output rows of a tile: even, so that two halves of a block share them.
constexpr int kThinRows[] = {8, 16, 24};

// The height with the least time, and that time; 0 if none fits the device.
struct ThinTile {
  int rows;
  double cycles;
};
inline ThinTile thin_tile(const ThinShape& shape, int64_t n, int64_t h, int64_t w, const Gpu& gpu) {
  ThinTile best{};
  for (const int rows : kThinRows) {
    if (thin_blocks(shape, rows, gpu) == 0) continue;
    const double cycles = launch_cycles(thin_work(shape, n, h, w, rows, gpu), gpu);
    if (best.rows == 0 || cycles < best.cycles) best = {rows, cycles};
  }
  return best;
}

// A residual block as a chain: its second convolution has no activation.
inline ThinShape thin_block(int64_t c, int64_t c_mid) {
  ThinShape shape{};
  shape.layers = 2, shape.c_in = c, shape.c_out[0] = c_mid, shape.c_out[1] = c, shape.r = 1;
  return shape;
}

}  // namespace vsr
