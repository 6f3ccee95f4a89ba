// Weight gradient of a 3x3 convolution on tensor cores: a matrix product whose depth is the pixels.
//
// Plan. A block owns some output channels (rows of the MMA), some input channels (columns) and all nine taps, and a
// share of the pixels (a split). Its sums stay in registers from the first pixel to the last.
//
// Warps. A warp sums 32 x 16 channels for nine taps: 144 sums a lane, four MMAs a tap. Of all shapes of 144 sums this
// one reads the fewest bytes: 2560 from shared memory for 36 MMAs. (Few output or input channels take 16 x 16 or 32 x 8
// instead.) Warps that need the same pixels form a team, whose members have other input channels; teams take other
// pixels. A block of four teams of two then has 32 x 32 channels and 37 KB of partial sums. With 64 x 64 channels to a
// block it would load every pixel once instead of twice, but leave 147 KB: on 108 multiprocessors 32 MB written and
// read again, behind the products and not beside them, where a frame of 180 x 320 pixels has 15 MB.
//
// Walk. A strip is 16 columns of an image (8 in float32), the depth of one MMA. It is walked from top to bottom, three
// rows to a stage, one strip after the other. Row y - 1 of x goes with rows y, y - 1 and y - 2 of grad, one for each
// ky. The last three rows of grad stay in registers, in slots whose names turn as the stage is unrolled: a row of grad
// is read from shared memory once, a row of x three times, once for each kx. There is no vertical halo, and a split may
// begin anywhere: it first reads the two rows of grad above. Rows -1 and h of a strip are zeros (cp.async with zero
// fill), so that its end needs no branch.
//
// Shared memory. Per team a ring of kSlots stages [row][pixel][channel], loaded by the team for itself; one barrier of
// the team per stage both publishes the stage that arrived and frees the one before, which is refilled. Channels are
// neighbours for both operands, so 16-bit fragments come transposed from ldmatrix, and those of float32 from vector
// loads of channels that one lane needs. The 16-byte chunks of a pixel are permuted by a key of its column, which makes
// all of that free of conflicts for every kx.
//
// Bias. Where its gradient is wanted, the first block of columns multiplies each row of grad with ones as well, another
// row tile in each member of a team. Float32 is added by hand instead, for TF32 would round it.
//
// End. The teams' sums are added in shared memory, a third (one ky) at a time and always in the order of the teams, and
// go to the workspace in the order of registers. A second launch adds the splits, in order too, and puts the weight in
// its layout (conv3x3_wgrad.cu). No atomics: the same bits every time.
//
// NaN and infinity may spread to taps that meet them only in a product with the zeros around the image.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/conv3x3_wgrad.h"
#include "cuda/async_copy.cuh"
#include "cuda/memory.cuh"
#include "cuda/mma.cuh"
#include "cuda/unroll.cuh"

namespace vsr::cuda {

// Bytes by which a pointer into a tensor moves on.
struct StripSteps {
  int64_t pixel, row, stage;
  int64_t strip;  // from behind a strip to the first row of the next one in the same image
  int64_t image;  // the same where the next one is the first of another image
};

// A launch, for the threads. Sizes in elements unless they say bytes.
struct WeightGradientArguments {
  const char* x;
  const char* grad;
  const int64_t* in_channels;
  float* sums;         // of split 0
  int64_t split_sums;  // from one split to the next
  int64_t bias_sums;   // from a split's sums to those of grad
  StripSteps x_steps, grad_steps;
  int h, w, c_in, c_out;
  int row_strips;                      // of an image
  int strip_stages;                    // of a strip
  int share, remainder;                // stages of a team; so many teams have one more
  bool x_by_vectors, grad_by_vectors;  // pixels begin on 16 bytes
  bool bias;
};

template <class Math_, WeightGradientFormName kName>
struct WeightGradientTraits {
  using Math = Math_;
  static constexpr WeightGradientForm kForm = kWeightGradientForms[kName];
  static constexpr int kBytes = Math::kBytes;
  static constexpr int kRowTiles = kForm.row_tiles;
  static constexpr int kColumnTiles = kForm.column_tiles;
  static constexpr int kTeam = kForm.team;
  static constexpr int kTeams = kForm.teams;
  static constexpr int kRows = wgrad_rows(kForm);
  static constexpr int kColumns = wgrad_columns(kForm);
  static constexpr int kBlockSums = wgrad_block_tiles(kForm) * kWgradTile;
  static constexpr int kThreads = wgrad_threads(kForm);
  static constexpr int kTeamThreads = 32 * kTeam;
  static constexpr int kStrip = wgrad_strip(kBytes);
  static constexpr int kChunkChannels = 16 / kBytes;
  static constexpr int kInputPixel = kColumns * kBytes;  // bytes
  static constexpr int kGradPixel = kRows * kBytes;
  static constexpr int kInputChunks = kInputPixel / 16;
  static constexpr int kGradChunks = kGradPixel / 16;
  static constexpr int kInputRow = (kStrip + 2) * kInputPixel;
  static constexpr int kGradRow = kStrip * kGradPixel;
  static constexpr int kInputBytes = wgrad_input_bytes(kForm, kBytes);
  static constexpr int kStageBytes = wgrad_stage_bytes(kForm, kBytes);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  static constexpr int kSlots = wgrad_slots(kForm, false);
#else
  static constexpr int kSlots = wgrad_slots(kForm, true);
#endif
  static constexpr int kRingBytes = kTeams * kSlots * kStageBytes;
  static constexpr int kResident = wgrad_resident(kForm);

