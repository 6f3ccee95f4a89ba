// Chain of two to four thin 3x3 convolutions in one launch, for nets whose time is launches and bytes.
//
// Plan. Blocks of four warps stay and take tile after tile of `rows` x thin_tile_width pixels of the output.
//   Weights of all layers, with biases and slopes, are copied to shared memory once per block, in the order of B
//     fragments. They are used by passes of 16 output channels, which a warp holds in 36 registers.
//   Layers: two tiles in shared memory, read and written in turn, a barrier behind each layer. The tile of x has a halo
//     of one pixel per layer; each layer computes two rows less than the one before. Every layer computes the same 32
//     columns, of which ever fewer count: what was missing at the right edge moves in by two per layer.
//   Pixels are 32 bytes, 16 channels in two chunks, which bit 2 of the column swaps: eight neighbours then hit all
//   banks. Sums: two warps side by side, two above each other, 16 columns and half the rows each. Rows of input stream
//   by: the
//     three A fragments of a row (one per dx) go into the sums of the three output rows that the row touches, so that
//     nothing is read twice. The oldest is then finished.
//   Outside the image what a layer gives is zero, as the padding of the next one.
//   Last layer: a lane holds four neighbouring output columns of a pixel, in the order of memory after the shuffle;
//   they
//     are stored in one, two or four pieces, as runs allow.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/thin_net.h"
#include "cuda/async_copy.cuh"
#include "cuda/conv3x3_kernel.cuh"
#include "cuda/elements.cuh"
#include "cuda/memory.cuh"
#include "cuda/mma.cuh"
#include "cuda/unroll.cuh"

namespace vsr::cuda {

constexpr int kThinThreads = 128;

// What threads look up in shared memory of a layer.
struct alignas(16) ThinLayer {
  int passes, c_out;
  Activation activation;
};
static_assert(sizeof(ThinLayer) * kThinLayers == kThinLayerBytes);

// A launch, for the threads. Sizes in elements unless they say bytes.
struct ThinArguments {
  const char* x;
  const char* residual;
  char* out;
  char* kept;
  const char* weights[kThinLayers];
  const float* bias[kThinLayers];  // per column; slopes come behind
  ThinLayer layer[kThinLayers];
  Strides x_bytes;
  int tiles, tiles_x, tiles_y;
  int layers, rows;  // rows of an output tile
  int h, w, c_in;
  int r, run;  // columns of a pixel that are neighbours in out
  float scale;
  int piece, kept_piece;  // columns that are stored at once: 1, 2 or 4
  int layers_at;          // bytes from the start of shared memory to what describes the layers
  bool x_by_vectors;      // chunks of x begin on 16 bytes
  bool kept_before_activation;
};

// Where the four columns of a lane go in a dense channels_last image.
struct ThinPlace {
  char* image;
  const char* residual;  // or null
  int64_t offset[4];     // bytes to the columns at the first row and pixel of the lane
  int64_t line;          // bytes from a row of pixels to the next
  int right;             // bytes to the pixel eight columns on
  int columns;           // of the four, that exist
  int piece;             // columns stored at once
};

template <class Math>
struct ThinBlock {
  using Element = typename Math::Element;
  static constexpr int kBytes = Math::kBytes;
  static constexpr int kWarps = kThinThreads / 32;

  const ThinArguments& a;
  char* const memory;       // shared: two tiles, passes of weights, layers
  const uint32_t tiles[2];  // addresses
  const uint32_t passes;
  const int lane, warp, warp_x, warp_y;
  int64_t image;
  int x0, y0;

  __device__ __forceinline__ ThinBlock(const ThinArguments& arguments, char* shared)
      : a(arguments),
        memory(shared),
        tiles{shared_address(shared), shared_address(shared) + thin_input_rows(a.layers, a.rows) * kThinRowBytes},
        passes(tiles[1] + thin_input_rows(a.layers - 1, a.rows) * kThinRowBytes),
        lane(threadIdx.x & 31),
        warp(threadIdx.x >> 5),
        warp_x(warp & 1),
        warp_y(warp >> 1) {}

  static __device__ __forceinline__ int swizzled(int c, int chunk) { return (chunk ^ (c >> 2 & 1)) << 4; }

  // Once per block ----------------------------------------------------------------------------------------------------

