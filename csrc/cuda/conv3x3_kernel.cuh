// 3x3 convolution as implicit GEMM on tensor cores, with everything behind it in the same kernel.
//
// Plan. A block of four warps computes a tile of kRows x kWidth pixels of one image, for kColumns output channels.
//   Input: the tile with its halo, one block of channels at a time, is copied to shared memory once and read from there
//     for all nine taps. Pixels are rows of kPixelBytes; their 16-byte chunks are permuted by a key of the pixel's
//     column, so that ldmatrix of eight neighbours hits all banks wherever the taps shift it. The key does not depend
//     on the row: rows are constant offsets.
//   Weights: packed in the order of use and of B fragments. They pass through a ring of kSlots stages; one
//     barrier per stage both publishes the stage that arrived and frees the slot of the one before, which is refilled.
//   Sums: a warp owns kWarpRows rows x 16 pixels x kWarpTiles * 8 columns. The steps run over dx, then 16 channels,
//   then
//     dy: the kWarpRows + 2 fragments of A loaded for one (dx, channels) serve all three dy.
//   Epilogue: sums start at the bias. Activation, scale and residual happen in registers, then one of three stores:
//     vectors:   the permutation of columns gave each lane neighbouring channels: 16-byte loads and stores;
//     staged:    runs that are no whole vectors (3 channels; 48 shuffled by 4) of a block that computes all columns: a
//                row of pixels is still contiguous in memory, so it is put together in shared memory, over the dead
//                input tile, and leaves in vectors. The residual comes in the same way, before;
//     scattered: what is left (odd channel counts beyond 64), element by element.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/conv3x3.h"
#include "cuda/async_copy.cuh"
#include "cuda/elements.cuh"
#include "cuda/memory.cuh"
#include "cuda/mma.cuh"
#include "cuda/unroll.cuh"

namespace vsr::cuda {

#if defined(__CUDA_ARCH__)
constexpr int kCapability = __CUDA_ARCH__ / 10;
#else
constexpr int kCapability = 0;
#endif

enum class ConvStore { vectors, staged, scattered };

// A launch, for the threads. Sizes in elements unless they say bytes.
struct ConvArguments {
  const char* x;
  const char* weights;
  const float* bias;   // per column
  const float* slope;  // per column
  const char* residual;
  char* out;
  int h, w, c_in, c_out;
  int r;
  int run;            // columns of a pixel that are neighbours in out
  int column_blocks;  // in grid.x, inside the tiles of a row
  int stages;
  int staged_pitch;  // bytes of a staged row
  float scale;
  Activation activation;
  ConvStore store;
  bool x_by_vectors;    // pixels of x begin on 16 bytes
  bool out_by_vectors;  // so do the rows of out and residual, and they consist of whole vectors
};

template <class Math_, int kColumns_, int kRows_>
struct ConvTraits {
  using Math = Math_;
  static constexpr int kColumns = kColumns_;
  static constexpr int kRows = kRows_;
  static constexpr int kThreads = kConvThreads;
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kWidth = conv_tile_width(kColumns);
  static constexpr int kPixelBytes = conv_pixel_bytes(kColumns);
  static constexpr int kRowBytes = (kWidth + 2) * kPixelBytes;
  static constexpr int kTileBytes = (kRows + 2) * kRowBytes;
  static constexpr int kTileChannels = kPixelBytes / Math::kBytes;
  static constexpr int kChannelsPerK = 32 / Math::kBytes;
  static constexpr int kChunks = kPixelBytes / 16;  // of a pixel
  static constexpr int kChunkChannels = 16 / Math::kBytes;

  static constexpr int kWarpsN = conv_warps_across_columns(kColumns);
  static constexpr int kWarpsX = kWidth / 16;
  static constexpr int kWarpsY = kWarps / (kWarpsN * kWarpsX);
  static constexpr int kWarpRows = kRows / kWarpsY;
  static constexpr int kWarpTiles = kColumns / 8 / kWarpsN;
  static constexpr int kGroup = 8 / Math::kBytes;  // n-tiles that give a lane 16 bytes