  // How a team copies a stage: each thread has a chunk of a pixel, the same in all three rows, in so many sweeps over
  // the strip; and chunks of the two columns of x behind the strip, all three rows in turn.
  static constexpr int kInputStep = kTeamThreads / kInputChunks;  // pixels
  static constexpr int kInputSweeps = (kStrip + kInputStep - 1) / kInputStep;
  static constexpr int kGradStep = kTeamThreads / kGradChunks;
  static constexpr int kGradSweeps = (kStrip + kGradStep - 1) / kGradStep;
  static constexpr int kEdgeStep = kTeamThreads / (2 * kInputChunks);  // rows
  static constexpr int kEdgeSweeps = (kWgradStageRows + kEdgeStep - 1) / kEdgeStep;

  static constexpr bool kRoom = Math::kParts == 1;  // for addresses in registers

  static constexpr int kLaneInputs = kBytes == 4 || kColumnTiles == 1 ? 1 : kColumnTiles / 2;  // loads per kx
  static constexpr int kLaneGrads = kBytes == 4 ? 1 : kRowTiles;
  // Row tiles whose bias a warp sums: 16-bit ones by another member each, those of float32 by all members.
  static constexpr int kBiasTiles = kBytes == 4 ? kRowTiles : (kRowTiles + kTeam - 1) / kTeam;
  static constexpr int kBiasSums = kBytes == 4 ? 2 : 4;  // of a lane, for each

  static_assert(kStrip % kInputStep == 0 || kInputStep > kStrip);
  static_assert(kStrip % kGradStep == 0 || kGradStep > kStrip);
  static_assert(kEdgeStep > 0 && kStageBytes % 16 == 0);
  static_assert(kTeam == 1 || kRowTiles <= kTeam, "each row tile is the first of a member");
  static_assert((kTeams - 1) * kTeam * 3 * kRowTiles * kColumnTiles * 512 <= kRingBytes, "a third of the teams' sums");
};

// Chunk h of the pixel in column c of a strip lies at h ^ key(c). ldmatrix reads one chunk of eight neighbours; a
// vector load in float32 reads neighbouring chunks of four neighbours.
template <int kBytes, int kChunks>
__device__ __forceinline__ int strip_key(int c) {
  if constexpr (kBytes == 4) {
    static_assert(kChunks == 4 || kChunks == 8);
    return kChunks == 8 ? 2 * (c & 3) : c & 2;
  } else {
    return c / (8 / kChunks) & (kChunks - 1);
  }
}

// The same value, in a register: the compiler would rather compute addresses again in every turn of a loop.
template <bool kRoom>
__device__ __forceinline__ uint32_t keep(uint32_t value) {
  return kRoom ? __shfl_sync(0xffffffffu, value, threadIdx.x & 31) : value;
}

template <int kThreads>
__device__ __forceinline__ void team_barrier(int team) {
  if constexpr (kThreads == 32) {
    __syncwarp();
  } else {
    asm volatile("bar.sync %0, %1;" ::"r"(team + 1), "n"(kThreads) : "memory");
  }
}

template <class Traits>
struct WeightGradientBlock {
  using Math = typename Traits::Math;
  static constexpr int kBytes = Math::kBytes;
  static constexpr int kParts = Math::kParts;
  static constexpr int kRowTiles = Traits::kRowTiles;
  static constexpr int kColumnTiles = Traits::kColumnTiles;
  using Grads = uint32_t[kWgradStageRows][kRowTiles][kParts][4];

