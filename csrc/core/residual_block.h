// Description of a residual block: the call, its two plans, and the choice between them.
#pragma once

#include <cstdint>

#include "core/activation.h"
#include "core/conv3x3.h"
#include "core/dtype.h"
#include "core/launch_cost.h"
#include "core/thin_net.h"

namespace vsr {

// fused: both convolutions in one launch, the layer between them in shared memory only; each tile computes the edge of
// that layer again. two_launches: the layer goes through memory, and no product is computed twice.
enum class BlockPlan { fused, two_launches };

// out = x + scale * conv(act(conv(x, weight1) + bias1), weight2) + bias2. All tensors are dense channels_last; weights,
// biases and slope come packed (Conv3x3Pack) for block_layouts(). Pointers need the alignment of their elements; those
// of tensors whose pixels are whole vectors of 16 bytes need that of 16.
struct ResidualBlock {
  const void* x;        // (N, H, W, C)
  const void* packed1;  // 16-byte aligned
  const void* packed2;  // 16-byte aligned
  void* out;            // (N, H, W, C), not x
  void* hidden;         // null, or (N, H, W, C_mid): the layer between, kept for the backward
  void* scratch;        // (N, H, W, C_mid) where block_needs_scratch(); else not read
  int64_t n, h, w;
  int64_t c, c_mid;
  float scale;
  Activation activation;
  DType dtype;
  bool exact;                     // float32 as three TF32 products instead of one
  bool hidden_before_activation;  // keep the values before the activation: their sign is all there is to know for prelu
  BlockPlan plan;
};

// Channels that the fused kernel of this block pads both layers to; 0 where there is none: float32 would need twice the
// room, and more than 64 channels another tile per block of channels.
constexpr int fused_columns(int64_t c, int64_t c_mid, DType dtype) {
  const int64_t widest = c > c_mid ? c : c_mid, narrowest = c < c_mid ? c : c_mid;
  if (dtype == DType::f32 || narrowest < 1 || widest > 64) return 0;
  return widest <= kThinChannels ? kThinChannels : widest <= 32 ? 32 : 64;
}

struct BlockLayouts {
  Conv3x3Layout first, second;
};

// How the weights of a plan are packed. The plans agree where both channel counts pad to the same number.
inline BlockLayouts block_layouts(int64_t c, int64_t c_mid, DType dtype, bool exact, BlockPlan plan) {
  if (plan == BlockPlan::two_launches)
    return {conv3x3_layout(c, c_mid, 1, dtype, exact), conv3x3_layout(c_mid, c, 1, dtype, exact)};
  const int columns = fused_columns(c, c_mid, dtype);
  return {conv3x3_layout(c, c_mid, 1, dtype, exact, columns), conv3x3_layout(c_mid, c, 1, dtype, exact, columns)};
}

// Two launches pass the activated layer through memory; what is kept serves only if it is that.
inline bool block_needs_scratch(const ResidualBlock& p) {
  return p.plan == BlockPlan::two_launches && (p.hidden == nullptr || p.hidden_before_activation);
}

// Output rows of a tile that kernels exist for; 0 ends the list. Low tiles are for images with few of them.
constexpr int kBlockHeights[] = {6, 14, 0};
constexpr int kWideBlockHeights[] = {6, 10, 14, 0};
constexpr const int* block_heights(int columns) { return columns == 64 ? kBlockHeights : kWideBlockHeights; }

// Shared memory of a fused block with 32 or 64 columns: the tile of x, over which the layer between is written.
constexpr int block_shared_bytes(int columns, int height) { return conv_shared_bytes(columns, 1, height + 2); }
// Output columns of a tile: the second convolution computes two more, which do not count.
constexpr int block_tile_width(int columns) { return conv_tile_width(columns) - 2; }

inline TileWork block_work(int64_t c, int64_t c_mid, int64_t n, int64_t h, int64_t w, int columns, int height) {
  const double pixels = static_cast<double>(n) * static_cast<double>(h) * static_cast<double>(w);
  const int width = conv_tile_width(columns);
  TileWork work{};
  work.tiles = n * ceil_div(h, height) * ceil_div(w, block_tile_width(columns));
  const double steps1 = 9.0 * static_cast<double>(ceil_div(c, 16)),
               steps2 = 9.0 * static_cast<double>(ceil_div(c_mid, 16));
  work.products = width / 16.0 * (columns / 8.0) * ((height + 2) * steps1 + height * steps2);
  work.instructions = columns == 64 ? 1.2 : 2.0;
  work.wavefronts = 1.0;
  const double weights = (steps1 + steps2) * columns * 32.0;
  const double bytes = static_cast<double>(c) * 2.0;
  work.asked =
      static_cast<double>(work.tiles) * ((height + 4.0) * (width + 2.0) * bytes + weights) + 2 * pixels * bytes;
  work.compulsory = 2 * pixels * bytes;
  work.shared_bytes = block_shared_bytes(columns, height);
  work.blocks = 1;
  return work;
}

// The height of the fused block's tile with the least time, and that time; 0 if none fits the device.
struct BlockTile {
  int height;
  double cycles;
};
inline BlockTile block_tile(int64_t c, int64_t c_mid, int64_t n, int64_t h, int64_t w, DType dtype, const Gpu& gpu) {
  const int columns = fused_columns(c, c_mid, dtype);
  BlockTile best{};
  if (columns < 32) return best;
  for (const int* height = block_heights(columns); *height != 0; ++height) {
    if (block_shared_bytes(columns, *height) > gpu.shared_per_block) continue;
    const double cycles = launch_cycles(block_work(c, c_mid, n, h, w, columns, *height), gpu);
    if (best.height == 0 || cycles < best.cycles) best = {*height, cycles};
  }
  return best;
}

// Cycles that the model gives the plans; fused is 0 where the device or the arithmetic has no such kernel.
struct BlockTimes {
  double fused, two;
};
inline BlockTimes block_times_of(int64_t c, int64_t c_mid, int64_t n, int64_t h, int64_t w, DType dtype, bool exact,
                                 const Gpu& gpu) {
  BlockTimes times{};
  const int columns = fused_columns(c, c_mid, dtype);
  if (columns == kThinChannels) {
    times.fused = thin_tile(thin_block(c, c_mid), n, h, w, gpu).cycles;
  } else if (columns > 0) {
    times.fused = block_tile(c, c_mid, n, h, w, dtype, gpu).cycles;
  }
  const BlockLayouts layouts = block_layouts(c, c_mid, dtype, exact, BlockPlan::two_launches);
  times.two = launch_cycles(conv_work(layouts.first, n, h, w, 1, gpu), gpu) +
              launch_cycles(conv_work(layouts.second, n, h, w, 2, gpu), gpu);
  return times;
}

// The plan with the least predicted time on the device. Two launches where the plans are packed differently: weights
// are kept packed for single convolutions, and to pack them again costs more than a launch saved.
inline BlockPlan choose_block_plan(int64_t c, int64_t c_mid, int64_t n, int64_t h, int64_t w, DType dtype, bool exact,
                                   const Gpu& gpu) {
  const int columns = fused_columns(c, c_mid, dtype);
  if (columns == 0 || conv_columns(c) != columns || conv_columns(c_mid) != columns) return BlockPlan::two_launches;
  const BlockTimes times = block_times_of(c, c_mid, n, h, w, dtype, exact, gpu);
  return times.fused > 0.0 && times.fused <= times.two ? BlockPlan::fused : BlockPlan::two_launches;
}

}  // namespace vsr