  static constexpr int kSlots = conv_slots(Math::kParts);
  static constexpr int kPerStage = conv_k_per_stage(kColumns);
  static constexpr int kStageBytes = conv_stage_bytes(kColumns, Math::kParts);
  static constexpr int kKBytes = kStageBytes / kPerStage;
  static constexpr int kPartBytes = kColumns * 32;
  static constexpr int kSharedBytes = conv_shared_bytes(kColumns, Math::kParts, kRows);

  static_assert(kWarpsN * kWarpsX * kWarpsY == kWarps && kWarpRows * kWarpsY == kRows);
  static_assert(kThreads / kChunks == kWidth, "the loader gives every column of the tile its threads");
  static_assert(kTileBytes + kSlots * kStageBytes == kSharedBytes);
};

// Chunk h of the pixel in column c lies at h ^ key(c). Any bijection of eight neighbours onto the 128 bytes of a bank
// row would serve ldmatrix; reversed bits also serve stores of D fragments.
template <class Traits>
__device__ __forceinline__ int swizzle_key(int c) {
  if constexpr (Traits::kChunks == 8) return (c & 1) << 2 | (c & 2) | (c >> 2 & 1);
  return c >> 1 & 3;  // two pixels to a bank row
}

template <bool kFirst, class T>
__device__ __forceinline__ T& choose(T& first, T& second) {
  if constexpr (kFirst) return first;
  return second;
}

template <class Traits>
struct ConvBlock {
  using Math = typename Traits::Math;
  using Element = typename Math::Element;
  static constexpr int kBytes = Math::kBytes;
  static constexpr int kParts = Math::kParts;
  static constexpr int kTiles = Traits::kWarpTiles;
  static constexpr int kRows = Traits::kWarpRows;
  static constexpr int kSweep = Traits::kThreads * 16;  // bytes that the threads copy at once

  const ConvArguments& a;
  char* const memory;         // shared
  const uint32_t tile, ring;  // addresses in it
  const int thread, lane, warp;
  const int warp_n, warp_x, warp_y;
  const int column_block, x0, y0;
  const int64_t image;
  const char* weights;  // this thread's part of the next stage to ask for
  int unfetched;        // stages left to ask for
  float sums[kRows][kTiles][4];

  __device__ __forceinline__ ConvBlock(const ConvArguments& arguments, char* shared)
      : a(arguments),
        memory(shared),
        tile(shared_address(shared)),
        ring(tile + Traits::kTileBytes),
        thread(threadIdx.x),
        lane(thread & 31),
        warp(thread >> 5),
        warp_n(warp % Traits::kWarpsN),
        warp_x(warp / Traits::kWarpsN % Traits::kWarpsX),
        warp_y(warp / (Traits::kWarpsN * Traits::kWarpsX)),
        column_block(blockIdx.x % a.column_blocks),
        x0(blockIdx.x / a.column_blocks * Traits::kWidth),
        y0(blockIdx.y * Traits::kRows),
        image(blockIdx.z),
        weights(a.weights + static_cast<int64_t>(column_block) * a.stages * Traits::kStageBytes + thread * 16),
        unfetched(a.stages) {}

  // Input ------------------------------------------------------------------------------------------------------------

  __device__ __forceinline__ int64_t input_offset(int y, int x) const {
    return (image * a.h * a.w + static_cast<int64_t>(y) * a.w + x) * a.c_in;
  }