  const WeightGradientArguments& a;
  const uint32_t memory, ring;           // shared: of the block, of the team
  const int lane, team, member, thread;  // thread: of the team
  const int row_block, column_block, split;

  // The next stage to ask for: rows y, y + 1, y + 2 of a strip.
  int left;  // stages to ask for
  int image, strip, y;
  const char *input_from, *edge_from, *grad_from;  // this thread's first chunk
  uint32_t input_to, edge_to, grad_to;             // and its place in a stage
  int input_limit[Traits::kInputSweeps];           // image rows where the chunk is inside the image at all
  int grad_limit[Traits::kGradSweeps];
  int edge_limit;

  uint32_t input_at[3][Traits::kLaneInputs], grad_at[Traits::kLaneGrads];  // this lane's fragments in a stage
  float sums[3][3][kRowTiles][kColumnTiles][4];                            // [ky][kx]
  float bias[Traits::kBiasTiles][Traits::kBiasSums];

  __device__ __forceinline__ WeightGradientBlock(const WeightGradientArguments& arguments, uint32_t shared)
      : a(arguments),
        memory(shared),
        ring(shared + threadIdx.x / Traits::kTeamThreads * (Traits::kSlots * Traits::kStageBytes)),
        lane(threadIdx.x & 31),
        team(threadIdx.x / Traits::kTeamThreads),
        member(threadIdx.x / 32 % Traits::kTeam),
        thread(threadIdx.x % Traits::kTeamThreads),
        row_block(blockIdx.y),
        column_block(blockIdx.x),
        split(blockIdx.z),
        sums{},
        bias{} {}

  __device__ __forceinline__ bool sums_bias() const { return a.bias && blockIdx.x == 0; }

  // Loading ----------------------------------------------------------------------------------------------------------

  __device__ __forceinline__ int input_column() const { return thread / Traits::kInputChunks; }
  __device__ __forceinline__ int edge_column() const { return Traits::kStrip + thread / Traits::kInputChunks % 2; }
  __device__ __forceinline__ int edge_row() const { return thread / (2 * Traits::kInputChunks); }
  __device__ __forceinline__ int grad_column() const { return thread / Traits::kGradChunks; }

  // Finds this thread's chunks of the rows y of a strip.
  __device__ __forceinline__ void find_chunks() {
    const int64_t pixel = (static_cast<int64_t>(image) * a.h + y) * a.w + strip * Traits::kStrip;
    const int chunk = thread % Traits::kInputChunks, grad_chunk = thread % Traits::kGradChunks;
    const char* const x =
        a.x + (pixel - 1) * a.x_steps.pixel + (static_cast<int64_t>(column_block) * Traits::kInputPixel + chunk * 16);
    input_from = x + input_column() * a.x_steps.pixel - a.x_steps.row;
    edge_from = x + edge_column() * a.x_steps.pixel + (edge_row() - 1) * a.x_steps.row;
    grad_from = a.grad + (pixel + grad_column()) * a.grad_steps.pixel +
                (static_cast<int64_t>(row_block) * Traits::kGradPixel + grad_chunk * 16);
    input_to = keep<Traits::kRoom>(ring + input_place(input_column(), chunk));
    edge_to = keep<Traits::kRoom>(ring + input_place(edge_column(), chunk) + edge_row() * Traits::kInputRow);
    grad_to = keep<Traits::kRoom>(ring + grad_place(grad_column(), grad_chunk));
    find_limits();
  }

