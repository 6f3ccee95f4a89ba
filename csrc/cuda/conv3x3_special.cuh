// The 3x3 convolution for one set of channel counts, lists of channels and what follows the sums, all of them
// constants: what the run-time compiler makes of a layer.
//
// Plan. It is the kernel of conv3x3_kernel.cuh, whose block reads its arguments by name; here most of the names are
// constants. Branches on them vanish, divisions by them become multiplications, and of the ways to store only one is
// left in the code. Weights are packed as for that kernel, so that both can use one packing.
//   Listed channels of a tensor whose pixels lie on vectors are not read one by one: a thread takes a whole pixel,
//   reads the vectors that hold listed channels (its neighbours read the same lines, which stay in the L1), and puts
//   the chunks of the tile together by permutations of bytes, each of which is known. Eight neighbours store to eight
//   chunks of different banks, by the tile's own permutation.
#pragma once

#include "cuda/conv3x3_kernel.cuh"

namespace vsr::cuda {

// Call has the constants, under the names used here.
template <class Call>
struct SpecialArguments {
  static constexpr Conv3x3Layout kLayout =
      conv3x3_layout(Call::kIn, Call::kOut, Call::kShuffle, Call::kDType, Call::Math::kParts == 2);
  static constexpr int kBytes = kLayout.element_bytes;
  static constexpr bool kListed = Call::kTotal != 0;
  static constexpr int kWidth = conv_tile_width(kLayout.columns);
  static constexpr int kChunkChannels = 16 / kBytes;

  // What a launch brings.
  const char* x;
  const char* weights;
  const float* bias;
  const float* slope;
  const char* residual;
  char* out;
  Strides x_bytes;
  int h, w;
  const int* in_channels;
  const int* out_channels;
  float scale;  // 1 where Call::kScaled is false
  // The width of the image decides.
  bool rows_by_vectors;
  int staged_side, staged_together, side_inverse;

  static constexpr char* kept = nullptr;
  static constexpr int c_in = Call::kIn, c_out = Call::kOut, c_total = Call::kTotal;
  static constexpr int r = Call::kShuffle, run = Call::kOut / r;
  static constexpr int column_blocks = kLayout.column_blocks, stages = kLayout.stages;
  static constexpr int staged_pitch = static_cast<int>(ceil_div(kWidth * run * kBytes, 16) * 16 + 32);
  static constexpr int staged_units(bool vectors) { return kWidth * run * kBytes / (vectors ? 16 : kBytes); }
  static constexpr int side_of(bool vectors) {
    return staged_units(vectors) < kConvThreads ? staged_units(vectors) : kConvThreads;
  }
  static constexpr int run_inverse = small_inverse(run);
  static constexpr Activation activation = Call::kActivation;
  static constexpr ConvStore store = whole_vectors(kLayout) ? ConvStore::vectors
                                     : column_blocks == 1   ? ConvStore::staged
                                                            : ConvStore::assembled;
  static constexpr bool plain_relu =
      store == ConvStore::vectors && activation == Activation::relu && !Call::kResidual && !Call::kScaled && !kListed;
  static constexpr bool x_by_vectors = Call::kXByVectors, lanes_along_w = Call::kLanesAlongW;
  static constexpr bool listed_by_vectors = Call::kListedByVectors;

  // Listed channels -------------------------------------------------------------------------------------------------

  // Vectors of a pixel of x from the first to the last that hold channels first .. end - 1 of the list.
  struct Vectors {
    int first, count;
  };
  static __device__ constexpr Vectors vectors_of(int first, int end) {
    int least = Call::in_channel(first) / kChunkChannels, most = least;
    for (int i = first + 1; i < end; ++i) {
      const int at = Call::in_channel(i) / kChunkChannels;
      least = at < least ? at : least, most = at > most ? at : most;
    }
    return {least, most - least + 1};
  }
  static __device__ constexpr int end_of_block(int block) {
    const int end = (block + 1) * kLayout.tile_channels;
    return end < c_in ? end : c_in;
  }
  static constexpr int kMostVectors = 8;  // that a thread holds: 32 registers
  static __device__ constexpr bool gathers() {
    if (!Call::kPixelsOnVectors) return false;
    for (int block = 0; block < kLayout.channel_blocks; ++block)
      if (vectors_of(block * kLayout.tile_channels, end_of_block(block)).count > kMostVectors) return false;
    return true;
  }
  static constexpr bool kGathers = gathers();

  // Word `kWord` of a chunk that begins with entry kFirst of the list, from the vectors from kVector on.
  template <int kFirst, int kEnd, int kVector, int kWords>
  static __device__ __forceinline__ uint32_t gathered(const uint32_t (&words)[kWords]) {
    constexpr int kPerWord = 4 / kBytes;
    if constexpr (kFirst >= kEnd) {
      return 0;
    } else {
      constexpr int kAt = Call::in_channel(kFirst) - kVector * kChunkChannels;
      if constexpr (kPerWord == 1) {
        return words[kAt];
      } else {
        constexpr int kLower = kAt % 2 == 0 ? 0x10 : 0x32;
        if constexpr (kFirst + 1 >= kEnd) {
          return __byte_perm(words[kAt / 2], 0, 0x4400 | kLower);
        } else {
          constexpr int kNext = Call::in_channel(kFirst + 1) - kVector * kChunkChannels;
          constexpr int kUpper = kNext % 2 == 0 ? 0x5400 : 0x7600;
          return __byte_perm(words[kAt / 2], words[kNext / 2], kUpper | kLower);
        }
      }
    }
  }

