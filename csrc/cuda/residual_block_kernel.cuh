// Residual block in one launch: both 3x3 convolutions, and what is between them in shared memory only.
//
// Plan. A block computes a tile of kHeight x kWidth pixels of the output. The first convolution gives it one pixel more
// on every side: it is a convolution tile (ConvBlock) of kHeight + 2 rows that begins one row and column earlier, and
// computes a whole number of MMA tiles across. Its sums become the hidden layer in registers and are written over the
// tile of x, which nobody needs any more (a barrier before, one after): the second convolution is a ConvBlock of
// kHeight rows that finds its input loaded. Of the columns it computes, two do not count: they see what is left of x.
//   Weights: the ring runs on from the first set to the second, so the second convolution does not start by waiting.
//   Outside the image the hidden layer is zero, as the padding of the second convolution, not act(bias).
//   Residual: read again from global memory (the L2 has it), since the tile of x is gone.
//   Where the hidden layer is kept for the backward, every pixel of it is stored by the one block whose output it is.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/residual_block.h"
#include "cuda/conv3x3_kernel.cuh"

namespace vsr::cuda {

// A launch, for the threads.
struct BlockArguments {
  ConvArguments first, second;
  char* hidden;
  bool hidden_before_activation;
  bool hidden_by_vectors;
};

template <class Math, int kColumns, int kHeight_>
struct BlockTraits {
  using First = ConvTraits<Math, kColumns, kHeight_ + 2>;
  using Second = ConvTraits<Math, kColumns, kHeight_>;
  static constexpr int kHeight = kHeight_;
  static constexpr int kWidth = block_tile_width(kColumns);
  static constexpr int kThreads = First::kThreads;
  static constexpr int kSharedBytes = First::kSharedBytes;

  static_assert(kSharedBytes == block_shared_bytes(kColumns, kHeight));
  static_assert(First::kWidth == kWidth + 2 && First::kKBytes == Second::kKBytes);
  static_assert(First::kWarpTiles == First::kGroup, "a lane holds one chunk of the hidden layer per pixel");
};

// The hidden layer, in the registers of the first convolution.
template <class Traits>
struct HiddenLayer {
  using First = typename Traits::First;
  using Math = typename First::Math;
  using Element = typename Math::Element;
  static constexpr int kRows = First::kWarpRows;
  static constexpr int kValues = First::kChunkChannels;

  const BlockArguments& a;
  const ConvBlock<First>& conv;

  // The channels that this lane has of a pixel: of row `row`, column x_of() + 8 * half.
  template <bool kRelu>
  __device__ __forceinline__ void pixel(uint32_t (&words)[4], int row, int half) const {
    float values[kValues];
#pragma unroll
    for (int e = 0; e < kValues; ++e) values[e] = conv.sums[row][e / 2][2 * half + e % 2];
    narrow<Math, kRelu>(words, values);
  }

  // Over the tile of x; zeros where the image has ended, which only blocks at its edge have to ask.
  template <bool kRelu>
  __device__ __forceinline__ void share() const {
    const int c = conv.warp_x * 16 + (conv.lane >> 2), chunk = conv.column_of(0) / kValues;
    const uint32_t to = conv.tile + conv.warp_y * kRows * First::kRowBytes + c * First::kPixelBytes +
                        ((chunk ^ swizzle_key<First>(c)) << 4);
    unroll<2 * kRows>([&](auto i) {
      constexpr int kRow = decltype(i)::value / 2, kHalf = decltype(i)::value % 2;
      uint32_t words[4];
      pixel<kRelu>(words, kRow, kHalf);
      store_shared<kRow * First::kRowBytes + kHalf * 8 * First::kPixelBytes>(to, words);
    });
    if (conv.x0 >= 0 && conv.y0 >= 0 && conv.x0 + First::kWidth <= conv.a.w && conv.y0 + First::kRows <= conv.a.h)
      return;
    const uint32_t zeros[4] = {0, 0, 0, 0};
    unroll<2 * kRows>([&](auto i) {
      constexpr int kRow = decltype(i)::value / 2, kHalf = decltype(i)::value % 2;
      const bool inside = static_cast<unsigned>(conv.y_of(kRow)) < static_cast<unsigned>(conv.a.h) &&
                          static_cast<unsigned>(conv.x_of() + 8 * kHalf) < static_cast<unsigned>(conv.a.w);
      if (!inside) store_shared<kRow * First::kRowBytes + kHalf * 8 * First::kPixelBytes>(to, zeros);
    });
  }

