// Flow warp, forward.
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
//
// Warp and concatenate: pixels of 64 + 3 channels start at any address, so that vectors cannot be stored. The warp lays
// its pixels down in shared memory as they will lie in global memory, at the same distance from a multiple of 16 bytes,
// and then moves them in whole vectors. Each warp has its own part of shared memory; only its own lanes wait for it.

#include "cuda/flow_warp.h"
#include "cuda/flow_warp_sample.cuh"

namespace vsr::cuda {
namespace {

constexpr int kThreads = 32 * kWarpRows;
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

struct ConcatArguments {
  VectorArguments warp;
  const void* y;
  Strides ys;
  char* whole;  // first byte of the image's first pixel
  int channels, y_channels;
  int x_at, y_at;       // first channels of the slices
  int staged_bytes;     // of shared memory of a warp
  float per_y_channel;  // 1 / y_channels
};

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

// To shared memory, by elements.
template <class Element>
struct Staged {
  Element* to;
  int pitch, left, step;

  template <class Values>
  __device__ __forceinline__ void put(int, const Values& values) {
    if (left <= 0) return;
    using Lane = Vector<Element, 16>;
    uint32_t words[Lane::kWords];
    Lane::pack(words, values);
#pragma unroll
    for (int i = 0; i < Lane::kValues; ++i) {
      if constexpr (sizeof(Element) == 4) {
        reinterpret_cast<uint32_t*>(to)[i] = words[i];
      } else {
        reinterpret_cast<uint16_t*>(to)[i] = static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16));
      }
    }
  }
  __device__ __forceinline__ void advance() { to += pitch, left -= step; }
};