  __device__ __forceinline__ void find_limits() {
    const int x0 = strip * Traits::kStrip;
    const int channel = column_block * Traits::kColumns + thread % Traits::kInputChunks * Traits::kChunkChannels;
    const int row = row_block * Traits::kRows + thread % Traits::kGradChunks * Traits::kChunkChannels;
    const auto limit = [&](int x, bool inside) {
      return inside && static_cast<unsigned>(x) < static_cast<unsigned>(a.w) ? a.h : -1;
    };
#pragma unroll
    for (int i = 0; i < Traits::kInputSweeps; ++i)
      input_limit[i] = limit(x0 - 1 + input_column() + i * Traits::kInputStep, channel < a.c_in);
    edge_limit = limit(x0 - 1 + edge_column(), channel < a.c_in);
#pragma unroll
    for (int i = 0; i < Traits::kGradSweeps; ++i)
      grad_limit[i] = limit(x0 + grad_column() + i * Traits::kGradStep, row < a.c_out);
  }

  // Turns to the rows below, or to the next strip.
  __device__ __forceinline__ void step() {
    y += kWgradStageRows;
    input_from += a.x_steps.stage, edge_from += a.x_steps.stage, grad_from += a.grad_steps.stage;
    if (y <= a.h) return;
    const bool last = ++strip == a.row_strips;
    const int64_t x_step = last ? a.x_steps.image : a.x_steps.strip;
    input_from += x_step, edge_from += x_step, grad_from += last ? a.grad_steps.image : a.grad_steps.strip;
    if (last) strip = 0, ++image;
    y = 0;
    find_limits();
  }

  static __device__ __forceinline__ uint32_t input_place(int c, int chunk) {
    return c * Traits::kInputPixel + ((chunk ^ strip_key<kBytes, Traits::kInputChunks>(c)) << 4);
  }
  static __device__ __forceinline__ uint32_t grad_place(int c, int chunk) {
    return Traits::kInputBytes + c * Traits::kGradPixel + ((chunk ^ strip_key<kBytes, Traits::kGradChunks>(c)) << 4);
  }

  // Rows y - 1, y, y + 1 of x.
  __device__ __forceinline__ void copy_input(uint32_t slot) const {
    unroll<Traits::kInputSweeps>([&](auto i) {
      constexpr int kFirst = decltype(i)::value * Traits::kInputStep;
      constexpr int kTo = kFirst * Traits::kInputPixel;  // whole periods of the key
      if (Traits::kInputStep > Traits::kStrip && input_column() >= Traits::kStrip) return;
      const char* from = input_from + kFirst * a.x_steps.pixel;
      const int limit = input_limit[decltype(i)::value] - y + 1;  // rows of the stage before the image ends
      copy16_below<kTo, 0, 0>(input_to + slot, from, y == 0 ? 0 : limit);
      copy16_below<kTo + Traits::kInputRow, 0, 1>(input_to + slot, from + a.x_steps.row, limit);
      copy16_below<kTo + 2 * Traits::kInputRow, 0, 2>(input_to + slot, from + 2 * a.x_steps.row, limit);
    });
    unroll<Traits::kEdgeSweeps>([&](auto i) {
      constexpr int kFirst = decltype(i)::value * Traits::kEdgeStep;
      const int row = edge_row() + kFirst;
      if (kFirst + Traits::kEdgeStep > kWgradStageRows && row >= kWgradStageRows) return;
      copy16_below<kFirst * Traits::kInputRow, 0, 0>(edge_to + slot, edge_from + kFirst * a.x_steps.row,
                                                     y + row == 0 ? 0 : edge_limit - y + 1 - row);
    });
  }

  // Rows y, y + 1, y + 2 of grad; or the last two of them, of the stage before.
  template <bool kBefore>
  __device__ __forceinline__ void copy_grad(uint32_t slot) const {
    unroll<Traits::kGradSweeps>([&](auto i) {
      constexpr int kFirst = decltype(i)::value * Traits::kGradStep;
      constexpr int kTo = kFirst * Traits::kGradPixel;
      if (Traits::kGradStep > Traits::kStrip && grad_column() >= Traits::kStrip) return;
      const char* from = grad_from + kFirst * a.grad_steps.pixel - (kBefore ? kWgradStageRows * a.grad_steps.row : 0);
      const int all = grad_limit[decltype(i)::value];
      const int limit = kBefore ? (y == 0 ? 0 : all - y + kWgradStageRows) : all - y;
      if constexpr (!kBefore) copy16_below<kTo, 0, 0>(grad_to + slot, from, limit);
      copy16_below<kTo + Traits::kGradRow, 0, 1>(grad_to + slot, from + a.grad_steps.row, limit);
      copy16_below<kTo + 2 * Traits::kGradRow, 0, 2>(grad_to + slot, from + 2 * a.grad_steps.row, limit);
    });
  }

