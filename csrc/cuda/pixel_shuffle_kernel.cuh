// Pixel shuffle and its inverse: what the threads do.
//
// Plan. A thread moves one block of r x r vectors of 16 bytes through registers, so that every global access is 16
// bytes wide on both sides and no shared memory or barrier is needed:
//   channels_last: V neighbouring output channels of one pixel. The packed side holds them as V * r * r neighbouring
//     elements (r * r vectors); the other side as one vector in each of r * r pixels. Threads run over channel groups
//     first, then pixels: the vectors of a warp are neighbours on the shuffled side, and on the packed side the L1
//     serves the r * r vectors that a thread reads one after the other.
//   contiguous: V neighbouring pixels of one output channel and one sub-row i. The packed side holds r planes with one
//     vector each; the other side V * r neighbouring elements, i.e. r vectors. Threads run over the row first.
// The transposition between the two happens in registers: the loops are unrolled, so that no index is dynamic.
// Where the sizes or addresses do not allow that, or r is not 2, 3 or 4:
//   channels_last, 48 channels that become 3 (the last layer of a network): a block takes a stretch of one row of
//     pixels, copies it to shared memory in vectors, and a thread takes from there what a group of pixels (a whole
//     number of vectors) has in one of the four rows: pieces of four neighbours, which it transposes in registers. The
//     rows are put together in shared memory again, since the threads that hold neighbouring groups hold no
//     neighbouring vectors. Vectors are permuted and rows padded so that every access hits all banks.
//   channels_last, other channels: a block stages a stretch of one row of pixels in shared memory. On the packed side
//     the stretch is one run of memory, on the other side one run in each of r rows; both are moved in vectors of 16
//     bytes where their addresses allow it. One barrier lies between the two; a thread finds its place in the stretch
//     by one division per vector and walks on from there.
//   contiguous, or a pixel that does not fit shared memory: single elements.
#pragma once

#include "core/pixel_shuffle.h"
#include "core/platform.h"