  // A thread copies one chunk of one column, row after row; the two columns of the halo that are left come after.
  __device__ __forceinline__ void load_tile(int channel0) const {
    const int chunk = thread % Traits::kChunks, channel = channel0 + chunk * Traits::kChunkChannels;
    const int place = thread / Traits::kChunks;
    const int64_t pitch = static_cast<int64_t>(a.w) * a.c_in * kBytes;
    const auto limit = [&](int c) {  // rows of the tile before the image ends, if the chunk is inside at all
      const bool inside = channel < a.c_in && static_cast<unsigned>(x0 - 1 + c) < static_cast<unsigned>(a.w);
      return inside ? a.h - y0 + 1 : 0;
    };
    const auto source = [&](int row, int c) {
      return a.x + (input_offset(y0 - 1 + row, x0 - 1 + c) + channel) * kBytes;
    };
    const auto target = [&](int row, int c) {
      return tile + row * Traits::kRowBytes + c * Traits::kPixelBytes + ((chunk ^ swizzle_key<Traits>(c)) << 4);
    };
    {
      const int rows = limit(place);
      const char* from = source(0, place);
      const uint32_t to = target(0, place);
      copy16_below<0, 0, 0>(to, from, y0 == 0 ? 0 : rows);
      unroll<Traits::kRows + 1>([&](auto i) {
        constexpr int kRow = decltype(i)::value + 1;
        from += pitch;
        copy16_below<kRow * Traits::kRowBytes, 0, kRow>(to, from, rows);
      });
    }
    constexpr int kStep = Traits::kWidth / 2;  // rows of two columns that the threads cover at once
    const int c = Traits::kWidth + place % 2, first = place / 2;
    const int rows = limit(c) - first;
    const char* from = source(first, c);
    const uint32_t to = target(first, c);
    if (kStep <= Traits::kRows + 2 || first < Traits::kRows + 2)
      copy16_below<0, 0, 0>(to, from, y0 == 0 && first == 0 ? 0 : rows);
    unroll<(Traits::kRows + 1) / kStep>([&](auto i) {
      constexpr int kRow = (decltype(i)::value + 1) * kStep;
      from += kStep * pitch;
      if (kRow + kStep <= Traits::kRows + 2 || kRow + first < Traits::kRows + 2)
        copy16_below<kRow * Traits::kRowBytes, 0, kRow>(to, from, rows);
    });
  }

  // The same where pixels are not aligned: a thread reads the channels of one pixel after another.
  __device__ __forceinline__ void load_tile_by_elements(int channel0, int k_blocks) const {
    constexpr int kPixels = (Traits::kRows + 2) * (Traits::kWidth + 2);
#pragma unroll 1
    for (int pixel = thread; pixel < kPixels; pixel += Traits::kThreads) {
      const int row = pixel / (Traits::kWidth + 2), c = pixel % (Traits::kWidth + 2);
      const int y = y0 - 1 + row, x = x0 - 1 + c;
      const bool inside = static_cast<unsigned>(y) < static_cast<unsigned>(a.h) &&
                          static_cast<unsigned>(x) < static_cast<unsigned>(a.w);
      const char* from = a.x + (input_offset(y, x) + channel0) * kBytes;
      const uint32_t to = tile + pixel * Traits::kPixelBytes;
#pragma unroll 1
      for (int chunk = 0; chunk < 2 * k_blocks; ++chunk) {
        uint32_t bits[4] = {0, 0, 0, 0};
#pragma unroll
        for (int e = 0; e < Traits::kChunkChannels; ++e) {
          const int channel = chunk * Traits::kChunkChannels + e;
          if (inside && channel0 + channel < a.c_in) {
            if constexpr (kBytes == 2) {
              bits[e / 2] |= static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(from)[channel]) << 16 * (e % 2);
            } else {
              bits[e] = reinterpret_cast<const uint32_t*>(from)[channel];
            }
          }
        }
        store_shared(to + ((chunk ^ swizzle_key<Traits>(c)) << 4), bits);
      }
    }
  }

  // Weights ----------------------------------------------------------------------------------------------------------