  __device__ __forceinline__ char* at(uint32_t address) const { return memory + (address - tiles[0]); }

  __device__ __forceinline__ void load_weights(ThinLayer* layers) const {
    int pass = 0;
#pragma unroll
    for (int layer = 0; layer < kThinLayers; ++layer) {
      if (layer >= a.layers) break;
      if (threadIdx.x == 0) layers[layer] = a.layer[layer];
      const int columns = a.layer[layer].passes * kThinChannels;
#pragma unroll 1
      for (int own = 0; own < a.layer[layer].passes; ++own, ++pass) {
        const uint32_t to = passes + pass * kThinPassBytes;
        // Packed are two k blocks, of which the second is padding: half of the bytes of every dx.
        const char* from = a.weights[layer] + own * 3 * conv_stage_bytes(kThinChannels, 1);
#pragma unroll 1
        for (int tap = warp; tap < 9; tap += kWarps)
          copy16<0, 0>(to + tap * 512 + lane * 16, from + (tap + tap / 3 * 3) * 512 + lane * 16);
        if (threadIdx.x < 32) {
          const int column = own * kThinChannels + threadIdx.x % 16;
          reinterpret_cast<float*>(at(to + 9 * 512))[threadIdx.x] =
              a.bias[layer][column + (threadIdx.x < 16 ? 0 : columns)];
        }
      }
    }
  }

  // The columns behind those that layers compute are read, and do not count.
  __device__ __forceinline__ void clear_edge() const {
    const uint32_t zeros[4] = {0, 0, 0, 0};
#pragma unroll 1
    for (int i = threadIdx.x; i < 4 * thin_input_rows(a.layers - 1, a.rows); i += kThinThreads)
      store_shared(tiles[1] + (i >> 2) * kThinRowBytes + kThinWidth * kThinPixelBytes + (i & 3) * 16, zeros);
  }

  // Input -------------------------------------------------------------------------------------------------------------

  __device__ __forceinline__ void take_tile(int tile) {
    const int row = tile / a.tiles_x, picture = row / a.tiles_y;
    x0 = (tile - row * a.tiles_x) * thin_tile_width(a.layers);
    y0 = (row - picture * a.tiles_y) * a.rows;
    image = picture;
  }

  // A warp takes a row of the tile, a lane a chunk of every 16th pixel.
  __device__ __forceinline__ void load_x() const {
    const int rows = thin_input_rows(a.layers, a.rows), left = x0 - a.layers, top = y0 - a.layers;
    const int c = lane >> 1, chunk = lane & 1;
    const uint32_t to = tiles[0] + c * kThinPixelBytes + swizzled(c, chunk);
    const char* from = a.x + image * a.x_bytes.n + (left + c) * a.x_bytes.w + chunk * 16;
    int columns[3];  // all bits or none
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      const int x = left + c + 16 * i;
      columns[i] = chunk * 8 < a.c_in && static_cast<unsigned>(x) < static_cast<unsigned>(a.w) ? -1 : 0;
    }
    const char* line = from + (top + warp) * a.x_bytes.h;
    uint32_t target = to + warp * kThinRowBytes;
#pragma unroll 1
    for (int row = warp; row < rows; row += kWarps, line += kWarps * a.x_bytes.h, target += kWarps * kThinRowBytes) {
      const int below = top + row < 0 ? 0 : a.h - top - row;  // rows of the image from here
      copy16_below<0, 0, 0>(target, line, below & columns[0]);
      copy16_below<16 * kThinPixelBytes, 0, 0>(target, line + 16 * a.x_bytes.w, below & columns[1]);
      if (c < 2) copy16_below<32 * kThinPixelBytes, 0, 0>(target, line + 32 * a.x_bytes.w, below & columns[2]);
    }
  }

