// 3x3 convolution as implicit GEMM on tensor cores, with everything behind it in the same kernel.
//
// Plan. A block of four warps computes a tile of kRows x kWidth pixels of one image, for kColumns output channels.
//   Input: the tile with its halo, one block of channels at a time, is copied to shared memory once and read from there
//     for all nine taps. Pixels are rows of kPixelBytes; their 16-byte chunks are permuted by a key of the pixel's
//     column, so that ldmatrix of eight neighbours hits all banks wherever the taps shift it. The key does not depend
//     on the row: rows are constant offsets. Aligned chunks of channels are copied asynchronously; what lies otherwise
//     (NCHW, odd channel counts, a list of channels) is read by elements and stored by chunks, with neighbouring lanes
//     where neighbouring elements are. A thread keeps the channels of its chunk in registers for all its pixels.
//   Weights: packed in the order of use and of B fragments. They pass through a ring of kSlots stages; one
//     barrier per stage both publishes the stage that arrived and frees the slot of the one before, which is refilled.
//   Sums: a warp owns kWarpRows rows x 16 pixels x kWarpTiles * 8 columns. The steps run over dx, then 16 channels, and
//     then dy: the kWarpRows + 2 fragments of A loaded for one (dx, channels) serve all three dy.
//   Epilogue: sums start at the bias; activation, scale and residual happen in registers. Three ways to store:
//     vectors:   the permutation of columns gave each lane neighbouring channels: 16-byte loads and stores;
//     staged:    runs that are no whole vectors (3 channels; 48 shuffled by 4) of a block that computes all columns: a
//                row of pixels is still contiguous in memory, so it is put together in shared memory, over the dead
//                input tile, and leaves in vectors; the residual is added then;
//     assembled: sums that go to a list of channels of the residual, sums that are kept as they are before activation,
//                and odd channel counts beyond 64. The sums go to shared memory as float32; threads then walk over the
//                output, whole vectors where it has them, and look up which sum belongs there. With a list, a block
//                writes the channels that its columns are added to, and the first block of columns also those that none
//                is: nothing is written by two blocks.
#pragma once

#if !defined(__CUDACC_RTC__)
#include <cuda_runtime_api.h>
#endif

#include "core/conv3x3.h"
#include "core/platform.h"
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

enum class ConvStore { vectors, staged, assembled };

// A launch, for the threads. Sizes in elements unless they say bytes.
struct ConvArguments {
  static constexpr bool kGathers = false;  // a way of its own to load listed channels
  const char* x;
  const char* weights;
  const float* bias;   // per column
  const float* slope;  // per column
  const char* residual;
  char* out;
  char* kept;
  const int64_t* in_channels;
  const int64_t* out_channels;
  Strides x_bytes;
  int h, w, c_in, c_out, c_total;
  int r;
  int run;  // columns of a pixel that are neighbours in out
  int column_blocks;
  int stages;
  int staged_pitch;     // bytes of a staged row
  int staged_side;      // threads that share a row when it moves on
  int staged_together;  // rows that the threads move at once
  int run_inverse;      // of run and staged_side: multiply and shift by kInverseBits instead of dividing
  int side_inverse;
  float scale;
  Activation activation;
  ConvStore store;         // of a row of out or kept without out_channels
  bool plain_relu;         // vectors, and nothing but relu happens to them
  bool x_by_vectors;       // chunks of x begin on 16 bytes
  bool lanes_along_w;      // pixels of x are closer to each other than channels
  bool rows_by_vectors;    // rows of a staged tile begin on 16 bytes in out and residual, in whole vectors
  bool listed_by_vectors;  // so do the pixels of out and residual with out_channels
};

// floor(a / b) = a * small_inverse(b) >> kInverseBits where 0 <= a < 256 and 0 < b <= 256.
constexpr int kInverseBits = 16;
constexpr int small_inverse(int b) { return ((1 << kInverseBits) + b - 1) / b; }

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