  // Asks for the next stage, into a slot; closes a group of copies even behind the last one, so that waits can count.
  __device__ __forceinline__ void fetch(uint32_t slot) {
    if (unfetched > 0) {
      unroll<(Traits::kStageBytes + kSweep - 1) / kSweep>([&](auto i) {
        constexpr int kAt = decltype(i)::value * kSweep;
        constexpr int kThreadsNeeded = (Traits::kStageBytes - kAt) / 16;
        if (kThreadsNeeded >= Traits::kThreads || thread < kThreadsNeeded)
          copy16<kAt, kAt>(ring + slot + thread * 16, weights);
      });
    }
    weights += Traits::kStageBytes;
    --unfetched;
    close_copies();
  }

  // B fragments of the warp for one dy, from the lane's place in a stage.
  template <int kOffset>
  static __device__ __forceinline__ void load_b(uint32_t (&b)[kTiles][kParts][2], uint32_t from) {
    unroll<kParts>([&](auto i) {
      constexpr int kPart = decltype(i)::value;
      if constexpr (kTiles == 1) {
        load_shared<kOffset + kPart * Traits::kPartBytes>(b[0][kPart], from);
      } else {
        unroll<kTiles / 2>([&](auto j) {
          constexpr int kTile = 2 * decltype(j)::value;
          uint32_t words[4];
          load_shared<kOffset + kPart * Traits::kPartBytes + kTile * 256>(words, from);
          b[kTile][kPart][0] = words[0], b[kTile][kPart][1] = words[1];
          b[kTile + 1][kPart][0] = words[2], b[kTile + 1][kPart][1] = words[3];
        });
      }
    });
  }

  // Sums -------------------------------------------------------------------------------------------------------------

  // One (dx, k block): a_from addresses the lane's row of the first A fragment, b_from the lane's part of the first B.
  template <int kOffset>
  __device__ __forceinline__ void multiply(uint32_t a_from, uint32_t b_from) {
    // Where rounding of the sums would dominate, a step is summed apart: it is small, and rounds accordingly.
    [[maybe_unused]] float step[kRows][kTiles][4] = {};
    auto& target = choose < kParts == 2 > (step, sums);
    uint32_t fragments[kRows + 2][kParts][4];
    unroll<kRows + 2>([&](auto row) {
      constexpr int kRow = decltype(row)::value;
      load_matrices<kRow * Traits::kRowBytes>(fragments[kRow][0], a_from);
      Math::split(fragments[kRow]);
    });
    unroll<3>([&](auto i) {
      constexpr int kDy = decltype(i)::value;
      uint32_t b[kTiles][kParts][2];
      load_b<kOffset + kDy * kParts * Traits::kPartBytes>(b, b_from);
#pragma unroll
      for (int row = 0; row < kRows; ++row)
#pragma unroll
        for (int t = 0; t < kTiles; ++t) Math::multiply(target[row][t], fragments[row + kDy], b[t]);
    });
    if constexpr (kParts == 2) {
#pragma unroll
      for (int row = 0; row < kRows; ++row)
#pragma unroll
        for (int t = 0; t < kTiles; ++t)
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[row][t][e] += step[row][t][e];
    }
  }

  // The tile of a block of channels; with the first one, the first stages of the weights, which arrive after it.
  __device__ __forceinline__ void load(int channel0, int k_blocks) {
    if (channel0 > 0) __syncthreads();  // the tile is still being read
    if (a.x_by_vectors) {
      load_tile(channel0);
    } else {
      load_tile_by_elements(channel0, k_blocks);
    }
    if (channel0 == 0) {
#pragma unroll
      for (int slot = 0; slot < Traits::kSlots - 1; ++slot) fetch(slot * Traits::kStageBytes);
    } else {
      close_copies();
      wait_copies<0>();  // the tile is the youngest group
    }
  }