namespace vsr::cuda {

constexpr int kShuffleThreads = 256;
constexpr int kShuffleVectorBytes = 16;

template <class T>
struct alignas(kShuffleVectorBytes) ShuffleVector {
  static constexpr int kSize = kShuffleVectorBytes / sizeof(T);
  T lane[kSize];
};

template <class T>
__device__ ShuffleVector<T> load_vector(const void* base, int64_t offset) {
  const int4 bits = *reinterpret_cast<const int4*>(static_cast<const T*>(base) + offset);
  return *reinterpret_cast<const ShuffleVector<T>*>(&bits);
}

template <class T>
__device__ void store_vector(void* base, int64_t offset, const ShuffleVector<T>& v) {
  *reinterpret_cast<int4*>(static_cast<T*>(base) + offset) = *reinterpret_cast<const int4*>(&v);
}

template <class T, int R, bool kInverse>
__device__ __forceinline__ void shuffle_channels_last(const PixelShuffle& p, int64_t units) {
  constexpr int V = ShuffleVector<T>::kSize;
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * kShuffleThreads + threadIdx.x;
  if (unit >= units) return;
  const int64_t groups = p.c / V;
  const int64_t c = unit % groups * V, pixel = unit / groups;
  const int64_t w = pixel % p.w, row = pixel / p.w;
  const int64_t h = row % p.h, n = row / p.h;
  // packed[k] is element k of V * R * R: channel k / R^2 of the group, sub-pixel k % R^2.
  ShuffleVector<T> packed[R * R], shuffled[R * R];
  const int64_t packed_at = packed_offset(p, n, c, 0, 0, h, w);
  if constexpr (!kInverse) {
#pragma unroll
    for (int k = 0; k < R * R; ++k) packed[k] = load_vector<T>(p.source, packed_at + k * V);
#pragma unroll
    for (int e = 0; e < V * R * R; ++e) shuffled[e % (R * R)].lane[e / (R * R)] = packed[e / V].lane[e % V];
#pragma unroll
    for (int k = 0; k < R * R; ++k)
      store_vector(p.destination, shuffled_offset(p, n, c, k / R, k % R, h, w), shuffled[k]);
  } else {
#pragma unroll
    for (int k = 0; k < R * R; ++k)
      shuffled[k] = load_vector<T>(p.source, shuffled_offset(p, n, c, k / R, k % R, h, w));
#pragma unroll
    for (int e = 0; e < V * R * R; ++e) packed[e / V].lane[e % V] = shuffled[e % (R * R)].lane[e / (R * R)];
#pragma unroll
    for (int k = 0; k < R * R; ++k) store_vector(p.destination, packed_at + k * V, packed[k]);
  }
}

template <class T, int R, bool kInverse>
__device__ __forceinline__ void shuffle_contiguous(const PixelShuffle& p, int64_t units) {
  constexpr int V = ShuffleVector<T>::kSize;
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * kShuffleThreads + threadIdx.x;
  if (unit >= units) return;
  const int64_t groups = p.w / V;
  const int64_t w = unit % groups * V;
  int64_t rest = unit / groups;
  const int64_t h = rest % p.h;
  rest /= p.h;
  const int64_t i = rest % R;
  rest /= R;
  const int64_t c = rest % p.c, n = rest / p.c;
  ShuffleVector<T> planes[R],
      line[R];  // planes[j]: sub-column j of V pixels; line: the V * R neighbours of the shuffled row
  const int64_t line_at = shuffled_offset(p, n, c, i, 0, h, w);
  if constexpr (!kInverse) {
#pragma unroll
    for (int j = 0; j < R; ++j) planes[j] = load_vector<T>(p.source, packed_offset(p, n, c, i, j, h, w));
#pragma unroll
    for (int e = 0; e < V * R; ++e) line[e / V].lane[e % V] = planes[e % R].lane[e / R];
#pragma unroll
    for (int k = 0; k < R; ++k) store_vector(p.destination, line_at + k * V, line[k]);
  } else {
#pragma unroll
    for (int k = 0; k < R; ++k) line[k] = load_vector<T>(p.source, line_at + k * V);
#pragma unroll
    for (int e = 0; e < V * R; ++e) planes[e % R].lane[e / R] = line[e / V].lane[e % V];
#pragma unroll
    for (int j = 0; j < R; ++j) store_vector(p.destination, packed_offset(p, n, c, i, j, h, w), planes[j]);
  }
}

// 48 channels, three colours by 4 x 4.
template <class T>
struct ShuffleColours {
  static constexpr int kR = 4, kC = 3;
  static constexpr int kGroup = kShuffleVectorBytes / (kR * sizeof(T));  // pixels
  static constexpr int kGroups = kShuffleThreads / kR;                   // of a block: a thread per group and row
  static constexpr int kPixels = kGroup * kGroups;                       // of a stretch
  static constexpr int kVectors = kGroup * kC * kR * kR * sizeof(T) / kShuffleVectorBytes;  // of a group
  static constexpr int kRowVectors = kVectors / kR;                                         // of a group, in one row
  // Vectors from a row to the next: two more, so that four rows of two groups (eight lanes) lie in different banks.
  static constexpr int kPitch = kGroups * kRowVectors + 2;
  static constexpr int kSweeps = kGroups * kVectors / kShuffleThreads;
  static_assert(kSweeps * kShuffleThreads == kGroups * kVectors && kR * sizeof(T) * kGroup == kShuffleVectorBytes);