// Where a thread is in the launch. Every call reads it anew, for the compiler too: what is derived from it before the
// main loop and again behind it then takes no registers in between.
struct ThreadPlace {
  int thread, x, y, z;  // the last three of its block
};
__device__ __forceinline__ ThreadPlace read_place() {
  ThreadPlace at;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(at.thread));
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(at.x));
  asm volatile("mov.u32 %0, %%ctaid.y;" : "=r"(at.y));
  asm volatile("mov.u32 %0, %%ctaid.z;" : "=r"(at.z));
  return at;
}

// Where the ring of weights stands, in bytes from its start: the stage to use next, and the slot that is free after the
// next barrier.
struct RingPlace {
  uint32_t slot, free_slot;
};

// Arguments is ConvArguments, or a struct with the same names of which some are constants (conv3x3_special.cuh).
template <class Traits, class Arguments = ConvArguments>
struct ConvBlock {
  using TraitsOf = Traits;
  using Math = typename Traits::Math;
  using Element = typename Math::Element;
  static constexpr int kBytes = Math::kBytes;
  static constexpr int kParts = Math::kParts;
  static constexpr int kTiles = Traits::kWarpTiles;
  static constexpr int kRows = Traits::kWarpRows;
  static constexpr int kSweep = 32 * 16;                               // bytes that a warp copies at once
  static constexpr int kShare = Traits::kStageBytes / Traits::kWarps;  // bytes of a stage that a warp copies

  const Arguments& a;
  char* const memory;         // shared
  const uint32_t tile, ring;  // addresses in it
  int thread, lane, warp;
  int warp_n, warp_x, warp_y;
  int column_block, x0, y0;
  int x_end;  // the columns of the tile before this one count
  int64_t image;
  const char* weights;  // this thread's part of the next stage to ask for
  int unfetched;        // stages left to ask for
  int lanes_left;       // of the warp, this one included
  float sums[kRows][kTiles][4];

  __device__ __forceinline__ ConvBlock(const Arguments& arguments, char* shared)
      : a(arguments),
        memory(shared),
        tile(shared_address(shared)),
        ring(shared_address(shared) + Traits::kTileBytes),
        unfetched(a.stages) {
    take_place();
    weights = part_of(a.weights + static_cast<int64_t>(column_block) * a.stages * Traits::kStageBytes);
  }

  // With the ring anywhere, and the tile at (left, top), of whose columns only the first `width` count; all columns of
  // the output in one block.
  __device__ __forceinline__ ConvBlock(const Arguments& arguments, char* shared, uint32_t ring_address, int left,
                                       int top, int width)
      : a(arguments), memory(shared), tile(shared_address(shared)), ring(ring_address), unfetched(a.stages) {
    stand_at(threadIdx.x, 0, left, top, width, blockIdx.z);
    weights = part_of(a.weights);
  }

  // Which tile the launch gives to this block.
  __device__ __forceinline__ void take_place() {
    const ThreadPlace at = read_place();
    const bool one = a.column_blocks == 1;  // which most are: no division then
    const int across = one ? at.x : static_cast<unsigned>(at.x) / static_cast<unsigned>(a.column_blocks);
    const int block = one ? 0 : at.x - across * a.column_blocks;
    stand_at(at.thread, block, across * Traits::kWidth, at.y * Traits::kRows, Traits::kWidth, at.z);
  }

  __device__ __forceinline__ void stand_at(int of_threads, int of_columns, int left, int top, int width,
                                           int of_images) {
    thread = of_threads, lane = thread & 31, warp = thread >> 5;
    lanes_left = static_cast<int>(computed(static_cast<uint32_t>(32 - lane)));
    warp_n = warp % Traits::kWarpsN, warp_x = warp / Traits::kWarpsN % Traits::kWarpsX;
    warp_y = warp / (Traits::kWarpsN * Traits::kWarpsX);
    column_block = of_columns, x0 = left, y0 = top, x_end = min(left + width, a.w), image = of_images;
  }

  // Input ------------------------------------------------------------------------------------------------------------

  __device__ __forceinline__ const char* input(int y, int x) const {
    return a.x + image * a.x_bytes.n + y * a.x_bytes.h + x * a.x_bytes.w;
  }