  __device__ __forceinline__ void convolve() {
    constexpr uint32_t kLastSlot = (Traits::kSlots - 1) * Traits::kStageBytes;
    const uint32_t b_lane = ring + warp_n * kTiles * 256 + lane * (kTiles == 1 ? 8 : 16);
    const uint32_t a_row = tile + warp_y * kRows * Traits::kRowBytes;
    uint32_t slot = 0, free_slot = kLastSlot;
    int channel0 = 0;
#pragma unroll 1
    do {
      const int channels = min(a.c_in - channel0, Traits::kTileChannels);
      const int k_blocks = max((channels + Traits::kChannelsPerK - 1) / Traits::kChannelsPerK, 1);
      const int k_end = 32 * k_blocks;
      load(channel0, k_blocks);
#pragma unroll 1
      for (int dx = 0; dx < 3; ++dx) {
        const int c = warp_x * 16 + (lane & 15) + dx;
        const uint32_t a_pixel = a_row + c * Traits::kPixelBytes;
        const int key = swizzle_key<Traits>(c) << 4 ^ (lane & 16);
        int k_bytes = 0;  // into the channels of a pixel
#pragma unroll 1
        do {
          wait_copies<Traits::kSlots - 2>();
          __syncthreads();
          fetch(free_slot);
          const uint32_t b_from = b_lane + slot;
          multiply<0>(a_pixel + (k_bytes ^ key), b_from);
          if constexpr (Traits::kPerStage == 2)
            if (k_bytes + 32 < k_end) multiply<Traits::kKBytes>(a_pixel + ((k_bytes + 32) ^ key), b_from);
          free_slot = slot;
          slot = slot == kLastSlot ? 0 : slot + Traits::kStageBytes;
          k_bytes += 32 * Traits::kPerStage;
        } while (k_bytes < k_end);
      }
      channel0 += Traits::kTileChannels;
    } while (channel0 < a.c_in);
  }

  // Epilogue ---------------------------------------------------------------------------------------------------------

  // First of the two columns of n-tile t that this lane holds.
  __device__ __forceinline__ int column_of(int t) const {
    return column_block * Traits::kColumns + warp_n * kTiles * 8 +
           conv_warp_column(t, lane & 3, kTiles, Traits::kGroup, a.store != ConvStore::vectors);
  }