template <class Element, int kBytes, bool kOnce>
__global__ void __launch_bounds__(kThreads, kWarpBlocks) warp_vectors_kernel(const VectorArguments a) {
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
__global__ void __launch_bounds__(kThreads) warp_planes_kernel(const PlaneArguments a) {
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

template <class Element>
__global__ void __launch_bounds__(kThreads) warp_concat_kernel(const ConcatArguments a) {
  extern __shared__ uint4 shared[];
  constexpr int kPerVector = 16 / sizeof(Element);
  const Run run;
  const FlowWarp& p = a.warp.p;
  if (run.row >= p.h) return;
  const int columns = static_cast<int>(p.w) - run.first, pixels = columns < kWarpPixels ? columns : kWarpPixels;
  char* target =
      a.whole + (run.n * p.os.n + run.row * p.os.h + run.first * p.os.w) * static_cast<int64_t>(sizeof(Element));
  const int shift = static_cast<int>(reinterpret_cast<uintptr_t>(target) % 16);
  char* staged = reinterpret_cast<char*>(shared) + threadIdx.y * a.staged_bytes;
  Element* pixel_0 = reinterpret_cast<Element*>(staged + shift);

  const Element* y = static_cast<const Element*>(a.y) + run.n * a.ys.n + run.row * a.ys.h + run.first * a.ys.w;
  for (int i = run.lane; i < pixels * a.y_channels; i += 32) {
    const int pixel = __float2int_rd((static_cast<float>(i) + 0.5f) * a.per_y_channel), c = i - pixel * a.y_channels;
    pixel_0[pixel * a.channels + a.y_at + c] = y[pixel * a.ys.w + c * a.ys.c];
  }
  const int sub = run.lane & (a.warp.lanes - 1), first = a.warp.group(run.lane);
  Element* to = pixel_0 + first * a.channels + a.x_at + sub * kPerVector;
  const int left = sub < a.warp.vectors ? pixels - first : 0;
  blend_run<Element, 16, true>(a.warp, run, Staged<Element>{to, a.warp.groups * a.channels, left, a.warp.groups});
  __syncwarp();

  const int begin = shift / static_cast<int>(sizeof(Element)), end = begin + pixels * a.channels;
  const Element* from = reinterpret_cast<const Element*>(staged);
  Element* aligned = reinterpret_cast<Element*>(target - shift);
  for (int i = run.lane * kPerVector; i < end; i += 32 * kPerVector) {
    if (i >= begin && i + kPerVector <= end) {
      *reinterpret_cast<uint4*>(aligned + i) = *reinterpret_cast<const uint4*>(from + i);
    } else {
      for (int j = i < begin ? begin : i; j < end && j < i + kPerVector; ++j) aligned[j] = from[j];
    }
  }
}

template <class Kernel, class Arguments>
cudaError_t launch(Kernel kernel, const FlowWarp& p, const Arguments& arguments, int rows, int shared,
                   cudaStream_t stream) {
  if (!fits_grid(p.n, p.h, p.w, rows)) return cudaErrorInvalidConfiguration;
  if (p.n * p.h * p.w == 0) return cudaSuccess;
  kernel<<<row_grid(p.n, p.h, p.w, rows), dim3(32, static_cast<unsigned>(rows)), static_cast<size_t>(shared), stream>>>(
      arguments);
  return cudaGetLastError();
}

VectorArguments vector_arguments(const FlowWarp& p, const WarpPlan& plan) {
  const int64_t size = element_bytes(p.dtype);
  VectorArguments a{p, static_cast<int>(p.c * size / plan.bytes), plan.lanes, 32 / plan.lanes};
  while (1 << a.shift < a.lanes) ++a.shift;
  // Of a single row or column, whose stride may be any, only the first is ever inside.
  if (p.w > 1) a.right = p.xs.w * size, a.column = static_cast<int>(a.right / plan.bytes);
  if (p.h > 1) a.down = p.xs.h * size, a.row = static_cast<int>(a.down / plan.bytes);
  return a;
}

template <class Element>
cudaError_t launch_planes(const PlaneArguments& a, cudaStream_t stream) {
  return launch(warp_planes_kernel<Element>, a.p, a, kWarpRows, 0, stream);
}

template <class Element>
cudaError_t launch_warp(const FlowWarp& p, cudaStream_t stream) {
  const WarpPlan plan = plan_flow_warp(p);
  if (plan.bytes == 0) return launch_planes<Element>({p, nullptr, nullptr, 0, {}}, stream);
  const VectorArguments a = vector_arguments(p, plan);
  if (plan.bytes == 16) {
    const auto kernel =
        a.vectors <= a.lanes ? warp_vectors_kernel<Element, 16, true> : warp_vectors_kernel<Element, 16, false>;
    return launch(kernel, p, a, kWarpRows, 0, stream);
  }
  if constexpr (sizeof(Element) == 2)
    if (plan.bytes == 2) return launch(warp_vectors_kernel<Element, 2, false>, p, a, kWarpRows, 0, stream);
  return launch(warp_vectors_kernel<Element, 4, false>, p, a, kWarpRows, 0, stream);
}

template <class Element>
cudaError_t launch_concat(const FlowWarpConcat& c, cudaStream_t stream) {
  constexpr int kSharedLimit = 48 << 10;  // of every device, without asking for more
  const FlowWarp& p = c.warp;
  const int64_t channels = p.c + c.y_c;
  FlowWarp dense = p;  // what a warp of this x alone would do
  dense.out = nullptr, dense.os = {0, 1, 0, 0};
  const WarpPlan plan = plan_flow_warp(dense);
  const int64_t staged = (kWarpPixels * channels * static_cast<int64_t>(sizeof(Element)) + 15) / 16 * 16 + 16;
  const bool once = plan.bytes == 16 && p.c * static_cast<int64_t>(sizeof(Element)) <= 16 * plan.lanes;
  if (!once || c.y_c == 0 || p.os.c != 1 || p.os.w != channels || staged > kSharedLimit)
    return launch_planes<Element>({p, c.y_c == 0 ? nullptr : c.y, c.y_out, c.y_c, c.ys}, stream);
  ConcatArguments a{vector_arguments(p, plan), c.y, c.ys};
  const bool warp_first = p.out < c.y_out;
  a.whole = static_cast<char*>(warp_first ? p.out : c.y_out);
  a.channels = static_cast<int>(channels), a.y_channels = static_cast<int>(c.y_c);
  a.x_at = warp_first ? 0 : a.y_channels, a.y_at = warp_first ? static_cast<int>(p.c) : 0;
  a.staged_bytes = static_cast<int>(staged);
  a.per_y_channel = 1.0f / static_cast<float>(c.y_c);
  int rows = kWarpRows;
  while (rows * staged > kSharedLimit) rows /= 2;
  return launch(warp_concat_kernel<Element>, p, a, rows, rows * a.staged_bytes, stream);
}

}  // namespace

cudaError_t launch_flow_warp(const FlowWarp& problem, cudaStream_t stream) {
  switch (problem.dtype) {
    case DType::f32: return launch_warp<float>(problem, stream);
    case DType::f16: return launch_warp<__half>(problem, stream);
    case DType::bf16: return launch_warp<__nv_bfloat16>(problem, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t launch_flow_warp_concat(const FlowWarpConcat& problem, cudaStream_t stream) {
  switch (problem.warp.dtype) {
    case DType::f32: return launch_concat<float>(problem, stream);
    case DType::f16: return launch_concat<__half>(problem, stream);
    case DType::bf16: return launch_concat<__nv_bfloat16>(problem, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace vsr::cuda
