// Flow warp, forward: the launches, and the warp beside another image.
//
// Plan. That of the warp by itself is in flow_warp_kernel.cuh.
//
// Warp and concatenate: pixels of 64 + 3 channels start at any address, so that vectors cannot be stored. The warp lays
// its pixels down in shared memory as they will lie in global memory, at the same distance from a multiple of 16 bytes,
// and then moves them in whole vectors. Each warp has its own part of shared memory; only its own lanes wait for it.

#include "cuda/flow_warp.h"
#include "cuda/flow_warp_kernel.cuh"

namespace vsr::cuda {
namespace {

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
__global__ void __launch_bounds__(kWarpThreads, kWarpBlocks) warp_vectors_kernel(const VectorArguments a) {
  warp_vectors<Element, kBytes, kOnce>(a);
}

template <class Element>
__global__ void __launch_bounds__(kWarpThreads) warp_planes_kernel(const PlaneArguments a) {
  warp_planes<Element>(a);
}

template <class Element>
__global__ void __launch_bounds__(kWarpThreads) warp_concat_kernel(const ConcatArguments a) {
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