  // The columns behind the hidden layer are read, and do not count. Copies by vectors left zeros or x in all of them,
  // copies by elements only in the channels of x.
  __device__ __forceinline__ void clear_edge() const {
    constexpr int kEdge = 2 * First::kChunks;  // chunks of a row
    const uint32_t zeros[4] = {0, 0, 0, 0};
#pragma unroll 1
    for (int i = conv.thread; i < First::kRows * kEdge; i += First::kThreads)
      store_shared<First::kWidth * First::kPixelBytes>(conv.tile + i / kEdge * First::kRowBytes + i % kEdge * 16,
                                                       zeros);
  }

  // To global memory, without the edge that belongs to the neighbours.
  __device__ __forceinline__ void keep() const {
    const int column = conv.column_of(0), channels = conv.a.c_out - column;
    const int left = conv.x0 + 1, top = conv.y0 + 1;  // of the output tile
    const int right = min(left + Traits::kWidth, conv.a.w), bottom = min(top + Traits::kHeight, conv.a.h);
#pragma unroll
    for (int row = 0; row < kRows; ++row)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int y = conv.y_of(row), x = conv.x_of() + 8 * half;
        if (y < top || y >= bottom || x < left || x >= right) continue;
        char* to = a.hidden + (((conv.image * conv.a.h + y) * conv.a.w + x) * conv.a.c_out + column) * Math::kBytes;
        uint32_t words[4];
        pixel<false>(words, row, half);
        if (a.hidden_by_vectors) {
          store_global_below<0>(to, words, channels);
        } else {
#pragma unroll
          for (int e = 0; e < kValues; ++e)
            if (e < channels) reinterpret_cast<uint16_t*>(to)[e] = static_cast<uint16_t>(words[e / 2] >> 16 * (e % 2));
        }
      }
  }

  __device__ __forceinline__ void finish(ConvBlock<First>& sums) const {
    __syncthreads();  // the tile of x is still being read
    if (!conv.a.x_by_vectors) clear_edge();
    if (a.hidden == nullptr && conv.a.activation == Activation::relu) return share<true>();
    if (a.hidden != nullptr && a.hidden_before_activation) keep();
    sums.activate();
    if (a.hidden != nullptr && !a.hidden_before_activation) keep();
    share<false>();
  }
};

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, 2) residual_block_kernel(const BlockArguments arguments) {
  using First = typename Traits::First;
  using Second = typename Traits::Second;
  extern __shared__ __align__(128) char residual_block_shared[];
  if constexpr (kCapability >= First::Math::kCapability) {  // older devices are refused by the launcher
    const int x0 = blockIdx.x * Traits::kWidth, y0 = blockIdx.y * Traits::kHeight;
    const uint32_t ring = shared_address(residual_block_shared) + First::kTileBytes;
    RingPlace at{0, (First::kSlots - 1) * First::kStageBytes};

    ConvBlock<First> first(arguments.first, residual_block_shared, ring, x0 - 1, y0 - 1, First::kWidth);
    const int second_stages = arguments.second.stages;
    const char* const second_weights = computed(first.part_of(arguments.second.weights));
    first.start_at_bias();
    const int k_blocks = first.k_blocks_of(arguments.first.c_in);
    first.load(0, k_blocks);
    first.unfetched += second_stages;
    first.walk(k_blocks, at, [&](uint32_t slot) {
      if (first.unfetched == second_stages) first.weights = second_weights;
      first.fetch(slot);
    });
    HiddenLayer<Traits>{arguments, first}.finish(first);

    ConvBlock<Second> second(arguments.second, residual_block_shared, ring, x0, y0, Traits::kWidth);
    second.weights = first.weights, second.unfetched = first.unfetched;
    second.start_at_bias();
    second.walk(second.k_blocks_of(arguments.second.c_in), at, [&](uint32_t slot) { second.fetch(slot); });
    second.scale();
    if (arguments.second.store == ConvStore::vectors) {
      second.template store_vectors<false>(arguments.second.out, arguments.second.residual);
    } else {
      second.store_staged(arguments.second.out, arguments.second.residual);
    }
  }
}

}  // namespace vsr::cuda