  // Half a warp reads four rows of four groups by 8 bytes: every other pair of groups goes to the other banks.
  static __device__ int packed_place(int vector) {
    return sizeof(T) == 2 ? vector ^ (vector / (2 * kVectors) & 1) << 1 : vector;
  }
};

template <class T, bool kInverse>
__device__ __forceinline__ void shuffle_colours(const PixelShuffle& p, int stretches) {
  using S = ShuffleColours<T>;
  struct alignas(S::kR * sizeof(T)) Piece {
    T lane[S::kR];
  };
  __shared__ int4 staged[S::kR * S::kPitch];
  const int64_t row = blockIdx.x / stretches;
  const int64_t x = static_cast<int64_t>(blockIdx.x % stretches) * S::kPixels;
  const int groups = static_cast<int>(min(static_cast<int64_t>(S::kPixels), p.w - x)) / S::kGroup;
  const int64_t packed_at = (row * p.w + x) * (S::kC * S::kR * S::kR);
  const int group = threadIdx.x / S::kR, i = threadIdx.x % S::kR;
  const auto piece_of = [&](int pixel, int c) -> Piece& {
    const int element = ((group * S::kGroup + pixel) * S::kC + c) * S::kR * S::kR + i * S::kR;
    const int vector = S::packed_place(element / ShuffleVector<T>::kSize);
    return reinterpret_cast<Piece*>(staged + vector)[element % ShuffleVector<T>::kSize / S::kR];
  };
  const auto move_packed = [&] {
#pragma unroll
    for (int sweep = 0; sweep < S::kSweeps; ++sweep) {
      const int vector = sweep * kShuffleThreads + threadIdx.x;
      int4& place = staged[S::packed_place(vector)];
      if (vector >= groups * S::kVectors) continue;
      if constexpr (kInverse) {
        static_cast<int4*>(p.destination)[packed_at / ShuffleVector<T>::kSize + vector] = place;
      } else {
        place = static_cast<const int4*>(p.source)[packed_at / ShuffleVector<T>::kSize + vector];
      }
    }
  };
  const auto move_rows = [&] {
#pragma unroll
    for (int sweep = 0; sweep < S::kSweeps; ++sweep) {
      const int at = sweep * kShuffleThreads + threadIdx.x;
      const int of = at / (S::kGroups * S::kRowVectors), vector = at % (S::kGroups * S::kRowVectors);
      if (vector >= groups * S::kRowVectors) continue;
      const int64_t line = ((row * S::kR + of) * p.w + x) * (S::kC * S::kR) / ShuffleVector<T>::kSize;
      int4& place = staged[of * S::kPitch + vector];
      if constexpr (kInverse) {
        place = static_cast<const int4*>(p.source)[line + vector];
      } else {
        static_cast<int4*>(p.destination)[line + vector] = place;
      }
    }
  };
  Piece pieces[S::kGroup][S::kC];
  ShuffleVector<T> line[S::kRowVectors];
  ShuffleVector<T>* const staged_line =
      reinterpret_cast<ShuffleVector<T>*>(staged + i * S::kPitch + group * S::kRowVectors);
  const auto transpose = [&] {
#pragma unroll
    for (int e = 0; e < S::kRowVectors * ShuffleVector<T>::kSize; ++e) {
      T& piece = pieces[e / (S::kC * S::kR)][e % S::kC].lane[e / S::kC % S::kR];
      T& lane = line[e / ShuffleVector<T>::kSize].lane[e % ShuffleVector<T>::kSize];
      if constexpr (kInverse) {
        piece = lane;
      } else {
        lane = piece;
      }
    }
  };
  const auto each_piece = [&](auto body) {
#pragma unroll
    for (int pixel = 0; pixel < S::kGroup; ++pixel)
#pragma unroll
      for (int c = 0; c < S::kC; ++c) body(pieces[pixel][c], piece_of(pixel, c));
  };
  if constexpr (kInverse) {
    move_rows();
  } else {
    move_packed();
  }
  __syncthreads();
  if (group < groups) {
    if constexpr (kInverse) {
#pragma unroll
      for (int v = 0; v < S::kRowVectors; ++v) line[v] = staged_line[v];
    } else {
      each_piece([](Piece& held, Piece& place) { held = place; });
    }
    transpose();
  }
  __syncthreads();  // the same memory takes the result
  if (group < groups) {
    if constexpr (kInverse) {
      each_piece([](Piece& held, Piece& place) { place = held; });
    } else {
#pragma unroll
      for (int v = 0; v < S::kRowVectors; ++v) staged_line[v] = line[v];
    }
  }
  __syncthreads();
  if constexpr (kInverse) {
    move_packed();
  } else {
    move_rows();
  }
}

// The place of an element of a shuffled row within the staged stretch of packed pixels.
struct ShuffleWalk {
  int r, c_count, depth;  // depth: elements of a packed pixel
  int c, j, at;

  __device__ ShuffleWalk(const PixelShuffle& p, int i, int element)
      : r(static_cast<int>(p.r)), c_count(static_cast<int>(p.c)) {
    const int run = r * c_count;
    depth = run * r;
    const int pixel = element / run, rest = element - pixel * run;
    j = rest / c_count, c = rest - j * c_count;
    at = pixel * depth + (c * r + i) * r + j;
  }