  __device__ __forceinline__ void start_at_bias() {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const float2 bias = *reinterpret_cast<const float2*>(a.bias + column_of(t));
#pragma unroll
      for (int row = 0; row < kRows; ++row)
        sums[row][t][0] = sums[row][t][2] = bias.x, sums[row][t][1] = sums[row][t][3] = bias.y;
    }
  }

  __device__ __forceinline__ void activate() {
    if (a.activation == Activation::none) return;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      if (a.activation == Activation::relu) {
#pragma unroll
        for (int row = 0; row < kRows; ++row)
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[row][t][e] = relu(sums[row][t][e]);
      } else {
        const float2 slope = *reinterpret_cast<const float2*>(a.slope + column_of(t));
#pragma unroll
        for (int row = 0; row < kRows; ++row)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const float v = sums[row][t][e], below = v * (e % 2 ? slope.y : slope.x);
            sums[row][t][e] = v > 0.0f ? v : below;
          }
      }
    }
  }

  __device__ __forceinline__ void scale() {
    if (a.scale == 1.0f) return;
#pragma unroll
    for (int row = 0; row < kRows; ++row)
#pragma unroll
      for (int t = 0; t < kTiles; ++t)
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[row][t][e] *= a.scale;
  }

  // Pixels of this lane: row `row`, columns x_of() and x_of() + 8 (sums 0, 1 and 2, 3).
  __device__ __forceinline__ int y_of(int row) const { return y0 + warp_y * kRows + row; }
  __device__ __forceinline__ int x_of() const { return x0 + warp_x * 16 + (lane >> 2); }
  __device__ __forceinline__ bool inside(int row, int half) const { return y_of(row) < a.h && x_of() + 8 * half < a.w; }
  __device__ __forceinline__ int64_t output_image() const { return image * a.h * a.w * a.c_out; }

  // Bytes from out (and residual) to the column at pixel (y, x).
  __device__ __forceinline__ int64_t output_offset(int y, int x, int column) const {
    const int sub_row = column / a.run;
    const int64_t line = static_cast<int64_t>(a.w) * a.run;
    return (output_image() + (static_cast<int64_t>(y) * a.r + sub_row) * line + static_cast<int64_t>(x) * a.run +
            (column - sub_row * a.run)) *
           kBytes;
  }

  // The stores of n-tiles kFirst .. kFirst + kSize - 1, which give the lane 2 * kSize neighbouring columns.
  template <bool kPlainRelu, int kFirst, int kSize>
  __device__ __forceinline__ void store_group() const {
    constexpr int kWords = kSize * kBytes / 2;
    const int64_t line = static_cast<int64_t>(a.w) * a.c_out * kBytes, right = 8LL * a.run * kBytes;
    const int column = column_of(kFirst);
    const int64_t offset = output_offset(y_of(0), x_of(), column);
    // Rows of the warp before the image ends, if the column and the pixel are inside at all.
    const int rows = column < a.c_out ? a.h - y_of(0) : 0;
    const int limits[2] = {x_of() < a.w ? rows : 0, x_of() + 8 < a.w ? rows : 0};
    char* to = a.out + offset;
    const char* residual = a.residual + offset;
    unroll<kRows>([&](auto i) {
      constexpr int kRow = decltype(i)::value;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float values[2 * kSize];
#pragma unroll
        for (int e = 0; e < 2 * kSize; ++e) values[e] = sums[kRow][kFirst + e / 2][2 * half + e % 2];
        uint32_t words[kWords];
        if constexpr (!kPlainRelu) {
          if (a.residual != nullptr) {
            float added[2 * kSize];
            load_global_below<kRow>(words, half == 0 ? residual : residual + right, limits[half]);
            widen<Math>(added, words);
#pragma unroll
            for (int e = 0; e < 2 * kSize; ++e) values[e] += added[e];
          }
        }
        narrow<Math, kPlainRelu>(words, values);
        store_global_below<kRow>(half == 0 ? to : to + right, words, limits[half]);
      }
      to += line;
      if constexpr (!kPlainRelu) residual += line;
    });
  }

  template <bool kPlainRelu>
  __device__ __forceinline__ void store_vectors() const {
    constexpr int kWhole = kTiles / Traits::kGroup;
    unroll<kWhole>([&](auto i) { store_group<kPlainRelu, decltype(i)::value * Traits::kGroup, Traits::kGroup>(); });
    if constexpr (kWhole * Traits::kGroup < kTiles)
      store_group<kPlainRelu, kWhole * Traits::kGroup, kTiles - kWhole * Traits::kGroup>();
  }

  __device__ __forceinline__ void store_scattered() const {
#pragma unroll
    for (int e = 0; e < 2 * kTiles; ++e) {
      const int column = column_of(e / 2) + e % 2;
      const int64_t offset = output_offset(y_of(0), x_of(), column);
#pragma unroll
      for (int row = 0; row < kRows; ++row)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if (column >= a.c_out || !inside(row, half)) continue;
          const int64_t at = offset + (static_cast<int64_t>(row) * a.w * a.c_out + 8LL * half * a.run) * kBytes;
          const float v = sums[row][e / 2][2 * half + e % 2];
          const float residual =
              a.residual == nullptr ? 0.0f : to_float(*reinterpret_cast<const Element*>(a.residual + at));
          *reinterpret_cast<Element*>(a.out + at) = from_float<Element>(v + residual);
        }
    }
  }

  // Moves the rows of out that belong to the tile: residual to shared memory, or shared memory to out.
  template <bool kIn>
  __device__ __forceinline__ void move_staged() const {
    const int rows = min(Traits::kRows, a.h - y0) * a.r;
    const int bytes = min(Traits::kWidth, a.w - x0) * a.run * kBytes;
    const int64_t line = static_cast<int64_t>(a.w) * a.run * kBytes;
    const int64_t first =
        output_image() * kBytes + static_cast<int64_t>(y0) * a.r * line + static_cast<int64_t>(x0) * a.run * kBytes;
#pragma unroll 1
    for (int row = warp; row < rows; row += Traits::kWarps) {
      const int64_t global = first + row * line;
      const int shared = row * a.staged_pitch;
      if (a.out_by_vectors) {
#pragma unroll 1
        for (int at = lane * 16; at < bytes; at += 32 * 16) {
          uint32_t words[4];
          if constexpr (kIn) {
            load_global_below<0>(words, a.residual + global + at, 1);
            store_shared(tile + shared + at, words);
          } else {
            load_shared(words, tile + shared + at);
            store_global_below<0>(a.out + global + at, words, 1);
          }
        }
      } else {
#pragma unroll 1
        for (int at = lane * kBytes; at < bytes; at += 32 * kBytes) {
          Element* staged = reinterpret_cast<Element*>(memory + shared + at);
          if constexpr (kIn) {
            *staged = *reinterpret_cast<const Element*>(a.residual + global + at);
          } else {
            *reinterpret_cast<Element*>(a.out + global + at) = *staged;
          }
        }
      }
    }
  }

  // The sums of this lane into the staged rows, by pieces of kPiece neighbouring columns.
  template <int kPiece>
  __device__ __forceinline__ void stage_sums() const {
    struct alignas(kPiece * kBytes) Piece {
      Element of[kPiece];
    };
    const int line = a.r * a.staged_pitch, right = 8 * a.run * kBytes;
#pragma unroll
    for (int e = 0; e < 2 * kTiles; e += kPiece) {
      const int column = column_of(e / 2) + e % 2;
      if (column >= a.c_out) continue;
      const int sub_row = column / a.run;
      char* to = memory + warp_y * kRows * line + sub_row * a.staged_pitch +
                 ((warp_x * 16 + (lane >> 2)) * a.run + column - sub_row * a.run) * kBytes;
#pragma unroll
      for (int row = 0; row < kRows; ++row, to += line)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          Piece* at = reinterpret_cast<Piece*>(half == 0 ? to : to + right);
          float values[kPiece];
#pragma unroll
          for (int i = 0; i < kPiece; ++i) values[i] = sums[row][(e + i) / 2][2 * half + (e + i) % 2];
          if (a.residual != nullptr && inside(row, half)) {
            const Piece added = *at;
#pragma unroll
            for (int i = 0; i < kPiece; ++i) values[i] += to_float(added.of[i]);
          }
          if constexpr (kPiece * kBytes >= 4) {
            alignas(kPiece * kBytes) uint32_t words[kPiece * kBytes / 4];
            narrow<Math, false>(words, values);
            *at = *reinterpret_cast<const Piece*>(words);
          } else {
            at->of[0] = from_float<Element>(values[0]);
          }
        }
    }
  }

  __device__ __forceinline__ void store_staged() const {
    __syncthreads();  // the input tile is dead only when every warp has read it
    if (a.residual != nullptr) {
      move_staged<true>();
      __syncthreads();
    }
    constexpr int kWidest = kBytes == 2 && kTiles % 2 == 0 ? 4 : 2;
    if (a.run % kWidest == 0) {
      stage_sums<kWidest>();
    } else if (a.run % 2 == 0) {
      stage_sums<2>();
    } else {
      stage_sums<1>();
    }
    __syncthreads();
    move_staged<false>();
  }

  __device__ __forceinline__ void finish() {
    if (a.store == ConvStore::vectors && a.activation == Activation::relu && a.residual == nullptr && a.scale == 1.0f)
      return store_vectors<true>();
    activate();
    scale();
    if (a.store == ConvStore::vectors) return store_vectors<false>();
    if (a.store == ConvStore::staged) return store_staged();
    store_scattered();
  }
};

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, 2) conv3x3_kernel(const ConvArguments arguments) {
  extern __shared__ __align__(128) char conv3x3_shared[];
  if constexpr (kCapability >= Traits::Math::kCapability) {  // older devices are refused by the launcher
    ConvBlock<Traits> block(arguments, conv3x3_shared);
    block.start_at_bias();
    block.convolve();
    block.finish();
  }
}

}  // namespace vsr::cuda