  // A thread copies one chunk of one column, row after row; the two columns of the halo that are left come after.
  __device__ __forceinline__ void load_tile(int channel0) const {
    const int chunk = thread % Traits::kChunks, channel = channel0 + chunk * Traits::kChunkChannels;
    const int place = thread / Traits::kChunks;
    const auto limit = [&](int c) {  // rows of the tile before the image ends, if the chunk is inside at all
      const bool inside = channel < a.c_in && static_cast<unsigned>(x0 - 1 + c) < static_cast<unsigned>(a.w);
      return inside ? a.h - y0 + 1 : 0;
    };
    const auto source = [&](int row, int c) { return input(y0 - 1 + row, x0 - 1 + c) + channel * kBytes; };
    const auto target = [&](int row, int c) {
      return tile + row * Traits::kRowBytes + c * Traits::kPixelBytes + ((chunk ^ swizzle_key<Traits>(c)) << 4);
    };
    {
      const int rows = limit(place);
      const char* from = source(0, place);
      const uint32_t to = target(0, place);
      copy16_below<0, 0, 0>(to, from, y0 < 1 ? 0 : rows);
      unroll<Traits::kRows + 1>([&](auto i) {
        constexpr int kRow = decltype(i)::value + 1;
        from += a.x_bytes.h;
        copy16_below<kRow * Traits::kRowBytes, 0, kRow>(to, from, kRow == 1 && y0 < 0 ? 0 : rows);
      });
    }
    constexpr int kStep = Traits::kWidth / 2;  // rows of two columns that the threads cover at once
    const int c = Traits::kWidth + place % 2, first = place / 2;
    const int rows = limit(c) - first;
    const char* from = source(first, c);
    const uint32_t to = target(first, c);
    if (kStep <= Traits::kRows + 2 || first < Traits::kRows + 2)
      copy16_below<0, 0, 0>(to, from, y0 + first < 1 ? 0 : rows);
    unroll<(Traits::kRows + 1) / kStep>([&](auto i) {
      constexpr int kRow = (decltype(i)::value + 1) * kStep;
      from += kStep * a.x_bytes.h;
      if (kRow + kStep <= Traits::kRows + 2 || kRow + first < Traits::kRows + 2)
        copy16_below<kRow * Traits::kRowBytes, 0, kRow>(to, from, rows);
    });
  }