  // Rows first .. first + 2 of columns x0 .. x0 + kWidth - 1, where pixels are not aligned or channels are picked:
  // channel_of gives the channel in memory of a channel of the block, or -1.
  template <int kWidth, int kChunks, class Place, class Channel>
  __device__ __forceinline__ void copy_elements(const char* from, int64_t pixel_bytes, int first, int x0, Place place,
                                                Channel channel_of) const {
#pragma unroll 1
    for (int i = thread; i < kWgradStageRows * kWidth * kChunks; i += Traits::kTeamThreads) {
      const int chunk = i % kChunks, c = i / kChunks % kWidth, row = i / kChunks / kWidth;
      const int row_y = first + row, x = x0 + c;
      const bool inside = static_cast<unsigned>(row_y) < static_cast<unsigned>(a.h) &&
                          static_cast<unsigned>(x) < static_cast<unsigned>(a.w);
      const char* pixel = from + ((static_cast<int64_t>(image) * a.h + row_y) * a.w + x) * pixel_bytes;
      uint32_t bits[4] = {0, 0, 0, 0};
#pragma unroll
      for (int e = 0; e < Traits::kChunkChannels; ++e) {
        const int channel = channel_of(chunk * Traits::kChunkChannels + e);
        if (inside && channel >= 0) {
          if constexpr (kBytes == 2) {
            bits[e / 2] |= static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(pixel)[channel]) << 16 * (e % 2);
          } else {
            bits[e] = reinterpret_cast<const uint32_t*>(pixel)[channel];
          }
        }
      }
      store_shared(place(row, c, chunk), bits);
    }
  }

  __device__ __forceinline__ uint32_t channel_list() const { return memory + Traits::kRingBytes; }

  __device__ __forceinline__ void copy_input_elements(uint32_t slot) const {
    const uint32_t list = channel_list();
    copy_elements<Traits::kStrip + 2, Traits::kInputChunks>(
        a.x, a.x_steps.pixel, y - 1, strip * Traits::kStrip - 1,
        [&](int row, int c, int chunk) { return slot + row * Traits::kInputRow + input_place(c, chunk); },
        [&](int column) {
          uint32_t word[1];
          load_shared(word, list + 4 * column);
          return static_cast<int>(word[0]);
        });
  }

  __device__ __forceinline__ void copy_grad_elements(uint32_t slot, int first) const {
    copy_elements<Traits::kStrip, Traits::kGradChunks>(
        a.grad, a.grad_steps.pixel, first, strip * Traits::kStrip,
        [&](int row, int c, int chunk) { return slot + row * Traits::kGradRow + grad_place(c, chunk); },
        [&](int row) {
          const int channel = row_block * Traits::kRows + row;
          return channel < a.c_out ? channel : -1;
        });
  }

  // Asks for the next stage, into a slot; closes a group of copies even behind the last one, so that waits can count.
  __device__ __forceinline__ void fetch(uint32_t slot) {
    if (left > 0) {
      if (a.x_by_vectors) {
        copy_input(slot);
      } else {
        copy_input_elements(ring + slot);
      }
      if (a.grad_by_vectors) {
        copy_grad<false>(slot);
      } else {
        copy_grad_elements(ring + slot, y);
      }
      step();
    }
    --left;
    close_copies();
  }

  // The rows of grad above the first stage: zeros above an image.
  __device__ __forceinline__ void fetch_before(uint32_t slot) const {
    if (a.grad_by_vectors) {
      copy_grad<true>(slot);
    } else {
      copy_grad_elements(ring + slot, y == 0 ? -kWgradStageRows : y - kWgradStageRows);
    }
    close_copies();
  }

  // Sums -------------------------------------------------------------------------------------------------------------

