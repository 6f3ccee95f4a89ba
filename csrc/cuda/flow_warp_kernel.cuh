// Flow warp, forward: what the threads do.
//
// Plan. A warp takes 32 neighbouring pixels of a row, a block eight rows of them, so that the L1 serves most of the
// four corners that every pixel reads. First each lane works out one pixel: source position, fractions and which
// corners are inside, in float32 and once per pixel whatever the number of channels.
//
// Neighbouring channels (vectors): `lanes` lanes then share a pixel, 8 for 64 channels of 16 bits, each with 16 bytes
// of its channels (narrower where the alignment asks for it). The groups of a warp take neighbouring pixels, then the
// next ones: position, fractions and mask come by four shuffles. Each corner is one predicated load, outside ones are
// zeros; the blend is float32, and the result leaves as one vector. Nothing is kept in shared memory and nobody waits.
// Offsets within an image are 32-bit counts of vectors; what does not fit goes the other way.
//
// Anything else (planes): a lane walks the channels of its own pixel with strides of 64 bits. With planes, neighbouring
// lanes read neighbouring columns; with up to four channels, neighbouring pixels are the same lines of memory.
#pragma once

#include "core/flow_warp.h"
#include "cuda/flow_warp_sample.cuh"

namespace vsr::cuda {

constexpr int kWarpThreads = 32 * kWarpRows;
// Blocks on a multiprocessor, to hide the latency of the corners: 40 registers, and all threads that sm_75 has.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int kWarpBlocks = 4;
#else
constexpr int kWarpBlocks = 6;
#endif

struct VectorArguments {
  FlowWarp p;
  int vectors, lanes;   // of a pixel
  int groups;           // of lanes: 32 / lanes
  int shift;            // logarithm of lanes
  int column, row;      // distances of the neighbours in x, in vectors
  int64_t right, down;  // the same in bytes

  __device__ __forceinline__ int group(int lane) const { return lane >> shift; }
};

VSR_HOST_DEVICE inline VectorArguments vector_arguments(const FlowWarp& p, const WarpPlan& plan) {
  const int64_t size = element_bytes(p.dtype);
  VectorArguments a{p, static_cast<int>(p.c * size / plan.bytes), plan.lanes, 32 / plan.lanes};
  while (1 << a.shift < a.lanes) ++a.shift;
  // Of a single row or column, whose stride may be any, only the first is ever inside.
  if (p.w > 1) a.right = p.xs.w * size, a.column = static_cast<int>(a.right / plan.bytes);
  if (p.h > 1) a.down = p.xs.h * size, a.row = static_cast<int>(a.down / plan.bytes);
  return a;
}

struct PlaneArguments {
  FlowWarp p;
  const void* y;  // copied beside the warped image; null: nothing is
  void* y_out;
  int64_t y_channels;
  Strides ys;
};

// Blends the 32 pixels of a run. Each lane's sink gets the lane's vectors of its group's pixels in turn: put(bytes from
// the lane's first one, values), then advance().
template <class Element, int kBytes, bool kOnce, class Sink>
__device__ __forceinline__ void blend_run(const VectorArguments& a, const Run& run, Sink sink) {
  const Sample mine = sample<Element>(a.p, run);
  const int offset = static_cast<int>(static_cast<unsigned>(mine.y.i0) * static_cast<unsigned>(a.row) +
                                      static_cast<unsigned>(mine.x.i0) * static_cast<unsigned>(a.column));
  const int sub = run.lane & (a.lanes - 1);
  const char* image =
      static_cast<const char*>(a.p.x) + run.n * a.p.xs.n * static_cast<int64_t>(sizeof(Element)) + sub * kBytes;
  const unsigned wanted = sub < a.vectors ? ~0u : 0u;
  int pixel = a.group(run.lane);
#pragma unroll(kOnce ? 2 : 1)
  for (int step = 0; step < a.lanes; ++step, pixel += a.groups) {
    const char* at = image + static_cast<int64_t>(__shfl_sync(~0u, offset, pixel)) * kBytes;
    const float fx = __shfl_sync(~0u, mine.x.f, pixel), fy = __shfl_sync(~0u, mine.y.f, pixel);
    const unsigned mask = __shfl_sync(~0u, mine.mask, pixel) & wanted;
    const Weights by = weights(fx, fy);
    Corners<Element, kBytes> corners;
    float values[Vector<Element, kBytes>::kValues];
    if constexpr (kOnce) {
      corners.load(at, a.right, a.down, mask);
      corners.blend(values, by);
      sink.put(0, values);
    } else {
#pragma unroll(kBytes == 16 ? 1 : 4)
      for (int v = sub; v < a.vectors; v += a.lanes, at += a.lanes * kBytes) {
        corners.load(at, a.right, a.down, mask);
        corners.blend(values, by);
        sink.put((v - sub) * kBytes, values);
      }
    }
    sink.advance();
  }
}

// To the pixels of a row in global memory. A group takes every `step`th pixel; the row ends `left` pixels on.
template <class Element, int kBytes>
struct Stored {
  char* out;
  int64_t pitch;  // bytes from one pixel of the group to its next
  int left, step;

  template <class Values>
  __device__ __forceinline__ void put(int byte, const Values& values) {
    Vector<Element, kBytes>::store(out + byte, values, left);
  }
  __device__ __forceinline__ void advance() { out += pitch, left -= step; }
};

template <class Element, int kBytes, bool kOnce>
__device__ __forceinline__ void warp_vectors(const VectorArguments& a) {
  const Run run;
  const FlowWarp& p = a.p;
  if (run.row >= p.h) return;
  const int sub = run.lane & (a.lanes - 1), column = run.first + a.group(run.lane);
  constexpr int64_t kSize = sizeof(Element);
  char* out = static_cast<char*>(p.out) + (run.n * p.os.n + run.row * p.os.h + column * p.os.w) * kSize + sub * kBytes;
  const int left = sub < a.vectors ? static_cast<int>(p.w) - column : 0;
  blend_run<Element, kBytes, kOnce>(a, run, Stored<Element, kBytes>{out, a.groups * p.os.w * kSize, left, a.groups});
}

template <class Element>
__device__ __forceinline__ void warp_planes(const PlaneArguments& a) {
  const Run run;
  const FlowWarp& p = a.p;
  const int column = run.first + run.lane;
  if (run.row >= p.h || column >= p.w) return;
  const Sample s = sample<Element>(p, run);
  const Weights by = weights(s.x.f, s.y.f);
  constexpr int kBytes = sizeof(Element);
  const char* at = static_cast<const char*>(p.x) + (run.n * p.xs.n + s.y.i0 * p.xs.h + s.x.i0 * p.xs.w) * kBytes;
  char* out = static_cast<char*>(p.out) + (run.n * p.os.n + run.row * p.os.h + column * p.os.w) * kBytes;
  for (int64_t c = 0; c < p.c; ++c, at += p.xs.c * kBytes, out += p.os.c * kBytes) {
    Corners<Element, kBytes> corners;
    float values[1];
    corners.load(at, p.xs.w * kBytes, p.xs.h * kBytes, s.mask);
    corners.blend(values, by);
    Vector<Element, kBytes>::store(out, values, 1);
  }
  if (a.y == nullptr) return;
  const Element* y = static_cast<const Element*>(a.y) + run.n * a.ys.n + run.row * a.ys.h + column * a.ys.w;
  Element* to = static_cast<Element*>(a.y_out) + run.n * p.os.n + run.row * p.os.h + column * p.os.w;
  for (int64_t c = 0; c < a.y_channels; ++c) to[c * p.os.c] = y[c * a.ys.c];
}

}  // namespace vsr::cuda
