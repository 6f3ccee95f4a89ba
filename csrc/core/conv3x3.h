// Description of a 3x3 convolution on tensor cores: the call, how it is cut into tiles, the order of packed weights.
#pragma once

#include "core/activation.h"
#include "core/dtype.h"
#include "core/platform.h"
#include "core/strides.h"

namespace vsr {

// out = residual + scale * pixel_shuffle(act(conv(x, weight) + bias), r). x may have any strides and is read fastest
// dense channels_last; the other tensors are dense channels_last. Weight, bias and slope come packed (Conv3x3Pack) for
// the same layout. Pointers need the alignment of their elements; where whole_vectors(layout) holds, out, residual and
// kept need that of 16 bytes.
//
// With in_channels, x is x[:, in_channels]. With out_channels, out is the residual, to whose channels out_channels the
// rest is added; r must be 1 then, and C_out not 0. Both are lists in device memory; that entries are in range, and
// those of out_channels distinct, is for the caller to see to.
struct Conv3x3 {
  const void* x;                // (N, C_x, H, W), strides xs; C_x = C_in unless in_channels picks
  const void* packed;           // 16-byte aligned
  const void* residual;         // as out, or null for zeros
  void* out;                    // (N, r H, r W, C_out / r^2), or (N, H, W, C_total) with out_channels; never residual
  void* kept;                   // null, or (N, r H, r W, C_out / r^2): pixel_shuffle(conv(x, weight) + bias, r)
  const int64_t* in_channels;   // C_in channels of x, or null
  const int64_t* out_channels;  // C_out channels of out, or null
  Strides xs;
  int64_t n, h, w;
  int64_t c_in, c_out;
  int64_t c_total;  // channels of residual and out; read only with out_channels
  int64_t r;
  float scale;
  Activation activation;
  DType dtype;
  bool exact;  // float32 as three TF32 products instead of one
};

// Whether outputs need shared memory for all sums of a tile (conv_assembled_bytes).
VSR_HOST_DEVICE constexpr bool conv_assembles(const Conv3x3& p) {
  return p.out_channels != nullptr || p.kept != nullptr;
}

// How the channels of a call are cut. It follows from the channel counts, r and the arithmetic alone, so that weights
// are packed once and serve any image.
//
// A block computes `columns` output channels of its pixels. It walks the input in blocks of tile_channels, each of k
// blocks of k_channels (32 bytes of a pixel: the depth of one MMA). A stage is the slice of weights that passes through
// shared memory at a time: k_per_stage k blocks of one kernel column dx, all three kernel rows.
struct Conv3x3Layout {
  int64_t c_in, c_out, r;
  int columns;         // 8, 16, 32, 48 or 64
  int column_blocks;   // covering C_out
  int element_bytes;   // 2 or 4
  int parts;           // 2 where weights are stored as a sum of two TF32 numbers
  int k_channels;      // 16, or 8 of float32
  int tile_channels;   // input channels of a pixel in shared memory
  int channel_blocks;  // covering C_in
  int k_per_stage;
  int stages;  // per column block
};

constexpr int kConvThreads = 128;

// Few output channels leave registers for twice the pixels; the halved depth then keeps the tile small.
VSR_HOST_DEVICE constexpr int conv_tile_width(int columns) { return columns >= 48 ? 16 : 32; }
VSR_HOST_DEVICE constexpr int conv_pixel_bytes(int columns) { return columns >= 48 ? 128 : 64; }
VSR_HOST_DEVICE constexpr int conv_k_per_stage(int columns) { return columns >= 32 ? 1 : 2; }
VSR_HOST_DEVICE constexpr int conv_stage_bytes(int columns, int parts) {
  return conv_k_per_stage(columns) * 3 * parts * columns * 32;
}
// Stages in shared memory: what is being read and what is on its way. Weights in two parts take twice the room and
// three times the products, behind which one stage has time to arrive.
VSR_HOST_DEVICE constexpr int conv_slots(int parts) { return parts == 1 ? 4 : 2; }
VSR_HOST_DEVICE constexpr int conv_warps_across_columns(int columns) { return columns == 64 ? 2 : 1; }
// Bytes of shared memory of a block whose tile is `rows` high.
VSR_HOST_DEVICE constexpr int conv_shared_bytes(int columns, int parts, int rows) {
  return (rows + 2) * (conv_tile_width(columns) + 2) * conv_pixel_bytes(columns) +
         conv_slots(parts) * conv_stage_bytes(columns, parts);
}

// The same where outputs are assembled from float32 sums in shared memory, kConvListed channels of the output at a
// time.
constexpr int kConvListed = 64;
VSR_HOST_DEVICE constexpr int conv_assembled_bytes(int columns, int rows) {
  return (rows * conv_tile_width(columns) * columns + kConvListed) * 4;
}

VSR_HOST_DEVICE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

VSR_HOST_DEVICE constexpr int conv_columns(int64_t c_out) {
  if (c_out <= 16) return c_out <= 8 ? 8 : 16;
  if (c_out <= 48) return c_out <= 32 ? 32 : 48;
  return ceil_div(c_out, 48) * 48 < ceil_div(c_out, 64) * 64 ? 48 : 64;
}

// Stages of one dx of a block of input channels; no channels at all are one block of padding.
VSR_HOST_DEVICE constexpr int conv_stages_per_dx(const Conv3x3Layout& p, int block) {
  const int64_t left = p.c_in - static_cast<int64_t>(block) * p.tile_channels;
  const int64_t channels = left < 1 ? 1 : left < p.tile_channels ? left : p.tile_channels;
  return static_cast<int>(ceil_div(channels, static_cast<int64_t>(p.k_channels) * p.k_per_stage));
}

// With `columns` output channels to a block, which one convolution by itself chooses from their number.
VSR_HOST_DEVICE constexpr Conv3x3Layout conv3x3_layout(int64_t c_in, int64_t c_out, int64_t r, DType dtype, bool exact,
                                                       int columns) {
  Conv3x3Layout p{};
  p.c_in = c_in, p.c_out = c_out, p.r = r;
  p.columns = columns;
  p.column_blocks = static_cast<int>(ceil_div(c_out, p.columns));
  p.element_bytes = dtype == DType::f32 ? 4 : 2;
  p.parts = dtype == DType::f32 && exact ? 2 : 1;
  p.k_channels = 32 / p.element_bytes;
  p.tile_channels = conv_pixel_bytes(p.columns) / p.element_bytes;
  p.channel_blocks = c_in == 0 ? 1 : static_cast<int>(ceil_div(c_in, p.tile_channels));
  p.k_per_stage = conv_k_per_stage(p.columns);
  for (int block = 0; block < p.channel_blocks; ++block) p.stages += 3 * conv_stages_per_dx(p, block);
  return p;
}
VSR_HOST_DEVICE constexpr Conv3x3Layout conv3x3_layout(int64_t c_in, int64_t c_out, int64_t r, DType dtype,
                                                       bool exact) {
  return conv3x3_layout(c_in, c_out, r, dtype, exact, conv_columns(c_out));
}

// Columns are the output channels in the order of memory after the shuffle: sub-row, sub-column, channel. A run is what
// one pixel writes next to each other: its columns of one sub-row.
VSR_HOST_DEVICE constexpr int64_t conv_run(const Conv3x3Layout& p) { return p.c_out / p.r; }
VSR_HOST_DEVICE inline int64_t conv_channel(const Conv3x3Layout& p, int64_t column) {
  const int64_t shuffled = p.c_out / (p.r * p.r);
  return column % shuffled * p.r * p.r + column / shuffled;
}

// Whether runs consist of whole vectors of 16 bytes, which then go straight from registers to memory.
VSR_HOST_DEVICE constexpr bool whole_vectors(const Conv3x3Layout& p) { return conv_run(p) * p.element_bytes % 16 == 0; }

// Column, within the `tiles` n-tiles of a warp, of MMA column 2 * quad + odd of n-tile t. A lane holds the MMA columns
// 2 * quad and 2 * quad + 1 of every n-tile; the permutation makes neighbours of what it holds: `group` n-tiles give it
// 16 bytes, or all n-tiles together give it one piece (pieces: how runs that are no whole vectors are staged). Where t
// is known to the compiler, nothing is divided even if `pieces` is not.
VSR_HOST_DEVICE constexpr int conv_warp_column(int t, int quad, int tiles, int group, bool pieces) {
  const int first = t / group * group;
  const int size = tiles - first < group ? tiles - first : group;
  return 2 * t + (pieces ? 2 * tiles * quad : 2 * size * quad + 6 * first);
}

// What an element of the packed weights holds; channel_out < 0 where it is padding.
struct PackedWeight {
  int64_t channel_out, channel_in;
  int ky, kx, part;
};

VSR_HOST_DEVICE constexpr int64_t packed_weights(const Conv3x3Layout& p) {
  return static_cast<int64_t>(p.column_blocks) * p.stages * (conv_stage_bytes(p.columns, p.parts) / p.element_bytes);
}

// Order: [column block][stage][k block][ky][part][unit of two n-tiles][lane][register][element]. The four registers of
// a lane are the B fragments of the two n-tiles; with 8 columns a unit is one n-tile and two registers.
VSR_HOST_DEVICE inline PackedWeight packed_weight(const Conv3x3Layout& p, int64_t index) {
  const auto digit = [&index](int64_t size) {
    const int64_t d = index % size;
    index /= size;
    return static_cast<int>(d);
  };
  const int per_register = 4 / p.element_bytes, unit_tiles = p.columns == 8 ? 1 : 2;
  const int element = digit(per_register), half = digit(2), tile_in_unit = digit(unit_tiles), lane = digit(32);
  const int unit = digit(p.columns / 8 / unit_tiles), part = digit(p.parts), ky = digit(3), k = digit(p.k_per_stage);
  int stage = digit(p.stages);
  const int64_t column_block = index;

  const int full = 3 * (p.tile_channels / p.k_channels) / p.k_per_stage;  // stages of a whole channel block
  const int block = stage / full;
  const int per_dx = conv_stages_per_dx(p, block);
  stage -= block * full;
  const int kx = stage / per_dx, k_block = stage % per_dx * p.k_per_stage + k;
  const int64_t channel_in = static_cast<int64_t>(block) * p.tile_channels + k_block * p.k_channels +
                             per_register * (lane % 4) + 4 * per_register * half + element;

  const int warps = conv_warps_across_columns(p.columns), tiles = p.columns / 8 / warps;
  const int tile = unit * unit_tiles + tile_in_unit, quad = lane / 4 / 2, odd = lane / 4 % 2;
  const int64_t column = column_block * p.columns + tile / tiles * tiles * 8 +
                         conv_warp_column(tile % tiles, quad, tiles, 8 / p.element_bytes, !whole_vectors(p)) + odd;
  const bool inside = channel_in < p.c_in && column < p.c_out;
  return {inside ? conv_channel(p, column) : -1, channel_in, ky, kx, part};
}

// Behind the weights: a bias and a slope per column, as float32.
VSR_HOST_DEVICE constexpr int64_t packed_columns(const Conv3x3Layout& p) {
  return static_cast<int64_t>(p.column_blocks) * p.columns;
}
VSR_HOST_DEVICE constexpr int64_t packed_bytes(const Conv3x3Layout& p) {
  return packed_weights(p) * p.element_bytes + 2 * packed_columns(p) * 4;
}

// With `transposed`, what is packed is the convolution whose output is the gradient of x: weight'(ci, co, ky, kx) =
// weight(co, ci, 2 - ky, 2 - kx). The layout is that of the convolution packed for: its c_in is C_out of the weight.
struct Conv3x3Pack {
  const void* weight;   // (C_out, C_in, 3, 3), any strides; (C_in, C_out, 3, 3) of the layout if transposed
  const void* bias;     // (C_out,) of the layout, dense, or null
  const void* slope;    // prelu: slope_count values, dense
  void* packed;         // packed_bytes(layout), 16-byte aligned
  Strides strides;      // of weight
  int64_t slope_count;  // 1 or C_out
  float number;         // slope of leaky_relu
  Activation activation;
  DType dtype;
  bool transposed;
  Conv3x3Layout layout;
};

// What the choice of a tile height depends on.
struct ConvDevice {
  int multiprocessors;
  int shared_per_block;
  int shared_per_multiprocessor;
};

// Tile heights that kernels exist for; 0 ends the list.
constexpr int kConvHeights[][6] = {
    {8, 10, 12, 14, 16, 0}, {8, 12, 16, 0, 0, 0}, {8, 16, 0, 0, 0, 0}, {8, 0, 0, 0, 0, 0}};

constexpr const int* conv_heights(int columns, int element_bytes) {
  if (element_bytes == 4) return kConvHeights[3];
  return kConvHeights[columns == 64 ? 0 : columns >= 32 ? 1 : 2];
}

// The tile height with the least work on the busiest multiprocessor: rounds of tiles, times the rows of a tile and one
// more for its start and end. Among equals the one with more blocks per multiprocessor. 0 if none fits the device.
// `assembles`: conv_assembles of the call.
inline int conv_tile_height(const Conv3x3Layout& p, int64_t n, int64_t h, int64_t w, bool assembles,
                            const ConvDevice& device) {
  constexpr int kReserved = 1024;  // shared memory that the system takes of each block
  constexpr int kBlocksByRegisters = 3;
  int best = 0, best_blocks = 0;
  int64_t best_cost = 0;
  for (const int* height = conv_heights(p.columns, p.element_bytes); *height != 0; ++height) {
    const int plain = conv_shared_bytes(p.columns, p.parts, *height);
    const int assembled = assembles ? conv_assembled_bytes(p.columns, *height) : 0;
    const int shared = plain > assembled ? plain : assembled;
    if (shared > device.shared_per_block) continue;
    const int64_t tiles = n * p.column_blocks * ceil_div(h, *height) * ceil_div(w, conv_tile_width(p.columns));
    const int64_t cost = ceil_div(tiles, device.multiprocessors) * (*height + 1);
    const int fitting = device.shared_per_multiprocessor / (shared + kReserved);
    const int blocks = fitting < kBlocksByRegisters ? fitting : kBlocksByRegisters;
    if (best == 0 || cost < best_cost || (cost == best_cost && blocks > best_blocks))
      best = *height, best_cost = cost, best_blocks = blocks;
  }
  return best;
}

}  // namespace vsr