  __device__ __forceinline__ void find_fragments() {
    const int g = lane >> 2, q = lane & 3;
#pragma unroll
    for (int kx = 0; kx < 3; ++kx)
#pragma unroll
      for (int i = 0; i < Traits::kLaneInputs; ++i) {
        if constexpr (kBytes == 4) {
          const int channel = (member * 8 + g) * kColumnTiles;
          input_at[kx][i] = keep<Traits::kRoom>(ring + input_place(q + kx, channel / 4) + channel % 4 * 4);
        } else {
          input_at[kx][i] =
              keep<Traits::kRoom>(ring + input_place((lane & 15) + kx, member * kColumnTiles + 2 * i + (lane >> 4)));
        }
      }
#pragma unroll
    for (int i = 0; i < Traits::kLaneGrads; ++i) {
      if constexpr (kBytes == 4) {
        const int channel = g * 2 * kRowTiles;
        grad_at[i] = keep<Traits::kRoom>(ring + grad_place(q, channel / 4) + channel % 4 * 4);
      } else {
        const int tile = (i + member) % kRowTiles;
        grad_at[i] = keep<Traits::kRoom>(ring + grad_place((lane & 7) + (lane >> 4) * 8, 2 * tile + (lane >> 3) % 2));
      }
    }
  }