  template <int kBlock, class Block>
  static __device__ __forceinline__ void gather_block(const Block& block) {
    using Traits = typename Block::TraitsOf;
    constexpr int kFirst = kBlock * kLayout.tile_channels, kEnd = end_of_block(kBlock);
    constexpr int kChunks = 2 * ((kEnd - kFirst + kLayout.k_channels - 1) / kLayout.k_channels);
    constexpr Vectors kVectors = vectors_of(kFirst, kEnd);
    constexpr int kPixels = (Traits::kRows + 2) * (Traits::kWidth + 2);
#pragma unroll 1
    for (int pixel = block.thread; pixel < kPixels; pixel += Traits::kThreads) {
      const int row = pixel / (Traits::kWidth + 2), c = pixel % (Traits::kWidth + 2);
      const int y_in = block.y0 - 1 + row, x_in = block.x0 - 1 + c;
      const bool inside = static_cast<unsigned>(y_in) < static_cast<unsigned>(block.a.h) &&
                          static_cast<unsigned>(x_in) < static_cast<unsigned>(block.a.w);
      const char* from = block.input(y_in, x_in) + kVectors.first * 16;
      uint32_t words[4 * kVectors.count];
      unroll<kVectors.count>([&](auto i) {
        constexpr int kVector = decltype(i)::value;
        uint32_t vector[4];
        load_global_below<0>(vector, from + kVector * 16, inside ? 1 : 0);
#pragma unroll
        for (int e = 0; e < 4; ++e) words[4 * kVector + e] = vector[e];
      });
      const uint32_t to = block.tile + pixel * Traits::kPixelBytes, key = swizzle_key<Traits>(c) << 4;
      unroll<kChunks>([&](auto i) {
        constexpr int kChunk = decltype(i)::value;
        uint32_t chunk[4];
        unroll<4>([&](auto j) {
          constexpr int kEntry = kFirst + kChunk * kChunkChannels + decltype(j)::value * (4 / kBytes);
          chunk[decltype(j)::value] = gathered<kEntry, kEnd, kVectors.first>(words);
        });
        store_shared(to + (kChunk << 4 ^ key), chunk);
      });
    }
  }

  // The tile of a block of channels of the list.
  template <class Block>
  static __device__ __forceinline__ void gather(const Block& block, int channel0) {
    unroll<kLayout.channel_blocks>([&](auto i) {
      constexpr int kBlock = decltype(i)::value;
      if (channel0 == kBlock * kLayout.tile_channels) gather_block<kBlock>(block);
    });
  }
};

// The figures that a launch needs.
template <class Call>
struct SpecialTile {
  using Arguments = SpecialArguments<Call>;
  static constexpr int kColumns = Arguments::kLayout.columns, kColumnBlocks = Arguments::column_blocks;
  static constexpr int kWidth = Arguments::kWidth;
  static constexpr int larger(int a, int b) { return a > b ? a : b; }
  static constexpr int kPlain = conv_shared_bytes(kColumns, Call::Math::kParts, Call::kRows);
  static constexpr int kStaged =
      Arguments::store == ConvStore::staged ? Call::kRows * Arguments::r * Arguments::staged_pitch : 0;
  static constexpr bool kAssembles = Arguments::kListed || Arguments::store == ConvStore::assembled;
  static constexpr int kSharedBytes =
      larger(kPlain, larger(kStaged, kAssembles ? conv_assembled_bytes(kColumns, Call::kRows) : 0));
};

template <class Call>
__device__ __forceinline__ void convolve_special(const char* x, const char* packed, const char* residual, char* out,
                                                 const Strides& x_bytes, int h, int w, float scale,
                                                 const int* in_channels, const int* out_channels) {
  using Arguments = SpecialArguments<Call>;
  using Traits = ConvTraits<typename Call::Math, Arguments::kLayout.columns, Call::kRows>;
  extern __shared__ __align__(128) char conv3x3_shared[];
  const float* behind = reinterpret_cast<const float*>(packed + packed_weights(Arguments::kLayout) * Arguments::kBytes);
  const bool by_vectors = Call::kOutOnVectors && Arguments::kWidth * Arguments::run * Arguments::kBytes % 16 == 0 &&
                          static_cast<int64_t>(w) * Arguments::run * Arguments::kBytes % 16 == 0;
  constexpr int kSide = Arguments::side_of(false), kVectorSide = Arguments::side_of(true);
  const int64_t channel_bytes = Call::kNeighbours ? Arguments::kBytes : x_bytes.c;
  const Arguments arguments{x,
                            packed,
                            behind,
                            behind + packed_columns(Arguments::kLayout),
                            Call::kResidual ? residual : nullptr,
                            out,
                            {x_bytes.n, channel_bytes, x_bytes.h, x_bytes.w},
                            h,
                            w,
                            in_channels,
                            out_channels,
                            Call::kScaled ? scale : 1.0f,
                            by_vectors,
                            by_vectors ? kVectorSide : kSide,
                            kConvThreads / (by_vectors ? kVectorSide : kSide),
                            by_vectors ? small_inverse(kVectorSide) : small_inverse(kSide)};
  ConvBlock<Traits, Arguments> block(arguments, conv3x3_shared);
  block.start_at_bias();
  block.convolve();
  block.take_place();
  block.finish();
}

}  // namespace vsr::cuda