  __device__ void next() {
    at += r * r;
    if (++c < c_count) return;
    c = 0, at += 1 - depth;
    if (++j < r) return;
    j = 0, at += depth - r;
  }
};

template <class T, bool kVectors, bool kInverse>
__device__ __forceinline__ void shuffle_rows(const PixelShuffle& p, int pixels, int stretches) {
  constexpr int S = kVectors ? ShuffleVector<T>::kSize : 1;
  extern __shared__ int4 shuffle_shared[];
  T* staged = reinterpret_cast<T*>(shuffle_shared);
  const int64_t row = blockIdx.x / stretches, x = static_cast<int64_t>(blockIdx.x % stretches) * pixels;
  const int run = static_cast<int>(p.r * p.c), depth = static_cast<int>(run * p.r);
  const int count = static_cast<int>(min(static_cast<int64_t>(pixels), p.w - x));
  const int64_t packed_at = (row * p.w + x) * depth;
  const auto move_packed = [&] {
    for (int e = threadIdx.x * S; e < count * depth; e += kShuffleThreads * S) {
      if constexpr (kVectors && kInverse) {
        store_vector(p.destination, packed_at + e, *reinterpret_cast<const ShuffleVector<T>*>(staged + e));
      } else if constexpr (kVectors) {
        *reinterpret_cast<ShuffleVector<T>*>(staged + e) = load_vector<T>(p.source, packed_at + e);
      } else if constexpr (kInverse) {
        static_cast<T*>(p.destination)[packed_at + e] = staged[e];
      } else {
        staged[e] = static_cast<const T*>(p.source)[packed_at + e];
      }
    }
  };
  const auto move_shuffled = [&] {
    for (int i = 0; i < p.r; ++i) {
      const int64_t shuffled_at = ((row * p.r + i) * p.w + x) * run;
      for (int e = threadIdx.x * S; e < count * run; e += kShuffleThreads * S) {
        ShuffleWalk place(p, i, e);
        if constexpr (kVectors) {
          ShuffleVector<T> v;
          if constexpr (kInverse) v = load_vector<T>(p.source, shuffled_at + e);
#pragma unroll
          for (int k = 0; k < S; ++k, place.next()) {
            if constexpr (kInverse) {
              staged[place.at] = v.lane[k];
            } else {
              v.lane[k] = staged[place.at];
            }
          }
          if constexpr (!kInverse) store_vector(p.destination, shuffled_at + e, v);
        } else if constexpr (kInverse) {
          staged[place.at] = static_cast<const T*>(p.source)[shuffled_at + e];
        } else {
          static_cast<T*>(p.destination)[shuffled_at + e] = staged[place.at];
        }
      }
    }
  };
  if constexpr (kInverse) {
    move_shuffled();
    __syncthreads();
    move_packed();
  } else {
    move_packed();
    __syncthreads();
    move_shuffled();
  }
}

// One element per thread, in the order of the destination, so that at least the writes are neighbours.
template <class T>
__device__ __forceinline__ void shuffle_elements(const PixelShuffle& p, int64_t units) {
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * kShuffleThreads + threadIdx.x;
  if (unit >= units) return;
  int64_t rest = unit, n, c, i, j, h, w;
  const auto take = [&rest](int64_t size) {
    const int64_t digit = rest % size;
    rest /= size;
    return digit;
  };
  if (p.inverse && p.channels_last) {
    j = take(p.r), i = take(p.r), c = take(p.c), w = take(p.w), h = take(p.h), n = rest;
  } else if (p.inverse) {
    w = take(p.w), h = take(p.h), j = take(p.r), i = take(p.r), c = take(p.c), n = rest;
  } else if (p.channels_last) {
    c = take(p.c), j = take(p.r), w = take(p.w), i = take(p.r), h = take(p.h), n = rest;
  } else {
    j = take(p.r), w = take(p.w), i = take(p.r), h = take(p.h), c = take(p.c), n = rest;
  }
  const int64_t packed = packed_offset(p, n, c, i, j, h, w), shuffled = shuffled_offset(p, n, c, i, j, h, w);
  static_cast<T*>(p.destination)[p.inverse ? packed : shuffled] =
      static_cast<const T*>(p.source)[p.inverse ? shuffled : packed];
}

// How rows of channels_last pixels are staged: pixels at a time (0: one does not fit), and whether in vectors.
struct ShuffleStretch {
  int64_t pixels;
  bool vectors;
};

VSR_HOST_DEVICE constexpr ShuffleStretch choose_stretch(int64_t c, int64_t r, int64_t element_size, int64_t w,
                                                        bool on_vectors) {
  constexpr int64_t kMost = 48 << 10, kGood = 16 << 10;
  // A pixel's run of one row is an odd number of bytes times `part`; that many runs are whole vectors.
  const int64_t run_bytes = r * c * element_size, pixel_bytes = run_bytes * r;
  const int64_t part = run_bytes & -run_bytes, whole = part >= kShuffleVectorBytes ? 1 : kShuffleVectorBytes / part;
  if (pixel_bytes > kMost) return {0, false};
  const int64_t good = pixel_bytes > kGood ? 1 : kGood / pixel_bytes;
  const int64_t pixels = good < whole ? whole : good / whole * whole;
  if (on_vectors && w % whole == 0 && pixels * pixel_bytes <= kMost) return {pixels, true};
  return {good, false};
}

// Blocks on a multiprocessor that leave enough registers. Vectors: two leave 128, which the widest case (r = 4, 16-bit)
// stays under; without the bound ptxas aims at more blocks for r = 3 and spills. Colours: without it ptxas aims at 32
// registers on sm_90 and spills.
constexpr int kShuffleVectorBlocks = 2, kShuffleColourBlocks = 4;

}  // namespace vsr::cuda