  // Rows of the MMA: a row of grad.
  template <int kRow>
  __device__ __forceinline__ void load_grads(Grads& grads, uint32_t slot) const {
    constexpr int kAt = kRow * Traits::kGradRow;
    if constexpr (kBytes == 2) {
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile)
        load_matrices_transposed<kAt>(grads[kRow][tile][0], grad_at[tile] + slot);
    } else {
      uint32_t near[2 * kRowTiles], far[2 * kRowTiles];  // pixels q and q + 4
      load_shared<kAt>(near, grad_at[0] + slot);
      load_shared<kAt + 4 * Traits::kGradPixel>(far, grad_at[0] + slot);
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          grads[kRow][tile][0][half] = near[2 * tile + half];
          grads[kRow][tile][0][2 + half] = far[2 * tile + half];
        }
      }
    }
  }

  template <int kRow>
  __device__ __forceinline__ void sum_bias(const Grads& grads) {
#pragma unroll
    for (int tile = 0; tile < Traits::kBiasTiles; ++tile) {
      if constexpr (kBytes == 2) {
        const uint32_t ones[1][2] = {{Math::kOnes, Math::kOnes}};
        Math::multiply(bias[tile], grads[kRow][tile], ones);
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) bias[tile][i % 2] += __uint_as_float(grads[kRow][tile][0][i]);
      }
    }
  }

  // Columns of the MMA: a row of x, moved by kx.
  template <int kRow>
  __device__ __forceinline__ void load_inputs(uint32_t (&inputs)[kColumnTiles][kParts][2], int kx,
                                              uint32_t slot) const {
    constexpr int kAt = kRow * Traits::kInputRow;
    if constexpr (kBytes == 4) {
      uint32_t near[kColumnTiles], far[kColumnTiles];
      load_shared<kAt>(near, input_at[kx][0] + slot);
      load_shared<kAt + 4 * Traits::kInputPixel>(far, input_at[kx][0] + slot);
#pragma unroll
      for (int tile = 0; tile < kColumnTiles; ++tile) inputs[tile][0][0] = near[tile], inputs[tile][0][1] = far[tile];
    } else if constexpr (kColumnTiles == 1) {
      load_matrices_transposed<kAt>(inputs[0][0], input_at[kx][0] + slot);
    } else {
#pragma unroll
      for (int i = 0; i < kColumnTiles / 2; ++i) {
        uint32_t words[4];
        load_matrices_transposed<kAt>(words, input_at[kx][i] + slot);
        inputs[2 * i][0][0] = words[0], inputs[2 * i][0][1] = words[1];
        inputs[2 * i + 1][0][0] = words[2], inputs[2 * i + 1][0][1] = words[3];
      }
    }
#pragma unroll
    for (int tile = 0; tile < kColumnTiles; ++tile) Math::split(inputs[tile]);
  }

  static __device__ __forceinline__ void multiply_tap(float (&to)[kRowTiles][kColumnTiles][4],
                                                      const uint32_t (&grads)[kRowTiles][kParts][4],
                                                      const uint32_t (&inputs)[kColumnTiles][kParts][2]) {
    // Where rounding of the sums would dominate, a step is summed apart: it is small, and rounds accordingly.
    [[maybe_unused]] float step[kRowTiles][kColumnTiles][4] = {};
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j) Math::multiply(kParts == 1 ? to[i][j] : step[i][j], grads[i], inputs[j]);
    if constexpr (kParts == 2) {
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
        for (int j = 0; j < kColumnTiles; ++j)
#pragma unroll
          for (int e = 0; e < 4; ++e) to[i][j][e] += step[i][j][e];
    }
  }

  // Row kRow of a stage: x at y - 1 + kRow with grad at y + kRow - ky.
  template <int kRow>
  __device__ __forceinline__ void multiply_row(Grads& grads, uint32_t input_slot, uint32_t grad_slot) {
    load_grads<kRow>(grads, grad_slot);
    if (sums_bias()) sum_bias<kRow>(grads);
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) Math::split(grads[kRow][tile]);
#pragma unroll
    for (int kx = 0; kx < 3; ++kx) {
      uint32_t inputs[kColumnTiles][kParts][2];
      load_inputs<kRow>(inputs, kx, input_slot);
#pragma unroll
      for (int ky = 0; ky < 3; ++ky)
        multiply_tap(sums[ky][kx], grads[(kRow - ky + kWgradStageRows) % kWgradStageRows], inputs);
    }
  }

  __device__ __forceinline__ void multiply_stage(Grads& grads, uint32_t slot) {
    if constexpr (kParts == 1) {
      multiply_row<0>(grads, slot, slot);
      multiply_row<1>(grads, slot, slot);
      multiply_row<2>(grads, slot, slot);
    } else {
      // Steps that are summed apart take many registers: one row at a time, and the rows of grad move on.
#pragma unroll 1
      for (int row = 0; row < kWgradStageRows; ++row) {
        multiply_row<0>(grads, slot + row * Traits::kInputRow, slot + row * Traits::kGradRow);
#pragma unroll
        for (int tile = 0; tile < kRowTiles; ++tile)
#pragma unroll
          for (int part = 0; part < kParts; ++part)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              grads[1][tile][part][e] = grads[2][tile][part][e];
              grads[2][tile][part][e] = grads[0][tile][part][e];
            }
      }
    }
  }

  __device__ __forceinline__ void publish() const {
    wait_copies<Traits::kSlots - 2>();
    team_barrier<Traits::kTeamThreads>(team);
  }

  // Sums over the stages of this team's share.
  __device__ __forceinline__ void walk() {
    const int share = split * Traits::kTeams + team;
    left = a.share + (share < a.remainder ? 1 : 0);
    const int first = share * a.share + min(share, a.remainder), first_strip = first / a.strip_stages;
    image = first_strip / a.row_strips, strip = first_strip % a.row_strips;
    y = (first - first_strip * a.strip_stages) * kWgradStageRows;
    if (left == 0) left = 1, y = a.h + kWgradStageRows;  // nothing to do is a stage of zeros below the image
    int turns = left;
    find_chunks();
    find_fragments();

    constexpr uint32_t kLastSlot = (Traits::kSlots - 1) * Traits::kStageBytes;
    fetch_before(0);
    if constexpr (Traits::kSlots == 3) fetch(Traits::kStageBytes);
    publish();
    fetch(kLastSlot);
    Grads grads;
    load_grads<1>(grads, 0);
    load_grads<2>(grads, 0);
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) Math::split(grads[1][tile]), Math::split(grads[2][tile]);

    uint32_t slot = Traits::kStageBytes, free_slot = 0;