  // The same for any strides and channels. Lanes lie along the channels of a pixel or along the pixels of a row.
  __device__ __forceinline__ void load_tile_by_elements(int channel0, int k_blocks) const {
    constexpr int kPixels = (Traits::kRows + 2) * (Traits::kWidth + 2), kElements = Traits::kChunkChannels;
    const int chunk_step = a.lanes_along_w ? 1 : Traits::kChunks;
    const int pixel_step = a.lanes_along_w ? Traits::kThreads : Traits::kThreads / Traits::kChunks;
    const int first_pixel = a.lanes_along_w ? thread : thread / Traits::kChunks;
#pragma unroll 1
    for (int chunk = a.lanes_along_w ? 0 : thread % Traits::kChunks; chunk < 2 * k_blocks; chunk += chunk_step) {
      const int first = channel0 + chunk * kElements, channels = a.c_in - first;
      int64_t offsets[kElements];
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        int64_t channel = first + e;
        if (a.in_channels != nullptr && e < channels) channel = a.in_channels[channel];
        offsets[e] = channel * a.x_bytes.c;
      }
#pragma unroll 1
      for (int pixel = first_pixel; pixel < kPixels; pixel += pixel_step) {
        const int row = pixel / (Traits::kWidth + 2), c = pixel % (Traits::kWidth + 2);
        const int y = y0 - 1 + row, x = x0 - 1 + c;
        const bool inside = static_cast<unsigned>(y) < static_cast<unsigned>(a.h) &&
                            static_cast<unsigned>(x) < static_cast<unsigned>(a.w);
        const char* from = input(y, x);
        const int limit = inside ? channels : 0;
        uint32_t words[4];
        if constexpr (kBytes == 2) {
          uint32_t bits[kElements];
          unroll<kElements>([&](auto i) {
            constexpr int kAt = decltype(i)::value;
            bits[kAt] = load_global16_below<kAt>(from + offsets[kAt], limit);
          });
#pragma unroll
          for (int i = 0; i < 4; ++i) words[i] = bits[2 * i] | bits[2 * i + 1] << 16;
        } else {
          unroll<kElements>([&](auto i) {
            constexpr int kAt = decltype(i)::value;
            uint32_t word[1];
            load_global_below<kAt>(word, from + offsets[kAt], limit);
            words[kAt] = word[0];
          });
        }
        store_shared(tile + pixel * Traits::kPixelBytes + ((chunk ^ swizzle_key<Traits>(c)) << 4), words);
      }
    }
  }

  // Weights ----------------------------------------------------------------------------------------------------------

  // Where this thread's part of a stage begins. A warp copies neighbours, so that what a thread copies lies within the
  // reach of an instruction's offset.
  template <class Place>
  __device__ __forceinline__ Place part_of(Place stage) const {
    return stage + (warp * kShare + lane * 16);
  }

  // Asks for the next stage, into a slot; closes a group of copies even behind the last one, so that waits can count.
  __device__ __forceinline__ void fetch(uint32_t slot) {
    constexpr int kWhole = kShare / kSweep, kRest = kShare % kSweep;
    const uint32_t to = part_of(ring) + slot;
    if (unfetched > 0) {
      unroll<kWhole>([&](auto i) {
        constexpr int kAt = decltype(i)::value * kSweep;
        copy16<kAt, kAt>(to, weights);
      });
      if constexpr (kRest > 0)
        copy16_if_below<kWhole * kSweep, kWhole * kSweep, 32 - kRest / 16>(to, weights, lanes_left);
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

  // The tile of a block of channels, and before the first one the first stages of the weights. Asynchronous copies of a
  // tile must not be younger than those of the stage whose arrival says that the tile is there.
  __device__ __forceinline__ void load(int channel0, int k_blocks) {
    if (channel0 > 0) __syncthreads();  // the tile is still being read
    if (a.x_by_vectors) load_tile(channel0);
    if (channel0 == 0) {
#pragma unroll
      for (int slot = 0; slot < Traits::kSlots - 1; ++slot) fetch(slot * Traits::kStageBytes);
    } else if (a.x_by_vectors) {
      close_copies();
      wait_copies<0>();
    }
    if constexpr (Arguments::kGathers) {
      Arguments::gather(*this, channel0);
    } else {
      if (!a.x_by_vectors) load_tile_by_elements(channel0, k_blocks);
    }
  }

  // Blocks of k_channels that a tile with this many channels left to read has; no channels at all are one of padding.
  static __device__ __forceinline__ int k_blocks_of(int channels) {
    const int inside = min(channels, Traits::kTileChannels);
    return max((inside + Traits::kChannelsPerK - 1) / Traits::kChannelsPerK, 1);
  }

  // All steps of the tile in shared memory. `fetch_next` asks for a stage of weights into the slot given to it.
  template <class Fetch>
  __device__ __forceinline__ void walk(int k_blocks, RingPlace& at, Fetch fetch_next) {
    constexpr uint32_t kLastSlot = (Traits::kSlots - 1) * Traits::kStageBytes;
    const uint32_t b_lane = ring + warp_n * kTiles * 256 + lane * (kTiles == 1 ? 8 : 16);
    const uint32_t a_row = tile + warp_y * kRows * Traits::kRowBytes;
    const int k_end = 32 * k_blocks;
#pragma unroll 1
    for (int dx = 0; dx < 3; ++dx) {
      const int c = warp_x * 16 + (lane & 15) + dx;
      const uint32_t a_pixel = computed(a_row + c * Traits::kPixelBytes);
      const uint32_t key = computed(swizzle_key<Traits>(c) << 4 ^ (lane & 16));
      int k_bytes = 0;  // into the channels of a pixel
#pragma unroll 1
      do {
        wait_copies<Traits::kSlots - 2>();
        __syncthreads();
        fetch_next(at.free_slot);
        const uint32_t b_from = b_lane + at.slot;
        multiply<0>(a_pixel + (k_bytes ^ key), b_from);
        if constexpr (Traits::kPerStage == 2)
          if (k_bytes + 32 < k_end) multiply<Traits::kKBytes>(a_pixel + ((k_bytes + 32) ^ key), b_from);
        at.free_slot = at.slot;
        at.slot = at.slot == kLastSlot ? 0 : at.slot + Traits::kStageBytes;
        k_bytes += 32 * Traits::kPerStage;
      } while (k_bytes < k_end);
    }
  }

  __device__ __forceinline__ void convolve() {
    RingPlace at{0, (Traits::kSlots - 1) * Traits::kStageBytes};
    int channel0 = 0;
#pragma unroll 1
    do {
      const int k_blocks = k_blocks_of(a.c_in - channel0);
      load(channel0, k_blocks);
      walk(k_blocks, at, [this](uint32_t slot) { fetch(slot); });
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
  __device__ __forceinline__ bool inside(int row, int half) const {
    return y_of(row) < a.h && x_of() + 8 * half < x_end;
  }

  // Bytes from an output (residual, kept) to the column at pixel (y, x), where `run` columns are neighbours.
  __device__ __forceinline__ int64_t output_offset(int y, int x, int column, int run) const {
    const int sub_row = column / run;
    const int64_t line = static_cast<int64_t>(a.w) * run;
    return (((image * a.h + y) * a.r + sub_row) * line + static_cast<int64_t>(x) * run + (column - sub_row * run)) *
           kBytes;
  }

  // The stores of n-tiles kFirst .. kFirst + kSize - 1, which give the lane 2 * kSize neighbouring columns.
  template <bool kPlainRelu, int kFirst, int kSize>
  __device__ __forceinline__ void store_group(char* out, const char* added) const {
    constexpr int kWords = kSize * kBytes / 2;
    const int64_t line = static_cast<int64_t>(a.w) * a.c_out * kBytes, right = 8LL * a.run * kBytes;
    const int column = column_of(kFirst);
    const int64_t offset = output_offset(y_of(0), x_of(), column, a.run);
    // Rows of the warp before the image ends, if the column and the pixel are inside at all.
    const int rows = column < a.c_out ? a.h - y_of(0) : 0;
    const int limits[2] = {x_of() < x_end ? rows : 0, x_of() + 8 < x_end ? rows : 0};
    char* to = out + offset;
    const char* residual = added + offset;
    unroll<kRows>([&](auto i) {
      constexpr int kRow = decltype(i)::value;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float values[2 * kSize];
#pragma unroll
        for (int e = 0; e < 2 * kSize; ++e) values[e] = sums[kRow][kFirst + e / 2][2 * half + e % 2];
        uint32_t words[kWords];
        if constexpr (!kPlainRelu) {
          if (added != nullptr) {
            float more[2 * kSize];
            load_global_below<kRow>(words, half == 0 ? residual : residual + right, limits[half]);
            widen<Math>(more, words);
#pragma unroll
            for (int e = 0; e < 2 * kSize; ++e) values[e] += more[e];
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
  __device__ __forceinline__ void store_vectors(char* out, const char* added) const {
    constexpr int kWhole = kTiles / Traits::kGroup;
    unroll<kWhole>(
        [&](auto i) { store_group<kPlainRelu, decltype(i)::value * Traits::kGroup, Traits::kGroup>(out, added); });
    if constexpr (kWhole * Traits::kGroup < kTiles)
      store_group<kPlainRelu, kWhole * Traits::kGroup, kTiles - kWhole * Traits::kGroup>(out, added);
  }

  // The sums of this lane into the staged rows, by pieces of kPiece neighbouring columns. All its columns are
  // neighbours: one division finds the first, and a piece follows the one before or begins the next sub-row.
  template <int kPiece>
  __device__ __forceinline__ void stage_sums() const {
    constexpr int kPieceBytes = kPiece * kBytes;
    const int line = a.r * a.staged_pitch, right = 8 * a.run * kBytes;
    const int first = warp_n * kTiles * 8 + 2 * kTiles * (lane & 3), columns = a.c_out - first;
    const int sub_row = first * a.run_inverse >> kInverseBits, before = first - sub_row * a.run;
    uint32_t at = tile + warp_y * kRows * line + sub_row * a.staged_pitch +
                  ((warp_x * 16 + (lane >> 2)) * a.run + before) * kBytes;
    int left = a.run - before;  // columns of the sub-row that are still to come
    unroll<2 * kTiles / kPiece>([&](auto i) {
      constexpr int kFirst = decltype(i)::value * kPiece;
      if (kFirst >= columns) return;
      uint32_t to = at, to_right = at + right;
#pragma unroll
      for (int row = 0; row < kRows; ++row, to += line, to_right += line)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float values[kPiece];
#pragma unroll
          for (int e = 0; e < kPiece; ++e) values[e] = sums[row][(kFirst + e) / 2][2 * half + (kFirst + e) % 2];
          if constexpr (kPieceBytes == 2) {
            store_shared16(half == 0 ? to : to_right, Math::narrow2(values[0], values[0]));
          } else {
            uint32_t words[kPieceBytes / 4];
            narrow<Math, false>(words, values);
            store_shared(half == 0 ? to : to_right, words);
          }
        }
      at += kPieceBytes, left -= kPiece;
      if (left == 0) at += a.staged_pitch - a.run * kBytes, left = a.run;
    });
  }

  // The staged rows to an output, with the residual added to what was rounded, as separate operators do it. Threads lie
  // along a row, as many rows as they cover at once, and keep their place in it.
  template <bool kVectors, bool kAdd>
  __device__ __forceinline__ void move_staged(char* to, const char* residual) const {
    constexpr int kUnit = kVectors ? 16 : kBytes;
    const int first = thread * a.side_inverse >> kInverseBits;
    if (first >= a.staged_together) return;
    const int end = min(Traits::kRows, a.h - y0) * a.r * a.staged_pitch, bytes = (x_end - x0) * a.run * kBytes;
    const int64_t line = static_cast<int64_t>(a.w) * a.run * kBytes, step = a.staged_together * line;
    const int64_t corner = ((image * a.h + y0) * a.r + first) * line + static_cast<int64_t>(x0) * (a.run * kBytes);
    const int shared_step = a.staged_together * a.staged_pitch;
#pragma unroll 1
    for (int place = (thread - first * a.staged_side) * kUnit; place < bytes; place += a.staged_side * kUnit) {
      char* out = to + corner + place;
      const char* added = residual + corner + place;
#pragma unroll 4
      for (int shared = first * a.staged_pitch + place; shared < end; shared += shared_step, out += step) {
        if constexpr (kVectors) {
          uint32_t words[4];
          load_shared(words, tile + shared);
          if constexpr (kAdd) {
            uint32_t more[4];
            float values[Traits::kChunkChannels], others[Traits::kChunkChannels];
            load_global_below<0>(more, added, 1);
            widen<Math>(values, words);
            widen<Math>(others, more);
#pragma unroll
            for (int e = 0; e < Traits::kChunkChannels; ++e) values[e] += others[e];
            narrow<Math, false>(words, values);
          }
          store_global_below<0>(out, words, 1);
        } else {
          Element value = *reinterpret_cast<const Element*>(memory + shared);
          if constexpr (kAdd)
            value = from_float<Element>(to_float(value) + to_float(*reinterpret_cast<const Element*>(added)));
          *reinterpret_cast<Element*>(out) = value;
        }
        if constexpr (kAdd) added += step;
      }
    }
  }

  __device__ __forceinline__ void store_staged(char* to, const char* residual) const {
    __syncthreads();  // the input tile is dead only when every warp has read it
    constexpr int kWide = kBytes == 2 && Traits::kColumns >= 32 ? 4 : 2;
    if (a.run % kWide == 0) {
      stage_sums<kWide>();
    } else {
      stage_sums<1>();
    }
    __syncthreads();
    if (a.rows_by_vectors) {
      if (residual == nullptr) return move_staged<true, false>(to, nullptr);
      return move_staged<true, true>(to, residual);
    }
    if (residual == nullptr) return move_staged<false, false>(to, nullptr);
    move_staged<false, true>(to, residual);
  }

  // Assembled outputs: sums lie in shared memory by pixel and position, which is their place among the n-tiles of the
  // block. Positions come in pairs, permuted by a key of the pixel, so that the stores of a warp hit all banks.
  static __device__ __forceinline__ int sum_key(int pixel) {
    if constexpr (Traits::kColumns % 32 == 0) return (pixel & 3) << 3;
    return Traits::kColumns == 8 ? 0 : (pixel & 2) << 2;
  }
  static constexpr int kListed = kConvListed;  // output channels that are looked up at a time
  __device__ __forceinline__ int* assembled_places() const {
    return reinterpret_cast<int*>(memory + Traits::kRows * Traits::kWidth * Traits::kColumns * 4);
  }

  __device__ __forceinline__ void share_sums() const {
    const int pixel = warp_y * kRows * Traits::kWidth + warp_x * 16 + (lane >> 2);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int position = (warp_n * kTiles + t) * 8 + 2 * (lane & 3);
      float* to = reinterpret_cast<float*>(memory) + pixel * Traits::kColumns + (position ^ sum_key(pixel));
#pragma unroll
      for (int row = 0; row < kRows; ++row)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          *reinterpret_cast<float2*>(to + (row * Traits::kWidth + 8 * half) * Traits::kColumns) =
              make_float2(sums[row][t][2 * half], sums[row][t][2 * half + 1]);
    }
  }

  // Where the sums of channels first .. first + kListed - 1 of the output lie; kNoColumn, or kOtherBlock.
  static constexpr int kNoColumn = -1, kOtherBlock = -2;
  __device__ __forceinline__ void list_places(int first, bool listed) const {
    const int begin = column_block * Traits::kColumns;
    if (thread < kListed) assembled_places()[thread] = kNoColumn;
    __syncthreads();
    const auto set = [&](int column, int position) {
      const int64_t place = (listed ? a.out_channels[column] : column) - first;
      if (place >= 0 && place < kListed) assembled_places()[place] = position;
    };
    if (thread < Traits::kColumns) {
      constexpr int kWarpColumns = kTiles * 8;
      const int column =
          begin + thread / kWarpColumns * kWarpColumns + thread % 2 +
          conv_warp_column(thread / 8 % kTiles, thread % 8 / 2, kTiles, Traits::kGroup, a.store != ConvStore::vectors);
      if (column < a.c_out) set(column, thread);
    }
    if (listed) {
#pragma unroll 1
      for (int column = thread; column < a.c_out; column += Traits::kThreads)
        if (column < begin || column >= begin + Traits::kColumns) set(column, kOtherBlock);
    }
    __syncthreads();
  }

  // kUnit channels of the pixels first_pixel, first_pixel + step, ... of the tile; a step keeps the key.
  template <int kUnit>
  __device__ __forceinline__ void assemble(char* to, const char* residual, int channel, int run,
                                           const int (&places)[kUnit], int first_pixel, int step) const {
    constexpr int kWords = kUnit * kBytes / 4, kEnd = Traits::kRows * Traits::kWidth;
    const int64_t corner = output_offset(y0, x0, channel, run);
    const int64_t line = static_cast<int64_t>(a.w) * a.r * run * kBytes, right = static_cast<int64_t>(run) * kBytes;
    int from[kUnit];  // bytes from the sums of a pixel
#pragma unroll
    for (int e = 0; e < kUnit; ++e) from[e] = places[e] < 0 ? -1 : (places[e] ^ sum_key(first_pixel)) * 4;
#pragma unroll 1
    for (int pixel = first_pixel; pixel < kEnd; pixel += step) {
      const int row = pixel / Traits::kWidth, c = pixel % Traits::kWidth;
      if (y0 + row >= a.h || x0 + c >= x_end) continue;
      const int64_t at = corner + row * line + c * right;
      const uint32_t pixel_sums = tile + pixel * Traits::kColumns * 4;
      float values[kUnit] = {};
      if constexpr (kUnit > 1) {
        uint32_t words[kWords];
        load_global_below<0>(words, residual + at, residual == nullptr ? 0 : 1);
        widen<Math>(values, words);
      } else if (residual != nullptr) {
        values[0] = to_float(*reinterpret_cast<const Element*>(residual + at));
      }
#pragma unroll
      for (int e = 0; e < kUnit; ++e) values[e] += load_shared_at(pixel_sums, from[e]);
      if constexpr (kUnit > 1) {
        uint32_t words[kWords];
        narrow<Math, false>(words, values);
        store_global_below<0>(to + at, words, 1);
      } else {
        *reinterpret_cast<Element*>(to + at) = from_float<Element>(values[0]);
      }
    }
  }

  // With `listed`, columns go to out_channels.
  __device__ __forceinline__ void store_assembled(char* to, const char* residual, bool listed) const {
    constexpr int kVector = Traits::kChunkChannels;
    __syncthreads();  // the input tile is dead only when every warp has read it
    share_sums();
    const int columns_begin = column_block * Traits::kColumns;
    const int begin = listed ? 0 : columns_begin;
    const int end = listed ? a.c_total : min(columns_begin + Traits::kColumns, a.c_out);
    const int run = listed ? a.c_total : a.run;
    // Lanes take neighbouring vectors of a pixel, or neighbouring channels: 32 of them, then the next 32.
    const bool by_vectors = listed ? a.listed_by_vectors : a.store == ConvStore::vectors;
    const int units = by_vectors ? kListed / kVector : 32;
    const int place = thread % units * (by_vectors ? kVector : 1), first_pixel = thread / units;
    const int singles = by_vectors ? kVector : kListed / 32, next_single = by_vectors ? 1 : 32;
    const int least = listed && column_block == 0 ? kNoColumn : 0;
#pragma unroll 1
    for (int first = begin; first < end; first += kListed) {
      if (first > begin) __syncthreads();  // the list is still being read
      list_places(first, listed);
      if (by_vectors) {
        int places[kVector];
        bool all = first + place < end;
#pragma unroll
        for (int e = 0; e < kVector; ++e) {
          places[e] = assembled_places()[place + e];
          all = all && places[e] >= least;
        }
        if (all) {
          assemble(to, residual, first + place, run, places, first_pixel, Traits::kThreads / units);
          continue;
        }
      }
#pragma unroll 1
      for (int i = place; i < place + singles * next_single; i += next_single) {
        const int single[1] = {assembled_places()[i]};
        if (first + i < end && single[0] >= least)
          assemble(to, residual, first + i, run, single, first_pixel, Traits::kThreads / units);
      }
    }
  }

  __device__ __forceinline__ void finish() {
    if (a.plain_relu) return store_vectors<true>(a.out, nullptr);
    if (a.kept != nullptr) store_assembled(a.kept, nullptr, false);
    activate();
    scale();
    const bool listed = a.out_channels != nullptr;
    if (listed || a.store == ConvStore::assembled) return store_assembled(a.out, a.residual, listed);
    if (a.store == ConvStore::vectors) return store_vectors<false>(a.out, a.residual);
    store_staged(a.out, a.residual);
  }
};

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, 2) conv3x3_kernel(const ConvArguments arguments) {
  extern __shared__ __align__(128) char conv3x3_shared[];
  if constexpr (kCapability >= Traits::Math::kCapability) {  // older devices are refused by the launcher
    ConvBlock<Traits> block(arguments, conv3x3_shared);
    block.start_at_bias();
    block.convolve();
    block.take_place();
    block.finish();
  }
}

}  // namespace vsr::cuda