  // The same for any strides and channels: a lane takes a pixel.
  __device__ __forceinline__ void load_x_by_elements() const {
    const int pixels = thin_input_rows(a.layers, a.rows) * (kThinWidth + 2);
#pragma unroll 1
    for (int pixel = threadIdx.x; pixel < pixels; pixel += kThinThreads) {
      const int row = pixel / (kThinWidth + 2), c = pixel % (kThinWidth + 2);
      const int y = y0 - a.layers + row, x = x0 - a.layers + c;
      const bool inside = static_cast<unsigned>(y) < static_cast<unsigned>(a.h) &&
                          static_cast<unsigned>(x) < static_cast<unsigned>(a.w);
      const char* from = a.x + image * a.x_bytes.n + y * a.x_bytes.h + x * a.x_bytes.w;
      const int limit = inside ? a.c_in : 0;
      unroll<2>([&](auto i) {
        constexpr int kChunk = decltype(i)::value;
        uint32_t words[4];
        unroll<4>([&](auto j) {
          constexpr int kChannel = kChunk * 8 + 2 * decltype(j)::value;
          words[decltype(j)::value] = load_global16_below<kChannel>(from + kChannel * a.x_bytes.c, limit) |
                                      load_global16_below<kChannel + 1>(from + (kChannel + 1) * a.x_bytes.c, limit)
                                          << 16;
        });
        store_shared(tiles[0] + pixel * kThinPixelBytes + swizzled(c, kChunk), words);
      });
    }
  }

  // Sums --------------------------------------------------------------------------------------------------------------

  // What a pass reads from shared memory: fragments [dx][dy], and bias and slope of the lane's four columns.
  struct Pass {
    uint32_t b[3][3][4];
    float bias[4], slope[4];
  };
  __device__ __forceinline__ void load_pass(Pass& pass, int number) const {
    const uint32_t from = passes + number * kThinPassBytes;
    unroll<9>([&](auto i) {
      constexpr int kTap = decltype(i)::value;
      load_shared<kTap * 512>(pass.b[kTap / 3][kTap % 3], from + lane * 16);
    });
    const float4* const numbers = reinterpret_cast<const float4*>(at(from + 9 * 512)) + (lane & 3);
    const float4 bias = numbers[0], slope = numbers[4];
    pass.bias[0] = bias.x, pass.bias[1] = bias.y, pass.bias[2] = bias.z, pass.bias[3] = bias.w;
    pass.slope[0] = slope.x, pass.slope[1] = slope.y, pass.slope[2] = slope.z, pass.slope[3] = slope.w;
  }

  // A row of the input, once for every dx.
  using Fragments = uint32_t[3][1][4];