#pragma unroll 1
    do {
      publish();
      fetch(free_slot);
      multiply_stage(grads, slot);
      free_slot = slot;
      slot = slot == kLastSlot ? 0 : slot + Traits::kStageBytes;
    } while (--turns > 0);
  }

  // End --------------------------------------------------------------------------------------------------------------

  // The teams' sums of grad, added up and stored by the first threads of the block.
  __device__ __forceinline__ void store_bias(float* to) const {
    const int g = lane >> 2;
#pragma unroll
    for (int i = 0; i < Traits::kBiasTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float sum = bias[i][half * (Traits::kBiasSums / 2)];
        if constexpr (kBytes == 4) {
          sum += __shfl_xor_sync(0xffffffffu, sum, 1);
          sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        }
        const int row = wgrad_row(kRowTiles, kBytes, member, i, g + 8 * half);
        if (lane % 4 == 0 && member < (kBytes == 4 ? 1 : kRowTiles))
          store_word(memory + (team * Traits::kRows + row) * 4, __float_as_uint(sum));
      }
    }
    __syncthreads();
    if (threadIdx.x < Traits::kRows) {
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < Traits::kTeams; ++i) {
        uint32_t word[1];
        load_shared(word, memory + (i * Traits::kRows + threadIdx.x) * 4);
        sum += __uint_as_float(word[0]);
      }
      to[threadIdx.x] = sum;
    }
    __syncthreads();
  }

  static __device__ __forceinline__ void store_word(uint32_t to, uint32_t value) {
    const uint32_t word[1] = {value};
    store_shared(to, word);
  }

  // Adds the sums of the other teams, one ky at a time, each by another team.
  __device__ __forceinline__ void store_sums(float* to) {
    constexpr int kTiles = 3 * kRowTiles * kColumnTiles;  // of a ky
    constexpr int kPart = kTiles * 512;
    const uint32_t own = memory + member * kPart + lane * 16;
    unroll<3>([&](auto i) {
      constexpr int kKy = decltype(i)::value;
      auto& part = reinterpret_cast<float (&)[kTiles][4]>(sums[kKy]);
      if (team != kKy) {
        const uint32_t place = own + (team < kKy ? team : team - 1) * (Traits::kTeam * kPart);
        unroll<kTiles>([&](auto tile) {
          constexpr int kTile = decltype(tile)::value;
          const float (&sum)[4] = part[kTile];
          const uint32_t words[4] = {__float_as_uint(sum[0]), __float_as_uint(sum[1]), __float_as_uint(sum[2]),
                                     __float_as_uint(sum[3])};
          store_shared<kTile * 512>(place, words);
        });
      }
      __syncthreads();
      if (team == kKy) {
        float* const out = to + (member * 3 + kKy) * kTiles * kWgradTile + lane * 4;
        unroll<kTiles>([&](auto tile) {
          constexpr int kTile = decltype(tile)::value;
          float (&sum)[4] = part[kTile];
          unroll<Traits::kTeams - 1>([&](auto other) {
            uint32_t words[4];
            load_shared<decltype(other)::value * Traits::kTeam * kPart + kTile * 512>(words, own);
#pragma unroll
            for (int e = 0; e < 4; ++e) sum[e] += __uint_as_float(words[e]);
          });
          *reinterpret_cast<float4*>(out + kTile * kWgradTile) = make_float4(sum[0], sum[1], sum[2], sum[3]);
        });
      }
      if constexpr (kKy < 2) __syncthreads();
    });
  }

  __device__ __forceinline__ void run() {
    if (!a.x_by_vectors) {
      for (int i = threadIdx.x; i < Traits::kColumns; i += Traits::kThreads) {
        const int channel = column_block * Traits::kColumns + i;
        int from = channel < a.c_in ? channel : -1;
        if (from >= 0 && a.in_channels != nullptr) from = static_cast<int>(a.in_channels[channel]);
        store_word(channel_list() + 4 * i, static_cast<uint32_t>(from));
      }
      __syncthreads();
    }
    walk();
    __syncthreads();
    float* const mine = a.sums + static_cast<int64_t>(split) * a.split_sums;
    if (sums_bias()) store_bias(mine + a.bias_sums + row_block * Traits::kRows);
    store_sums(mine + (static_cast<int64_t>(row_block) * gridDim.x + column_block) * Traits::kBlockSums);
  }
};

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kResident)
    conv3x3_weight_gradient_kernel(const __grid_constant__ WeightGradientArguments arguments) {
#if defined(__CUDA_ARCH__)
  if constexpr (__CUDA_ARCH__ / 10 >= Traits::Math::kCapability) {  // older devices are refused by the launcher
    extern __shared__ __align__(128) char shared[];
    WeightGradientBlock<Traits>(arguments, shared_address(shared)).run();
  }
#endif
}

}  // namespace vsr::cuda