  static __device__ __forceinline__ void start(float (&sums)[2][4], const Pass& pass) {
#pragma unroll
    for (int t = 0; t < 2; ++t)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[t][e] = pass.bias[2 * t + e % 2];
  }
  static __device__ __forceinline__ void add(float (&sums)[2][4], const Fragments& row, int dx, int dy,
                                             const Pass& pass) {
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      const uint32_t columns[1][2] = {{pass.b[dx][dy][2 * t], pass.b[dx][dy][2 * t + 1]}};
      Math::multiply(sums[t], row[dx], columns);
    }
  }

  // 16 output columns of `rows` rows, at least two, of this warp's 16 pixels; from[dx] addresses the lane's part of the
  // first A fragment. finish(row % 3, row, bytes of the rows before row - row % 3, sums) takes every row, in order.
  template <class Finish>
  static __device__ __forceinline__ void stream(const uint32_t (&from)[3], int rows, const Pass& pass, Finish finish) {
    float sums[3][2][4];
    Fragments x;
    uint32_t rows_of_x[3] = {from[0], from[1], from[2]};
    const auto load = [&](auto row) {
#pragma unroll
      for (int dx = 0; dx < 3; ++dx) load_matrices<decltype(row)::value * kThinRowBytes>(x[dx][0], rows_of_x[dx]);
    };
    load(Index<0>{});
    start(sums[0], pass);
#pragma unroll
    for (int dx = 0; dx < 3; ++dx) add(sums[0], x, dx, 0, pass);
    load(Index<1>{});
    start(sums[1], pass);
#pragma unroll
    for (int dx = 0; dx < 3; ++dx) add(sums[1], x, dx, 0, pass), add(sums[0], x, dx, 1, pass);
    uint32_t at = 0;
#pragma unroll 1
    for (int first = 0; first < rows; first += 3, at += 3 * kThinRowBytes) {
      unroll<3>([&](auto i) {
        constexpr int kOld = decltype(i)::value, kMiddle = (kOld + 1) % 3, kNew = (kOld + 2) % 3;
        const int row = first + kOld;
        if (row >= rows) return;
        load(Index<kOld + 2>{});
        if (row + 2 < rows) {
          start(sums[kNew], pass);
#pragma unroll
          for (int dx = 0; dx < 3; ++dx)
            add(sums[kOld], x, dx, 2, pass), add(sums[kMiddle], x, dx, 1, pass), add(sums[kNew], x, dx, 0, pass);
        } else {
#pragma unroll
          for (int dx = 0; dx < 3; ++dx) add(sums[kOld], x, dx, 2, pass);
          if (row + 1 < rows) {
#pragma unroll
            for (int dx = 0; dx < 3; ++dx) add(sums[kMiddle], x, dx, 1, pass);
          }
        }
        finish(i, row, at, sums[kOld]);
      });
#pragma unroll
      for (uint32_t& row : rows_of_x) row += 3 * kThinRowBytes;
    }
  }

  // The four columns of one of the two pixels of a lane.
  static __device__ __forceinline__ void pixel(float (&values)[4], const float (&sums)[2][4], int half) {
#pragma unroll
    for (int e = 0; e < 4; ++e) values[e] = sums[e / 2][2 * half + e % 2];
  }

  static __device__ __forceinline__ void activate(float (&values)[4], Activation activation, const float (&slope)[4]) {
    if (activation == Activation::none) return;
    if (activation == Activation::relu) {
#pragma unroll
      for (int e = 0; e < 4; ++e) values[e] = relu(values[e]);
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e) values[e] = values[e] > 0.0f ? values[e] : values[e] * slope[e];
    }
  }

  // Stores ------------------------------------------------------------------------------------------------------------

  // Bytes from the image to `column` of the pixel (y, x), of which `run` columns are neighbours.
  __device__ __forceinline__ int64_t offset_of(int y, int x, int column, int r, int run) const {
    const int sub_row = column / run;
    const int64_t line = static_cast<int64_t>(a.w) * run;
    return (((image * a.h + y) * r + sub_row) * line + static_cast<int64_t>(x) * run + (column - sub_row * run)) *
           kBytes;
  }

  __device__ __forceinline__ ThinPlace place(char* to, const char* residual, int y, int x, int column, int columns,
                                             int r, int run, int piece) const {
    ThinPlace p{to, residual};
#pragma unroll
    for (int e = 0; e < 4; ++e) p.offset[e] = offset_of(y, x, column + e, r, run);
    p.line = static_cast<int64_t>(a.w) * r * run * kBytes;
    p.right = 8 * run * kBytes;
    p.columns = columns - column;
    p.piece = piece;
    return p;
  }

  // kPiece columns onto what `residual` has there, or not; `limit` > 0 where they are inside.
  template <int kPiece>
  static __device__ __forceinline__ void put(char* to, const char* residual, const float* values, int limit) {
    float sums[kPiece];
#pragma unroll
    for (int e = 0; e < kPiece; ++e) sums[e] = values[e];
    if constexpr (kPiece == 1) {
      if (limit <= 0) return;
      if (residual != nullptr) sums[0] += to_float(*reinterpret_cast<const Element*>(residual));
      *reinterpret_cast<Element*>(to) = from_float<Element>(sums[0]);
    } else {
      uint32_t words[kPiece * kBytes / 4];
      if (residual != nullptr) {
        float added[kPiece];
        load_global_below<0>(words, residual, limit);
        widen<Math>(added, words);
#pragma unroll
        for (int e = 0; e < kPiece; ++e) sums[e] += added[e];
      }
      narrow<Math, false>(words, sums);
      store_global_below<0>(to, words, limit);
    }
  }

  // The four columns of the pixel `row` rows and `half` times eight columns from the place.
  static __device__ __forceinline__ void store(const ThinPlace& p, const float (&values)[4], int row, int half) {
    const int64_t step = row * p.line + half * p.right;
    const auto put_from = [&](auto size, auto first) {
      constexpr int kFirst = decltype(first)::value;
      const int64_t at = p.offset[kFirst] + step;
      put<decltype(size)::value>(p.image + at, p.residual == nullptr ? nullptr : p.residual + at, values + kFirst,
                                 p.columns - kFirst);
    };
    if (p.piece == 4) {
      put_from(Index<4>{}, Index<0>{});
    } else if (p.piece == 2) {
      unroll<2>([&](auto i) { put_from(Index<2>{}, Index<2 * decltype(i)::value>{}); });
    } else {
      unroll<4>([&](auto i) { put_from(Index<1>{}, i); });
    }
  }

  // Layers ------------------------------------------------------------------------------------------------------------

  // A layer before the last one: from one tile to the other. `halo` pixels around the output tile are computed.
  template <bool kKeep>
  __device__ __forceinline__ void hidden_layer(const Pass& pass, const uint32_t (&from)[3], uint32_t to, int rows,
                                               const ThinLayer& layer, int halo) const {
    const int c = warp_x * 16 + (lane >> 2), column = 4 * (lane & 3), first_row = warp_y * rows;
    const int x = x0 - halo + c, y = y0 - halo + first_row;
    const uint32_t target = computed(to + first_row * kThinRowBytes + c * kThinPixelBytes + swizzled(c, column >> 3) +
                                     (column & 4) * kBytes);
    if constexpr (kKeep) {
      const ThinPlace keep = place(a.kept, nullptr, y, x, column, layer.c_out, 1, layer.c_out, a.kept_piece);
      const int bottom = min(y0 + a.rows, a.h), right = min(x0 + thin_tile_width(a.layers), a.w);
      stream(from, rows, pass, [&](auto i, int row, uint32_t at, const float (&sums)[2][4]) {
        unroll<2>([&](auto j) {
          constexpr int kHalf = decltype(j)::value;
          float values[4];
          pixel(values, sums, kHalf);
          const int px = x + 8 * kHalf;
          const bool own = y + row >= y0 && y + row < bottom && px >= x0 && px < right;
          if (own && a.kept_before_activation) store(keep, values, row, kHalf);
          activate(values, layer.activation, pass.slope);
          if (own && !a.kept_before_activation) store(keep, values, row, kHalf);
          uint32_t words[2];
          narrow<Math, false>(words, values);
          store_shared<decltype(i)::value * kThinRowBytes + kHalf * 8 * kThinPixelBytes>(target + at, words);
        });
      });
    } else {
      stream(from, rows, pass, [&](auto i, int, uint32_t at, const float (&sums)[2][4]) {
        float values[2][4];
        uint32_t words[2][2];
        pixel(values[0], sums, 0), pixel(values[1], sums, 1);
        if (layer.activation == Activation::relu) {
          narrow<Math, true>(words[0], values[0]), narrow<Math, true>(words[1], values[1]);
        } else {
          activate(values[0], layer.activation, pass.slope), activate(values[1], layer.activation, pass.slope);
          narrow<Math, false>(words[0], values[0]), narrow<Math, false>(words[1], values[1]);
        }
        unroll<2>([&](auto j) {
          constexpr int kHalf = decltype(j)::value;
          store_shared<decltype(i)::value * kThinRowBytes + kHalf * 8 * kThinPixelBytes>(target + at, words[kHalf]);
        });
      });
    }
    // Zeros where the image has ended, which only tiles at its edge have to ask.
    const int left = x - (lane >> 2);
    const bool in_width = left >= 0 && left + 16 <= a.w;
    if (in_width && y >= 0 && y + rows <= a.h) return;
    const uint32_t zeros[2] = {0, 0};
#pragma unroll 1
    for (int row = 0; row < rows; ++row) {
      const bool in_height = static_cast<unsigned>(y + row) < static_cast<unsigned>(a.h);
      if (in_height && in_width) continue;
      unroll<2>([&](auto j) {
        constexpr int kHalf = decltype(j)::value;
        if (!in_height || static_cast<unsigned>(x + 8 * kHalf) >= static_cast<unsigned>(a.w))
          store_shared<kHalf * 8 * kThinPixelBytes>(target + row * kThinRowBytes, zeros);
      });
    }
  }

  // kWhole: the four columns of a lane are neighbours in out, and stored at once.
  template <bool kWhole>
  __device__ __forceinline__ void last_layer(const Pass& pass, const uint32_t (&from)[3], int rows, int first_column,
                                             const ThinLayer& layer) const {
    const int y = y0 + warp_y * rows, x = x0 + warp_x * 16 + (lane >> 2), column = first_column + 4 * (lane & 3);
    const int right = min(x0 + thin_tile_width(a.layers), a.w);
    const auto finish_values = [&](float (&values)[4]) {
      activate(values, layer.activation, pass.slope);
      if (a.scale != 1.0f) {
#pragma unroll
        for (int e = 0; e < 4; ++e) values[e] *= a.scale;
      }
    };
    if constexpr (kWhole) {
      // Rows of the warp before the image ends, if the columns and the pixel are inside at all.
      const int below = column < layer.c_out ? a.h - y : 0;
      const int limits[2] = {x < right ? below : 0, x + 8 < right ? below : 0};
      char* to = a.out + offset_of(y, x, column, a.r, a.run);
      const int64_t line = static_cast<int64_t>(a.w) * a.r * a.run * kBytes, to_residual = a.residual - a.out;
      const int eight = 8 * a.run * kBytes;
      stream(from, rows, pass, [&](auto, int row, uint32_t, const float (&sums)[2][4]) {
        unroll<2>([&](auto j) {
          constexpr int kHalf = decltype(j)::value;
          char* const at = kHalf == 0 ? to : to + eight;
          float values[4];
          pixel(values, sums, kHalf);
          finish_values(values);
          put<4>(at, a.residual == nullptr ? nullptr : at + to_residual, values, limits[kHalf] - row);
        });
        to += line;
      });
    } else {
      const ThinPlace to = place(a.out, a.residual, y, x, column, layer.c_out, a.r, a.run, a.piece);
      stream(from, rows, pass, [&](auto, int row, uint32_t, const float (&sums)[2][4]) {
        if (y + row >= a.h) return;
        unroll<2>([&](auto j) {
          constexpr int kHalf = decltype(j)::value;
          if (x + 8 * kHalf >= right) return;
          float values[4];
          pixel(values, sums, kHalf);
          finish_values(values);
          store(to, values, row, kHalf);
        });
      });
    }
  }

  __device__ __forceinline__ void compute(const ThinLayer* layers) const {
    int pass_number = 0;
#pragma unroll 1
    for (int number = 0; number < a.layers; ++number) {
      const ThinLayer layer = layers[number];
      const int halo = a.layers - 1 - number, rows = a.rows / 2 + halo;
      const uint32_t read = number % 2 == 0 ? tiles[0] : tiles[1], written = number % 2 == 0 ? tiles[1] : tiles[0];
      uint32_t from[3];
#pragma unroll
      for (int dx = 0; dx < 3; ++dx) {
        const int c = warp_x * 16 + (lane & 15) + dx;
        from[dx] = read + warp_y * rows * kThinRowBytes + c * kThinPixelBytes + swizzled(c, lane >> 4);
      }
#pragma unroll 1
      for (int own = 0; own < layer.passes; ++own, ++pass_number) {
        Pass pass;
        load_pass(pass, pass_number);
        if (number == 0 && a.kept != nullptr) {
          hidden_layer<true>(pass, from, written, rows, layer, halo);
        } else if (halo > 0) {
          hidden_layer<false>(pass, from, written, rows, layer, halo);
        } else if (a.piece == 4) {
          last_layer<true>(pass, from, rows, own * kThinChannels, layer);
        } else {
          last_layer<false>(pass, from, rows, own * kThinChannels, layer);
        }
      }
      __syncthreads();  // the next layer reads what this one wrote, and overwrites what it read
    }
  }

  __device__ __forceinline__ void run(ThinLayer* layers) {
    load_weights(layers);
    clear_edge();
#pragma unroll 1
    for (unsigned tile = blockIdx.x; tile < static_cast<unsigned>(a.tiles); tile += gridDim.x) {
      take_tile(tile);
      if (a.x_by_vectors) {
        load_x();
      } else {
        load_x_by_elements();
      }
      close_copies();
      wait_copies<0>();
      __syncthreads();
      compute(layers);
    }
  }
};

template <class Math>
__global__ void __launch_bounds__(kThinThreads, kThinBlocks) thin_net_kernel(const ThinArguments arguments) {
  extern __shared__ __align__(128) char thin_net_shared[];
  if constexpr (kCapability >= Math::kCapability) {  // older devices are refused by the launcher
    ThinBlock<Math> block(arguments, thin_net_shared);
    block.run(reinterpret_cast<ThinLayer*>(thin_net_shared + arguments.layers_at));
  }
}

}  // namespace vsr::cuda
