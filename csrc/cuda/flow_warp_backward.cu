// Flow warp, backward.
//
// Plan. As in flow_warp.cu, a warp takes 32 neighbouring pixels of a row, each lane works out one of them, and groups
// of lanes walk through the pixels of their own lanes.
//
// Gradient by flow: the dot products of the incoming gradient with the four corners, blended and summed over the lanes
// of the group. One lane writes each pixel; the order of additions is fixed.
//
// Gradient by x is a scatter, added up in float32 (as on the CPU) by reductions in the L2. What they cost is their
// number and the sectors they touch, so:
// - The group keeps the contributions to the right-hand corners in registers. Where the next pixel's left-hand corners
//   are the same two pixels, as in any smooth flow, they are added there: two pixels are touched per pixel, not four.
// - The lanes of a group take neighbouring channels, so that each instruction covers whole sectors; from sm_90 on, four
//   channels each by one instruction. Lanes therefore read the gradient once more in that order, from the L1.
// 16-bit images need sums in float32 in the workspace and a kernel that rounds them: reductions of packed 16-bit values
// would round every sum several times, beyond the error that is allowed.
//
// Deterministic: the order of additions does not matter to integers. The largest finite gradient of each image is found
// first; contributions are then multiplied by a power of two that leaves room for as many of the largest as there are
// pixels (so sums are exact to 2^-38 of the largest even for 2^24 pixels) and added as 64-bit integers. A contribution
// that is infinite or NaN sets a bit of its element instead. The last kernel turns sums and bits into elements.
//
// Anything else (planes): a lane walks the channels of its own pixel, with strides of 64 bits.

#include "cuda/flow_warp.h"
#include "cuda/flow_warp_sample.cuh"
#include "cuda/unroll.cuh"

namespace vsr::cuda {
namespace {

constexpr int kBackwardThreads = 32 * kWarpRows;
constexpr int kSlots = kWarpSlots;

struct BackwardArguments {
  FlowWarpBackward p;
  void* sums;         // of grad_x: float, or 64-bit integers if exact
  uint32_t* flags;    // exact: two bits per element, 1: +infinity, 2: -infinity, 3: NaN
  uint32_t* largest;  // exact: per image, the bits of the largest finite magnitude in grad
  bool exact;
  int headroom;  // exact: logarithm of the number of pixels, rounded up
  Strides sums_strides;
  int vectors;          // of a pixel
  int channels;         // of a pixel, and
  int row_elements;     // elements of a row of grad_x
  int column, row;      // distances of the neighbours in x, in vectors
  int64_t right, down;  // the same in bytes
};

// Multiplies by a power of two whose exponent may lie beyond that of a float.
struct Scale {
  float first, second;

  __device__ __forceinline__ explicit Scale(int exponent) {
    const int half = exponent / 2;
    first = __uint_as_float(static_cast<unsigned>(half + 127) << 23);
    second = __uint_as_float(static_cast<unsigned>(exponent - half + 127) << 23);
  }
  __device__ __forceinline__ float operator()(float v) const { return v * first * second; }
};

// Of the factor that makes integers: a magnitude is below 2^(biased exponent - 126), a sum of 2^headroom of them times
// this factor below 2^62.
__device__ __forceinline__ int scale_exponent(const BackwardArguments& a, int64_t n) {
  return 62 + 126 - a.headroom - static_cast<int>(a.largest[n] >> 23);
}

__device__ __forceinline__ void add_exact(const BackwardArguments& a, const Scale& scale, int64_t element, float v) {
  if (isfinite(v)) {
    atomicAdd(static_cast<unsigned long long*>(a.sums) + element,
              static_cast<unsigned long long>(__float2ll_rn(scale(v))));
  } else {
    const unsigned kind = isnan(v) ? 3u : v > 0.0f ? 1u : 2u;
    atomicOr(a.flags + element / 16, kind << (element % 16 * 2));
  }
}

template <int kIndex, int kOffset>
__device__ __forceinline__ void add_below(float* to, float v, int limit) {
  asm volatile(
      "{.reg .pred p; setp.gt.s32 p, %2, %3; @p red.global.add.f32 [%0 + %4], %1;}" ::"l"(__cvta_generic_to_global(to)),
      "f"(v), "r"(limit), "n"(kIndex), "n"(kOffset)
      : "memory");
}

// From sm_90 on.
template <int kIndex, int kOffset>
__device__ __forceinline__ void add4_below(float* to, const float* v, int limit) {
  asm volatile("{.reg .pred p; setp.gt.s32 p, %5, %6; @p red.global.add.v4.f32 [%0 + %7], {%1, %2, %3, %4};}" ::"l"(
                   __cvta_generic_to_global(to)),
               "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3]), "r"(limit), "n"(kIndex), "n"(kOffset)
               : "memory");
}

// Where kIndex < limit, else zero.
template <class Element, int kIndex, int kOffset>
__device__ __forceinline__ float load_below(const char* from, int limit) {
  if constexpr (sizeof(Element) == 4) {
    float v;
    asm("{.reg .pred p; setp.gt.s32 p, %2, %3; mov.f32 %0, 0f00000000; @p ld.global.nc.f32 %0, [%1 + %4];}"
        : "=&f"(v)
        : "l"(__cvta_generic_to_global(from)), "r"(limit), "n"(kIndex), "n"(kOffset));
    return v;
  } else {
    unsigned short bits;
    asm("{.reg .pred p; setp.gt.s32 p, %2, %3; mov.b16 %0, 0; @p ld.global.nc.b16 %0, [%1 + %4];}"
        : "=&h"(bits)
        : "l"(__cvta_generic_to_global(from)), "r"(limit), "n"(kIndex), "n"(kOffset));
    return half_of<Element>(bits, false);
  }
}

// The channels that a lane scatters: kChunk neighbours, then kLanes * kChunk further on the next ones.
template <class Element, int kBytes, int kLanes, bool kExact>
struct Slots {
#if __CUDA_ARCH__ >= 900
  static constexpr int kChunk = kBytes == 16 ? 4 : 1;
#else
  static constexpr int kChunk = 1;
#endif
  static constexpr int kChunks = kSlots / kChunk;
  static constexpr int kStep = kLanes * kChunk;  // channels

  // How many chunks a lane has; every chunk is whole.
  static __device__ __forceinline__ int count(int channels, int sub) {
    return (channels - sub * kChunk + kStep - 1) / kStep;
  }

  static __device__ __forceinline__ void load(float (&values)[kSlots], const char* from, int limit) {
    unroll<kChunks>([&](auto chunk) {
      constexpr int kOffset = chunk * kStep * static_cast<int>(sizeof(Element));
      if constexpr (kChunk == 1) {
        values[chunk] = load_below<Element, chunk, kOffset>(from, limit);
      } else {
        using Lane = Vector<Element, 4 * sizeof(Element)>;
        uint32_t words[Lane::kWords];
        load_global_below<chunk>(words, from + kOffset, limit);
#pragma unroll
        for (int i = 0; i < 4; ++i) values[4 * chunk + i] = Lane::value(words, i);
      }
    });
  }

  static __device__ __forceinline__ void add(const BackwardArguments& a, const Scale& scale, int64_t element,
                                             const float (&values)[kSlots], int limit) {
    if constexpr (kExact) {
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot)
        if (slot / kChunk < limit) add_exact(a, scale, element + slot / kChunk * kStep + slot % kChunk, values[slot]);
    } else {
      float* to = static_cast<float*>(a.sums) + element;
      unroll<kChunks>([&](auto chunk) {
        constexpr int kOffset = chunk * kStep * 4;
        if constexpr (kChunk == 1) {
          add_below<chunk, kOffset>(to, values[chunk], limit);
        } else {
          add4_below<chunk, kOffset>(to, values + 4 * chunk, limit);
        }
      });
    }
  }
};

// Scatters the pixels that a group of lanes walks through.
template <class Element, int kBytes, int kLanes, bool kExact>
struct Scatter {
  using Lane = Slots<Element, kBytes, kLanes, kExact>;
  float north[kSlots], south[kSlots];  // of the right-hand corners of the pixel before
  int64_t element;                     // of its upper one
  int x0, y0;                          // its upper left-hand one
  unsigned pending;                    // 1: north, 2: south are to be added somewhere

  __device__ __forceinline__ Scatter() : element(0), x0(0), y0(0), pending(0) {
#pragma unroll
    for (int i = 0; i < kSlots; ++i) north[i] = south[i] = 0.0f;
  }

  // element_0: of the lane's first channel in the image's first pixel.
  __device__ __forceinline__ void pixel(const BackwardArguments& a, const Scale& scale, const char* grad, int x, int y,
                                        const Weights& by, unsigned mask, int slots, int64_t element_0) {
    float g[kSlots];
    Lane::load(g, grad, mask != 0 ? slots : 0);
    if (mask == 0 || pending == 0 || y != y0 || x != x0 + 1) {
      flush(a, scale, slots);
#pragma unroll
      for (int i = 0; i < kSlots; ++i) north[i] = south[i] = 0.0f;
    }
    const int64_t at = element_0 + static_cast<int64_t>(y) * a.row_elements + static_cast<int64_t>(x) * a.channels;
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      north[i] = fmaf(by.corner[0], g[i], north[i]);
      south[i] = fmaf(by.corner[2], g[i], south[i]);
    }
    Lane::add(a, scale, at, north, (mask & 1) != 0 ? slots : 0);
    Lane::add(a, scale, at + a.row_elements, south, (mask & 4) != 0 ? slots : 0);
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      north[i] = by.corner[1] * g[i];
      south[i] = by.corner[3] * g[i];
    }
    element = at + a.channels, x0 = x, y0 = y;
    pending = (mask >> 1 & 1) | (mask >> 2 & 2);
  }

  __device__ __forceinline__ void flush(const BackwardArguments& a, const Scale& scale, int slots) {
    if (pending == 0) return;
    Lane::add(a, scale, element, north, (pending & 1) != 0 ? slots : 0);
    Lane::add(a, scale, element + a.row_elements, south, (pending & 2) != 0 ? slots : 0);
  }
};

// Sums of the products of a gradient with each corner, and what they say about the flow.
struct Dots {
  float corner[4] = {};

  template <class Element, int kBytes>
  __device__ __forceinline__ void add(const uint32_t (&grad)[Vector<Element, kBytes>::kWords],
                                      const Corners<Element, kBytes>& corners) {
    using Lane = Vector<Element, kBytes>;
#pragma unroll
    for (int i = 0; i < Lane::kValues; ++i)
#pragma unroll
      for (int k = 0; k < 4; ++k) corner[k] = fmaf(Lane::value(grad, i), Lane::value(corners.words[k], i), corner[k]);
  }
  __device__ __forceinline__ float by_x(float fy) const {
    return fmaf(fy, corner[3] - corner[2], (1.0f - fy) * (corner[1] - corner[0]));
  }
  __device__ __forceinline__ float by_y(float fx) const {
    return fmaf(fx, corner[3] - corner[1], (1.0f - fx) * (corner[2] - corner[0]));
  }
};

// The gradient by flow of the lane's own pixel.
template <class Element>
__device__ __forceinline__ void store_flow(const FlowWarpBackward& p, const Run& run, const Sample& s, float by_x,
                                           float by_y) {
  const int column = run.first + run.lane;
  if (column >= p.w) return;
  const int64_t at = (run.n * 2 * p.h + run.row) * p.w + column, next = p.h * p.w;
  if (s.x.clipped) by_x = 0.0f;
  if (s.y.clipped) by_y = 0.0f;
  if (sizeof(Element) == 4 || p.flow_dtype == DType::f32) {
    float* to = static_cast<float*>(p.grad_flow) + at;
    to[0] = by_x, to[next] = by_y;
  } else {
    Element* to = static_cast<Element*>(p.grad_flow) + at;
    to[0] = from_float<Element>(by_x), to[next] = from_float<Element>(by_y);
  }
}

template <class Element, int kBytes, int kLanes, bool kExact>
__global__ void __launch_bounds__(kBackwardThreads, kExact ? 2 : 3)
    warp_backward_vectors_kernel(const BackwardArguments a) {
  constexpr int64_t kSize = sizeof(Element);
  using Lane = Vector<Element, kBytes>;
  const Run run;
  const FlowWarpBackward& p = a.p;
  if (run.row >= p.h) return;
  const Sample mine = sample<Element>(p, run);
  const int sub = run.lane % kLanes;
  using Share = Slots<Element, kBytes, kLanes, kExact>;
  const int slots = Share::count(a.channels, sub);
  const char* grad = static_cast<const char*>(p.grad) +
                     (run.n * p.gs.n + run.row * p.gs.h + (run.first + run.lane - sub) * p.gs.w) * kSize;
  const char* image = static_cast<const char*>(p.x) + run.n * p.xs.n * kSize + sub * kBytes;
  const int64_t element_0 = run.n * p.h * p.w * p.c + sub * Share::kChunk;
  const bool flow_wanted = p.grad_flow != nullptr && !p.nearest, x_wanted = p.grad_x != nullptr;
  const Scale scale(kExact ? scale_exponent(a, run.n) : 0);
  Scatter<Element, kBytes, kLanes, kExact> scatter;
  float by_x = 0.0f, by_y = 0.0f;
#pragma unroll 1
  for (int step = 0; step < kLanes; ++step, grad += p.gs.w * kSize) {
    const int x = __shfl_sync(~0u, mine.x.i0, step, kLanes), y = __shfl_sync(~0u, mine.y.i0, step, kLanes);
    const float fx = __shfl_sync(~0u, mine.x.f, step, kLanes), fy = __shfl_sync(~0u, mine.y.f, step, kLanes);
    const unsigned mask = __shfl_sync(~0u, mine.mask, step, kLanes);
    if (flow_wanted) {
      const int offset = static_cast<int>(static_cast<unsigned>(y) * static_cast<unsigned>(a.row) +
                                          static_cast<unsigned>(x) * static_cast<unsigned>(a.column));
      const char* at = image + static_cast<int64_t>(offset) * kBytes;
      const char* from = grad + sub * kBytes;
      Dots dots;
#pragma unroll 1
      for (int v = sub; v < a.vectors; v += kLanes, at += kLanes * kBytes, from += kLanes * kBytes) {
        Corners<Element, kBytes> corners;
        uint32_t g[Lane::kWords];
        corners.load(at, a.right, a.down, mask);
        load_if<0, kBytes>(g, from, mask != 0 ? 1 : 0);
        dots.add<Element, kBytes>(g, corners);
      }
      float sum_x = dots.by_x(fy), sum_y = dots.by_y(fx);
#pragma unroll
      for (int distance = kLanes / 2; distance > 0; distance /= 2) {
        sum_x += __shfl_xor_sync(~0u, sum_x, distance);
        sum_y += __shfl_xor_sync(~0u, sum_y, distance);
      }
      if (step == sub) by_x = sum_x, by_y = sum_y;
    }
    if (x_wanted)
      scatter.pixel(a, scale, grad + sub * Share::kChunk * kSize, x, y, weights(fx, fy), mask, slots, element_0);
  }
  if (x_wanted) scatter.flush(a, scale, slots);
  if (p.grad_flow != nullptr) store_flow<Element>(p, run, mine, by_x, by_y);
}

template <class Element, bool kExact>
__global__ void __launch_bounds__(kBackwardThreads) warp_backward_planes_kernel(const BackwardArguments a) {
  constexpr int kBytes = sizeof(Element);
  const Run run;
  const FlowWarpBackward& p = a.p;
  const int column = run.first + run.lane;
  if (run.row >= p.h || column >= p.w) return;
  const Sample s = sample<Element>(p, run);
  const Weights by = weights(s.x.f, s.y.f);
  const Scale scale(kExact ? scale_exponent(a, run.n) : 0);
  const char* grad = static_cast<const char*>(p.grad) + (run.n * p.gs.n + run.row * p.gs.h + column * p.gs.w) * kBytes;
  const char* at = static_cast<const char*>(p.x) + (run.n * p.xs.n + s.y.i0 * p.xs.h + s.x.i0 * p.xs.w) * kBytes;
  const Strides& to = a.sums_strides;
  int64_t element = run.n * to.n + s.y.i0 * to.h + s.x.i0 * to.w;
  const bool flow_wanted = p.grad_flow != nullptr && !p.nearest;
  Dots dots;
  for (int64_t c = 0; c < p.c && s.mask != 0; ++c) {
    uint32_t g[1];
    load_if<0, kBytes>(g, grad, 1);
    if (flow_wanted) {
      Corners<Element, kBytes> corners;
      corners.load(at, p.xs.w * kBytes, p.xs.h * kBytes, s.mask);
      dots.add<Element, kBytes>(g, corners);
    }
    if (p.grad_x != nullptr) {
      const float v = Vector<Element, kBytes>::value(g, 0);
      const int64_t corner[4] = {element, element + to.w, element + to.h, element + to.h + to.w};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if ((s.mask >> k & 1) == 0) continue;
        if constexpr (kExact) {
          add_exact(a, scale, corner[k], by.corner[k] * v);
        } else {
          atomicAdd(static_cast<float*>(a.sums) + corner[k], by.corner[k] * v);
        }
      }
    }
    grad += p.gs.c * kBytes, at += p.xs.c * kBytes, element += to.c;
  }
  if (p.grad_flow != nullptr) store_flow<Element>(p, run, s, dots.by_x(s.y.f), dots.by_y(s.x.f));
}

// Finds the largest finite magnitude of each image.
template <class Element>
__global__ void __launch_bounds__(kBackwardThreads) warp_largest_kernel(const BackwardArguments a) {
  const Run run;
  const FlowWarpBackward& p = a.p;
  if (run.row >= p.h) return;
  const Element* grad = static_cast<const Element*>(p.grad) + run.n * p.gs.n + run.row * p.gs.h + run.first * p.gs.w;
  const int64_t left = p.w - run.first, pixels = left < kWarpPixels ? left : kWarpPixels;
  uint32_t most = 0;
  const auto see = [&most](Element v) {
    const uint32_t bits = __float_as_uint(to_float(v)) & 0x7fffffffu;
    if (bits < 0x7f800000u && bits > most) most = bits;
  };
  const int channels = static_cast<int>(p.c);
  if (p.gs.c == 1) {
    for (int64_t pixel = 0; pixel < pixels; ++pixel, grad += p.gs.w)
      for (int c = run.lane; c < channels; c += 32) see(grad[c]);
  } else if (run.lane < pixels) {
    grad += run.lane * p.gs.w;
    for (int c = 0; c < channels; ++c, grad += p.gs.c) see(*grad);
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const uint32_t other = __shfl_xor_sync(~0u, most, distance);
    most = other > most ? other : most;
  }
  if (run.lane == 0 && most != 0) atomicMax(a.largest + run.n, most);
}

// Sums to elements in the order of memory, kCount to a thread; an image has a multiple of them.
template <class Element, int kCount>
__global__ void __launch_bounds__(kBackwardThreads) warp_round_kernel(const BackwardArguments a) {
  const int64_t count = a.p.c * a.p.h * a.p.w;
  const int64_t within = (static_cast<int64_t>(blockIdx.x) * kBackwardThreads + threadIdx.x) * kCount;
  if (within >= count) return;
  const int64_t first = blockIdx.y * count + within;
  float values[kCount];
  if (a.exact) {
    const long long* sums = static_cast<const long long*>(a.sums) + first;
    long long whole[kCount];
    if constexpr (kCount == 4) {
      const longlong2 low = *reinterpret_cast<const longlong2*>(sums),
                      high = *reinterpret_cast<const longlong2*>(sums + 2);
      whole[0] = low.x, whole[1] = low.y, whole[2] = high.x, whole[3] = high.y;
    } else {
      whole[0] = *sums;
    }
    const Scale scale(-scale_exponent(a, blockIdx.y));
    const uint32_t flags = a.flags[first / 16] >> (first % 16 * 2);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const unsigned kind = flags >> (2 * i) & 3u;
      values[i] = scale(__ll2float_rn(whole[i]));
      if (kind != 0) values[i] = __uint_as_float(kind == 1 ? 0x7f800000u : kind == 2 ? 0xff800000u : 0x7fc00000u);
    }
  } else {
    const float* sums = static_cast<const float*>(a.sums) + first;
    if constexpr (kCount == 4) {
      const float4 four = *reinterpret_cast<const float4*>(sums);
      values[0] = four.x, values[1] = four.y, values[2] = four.z, values[3] = four.w;
    } else {
      values[0] = *sums;
    }
  }
  char* to = static_cast<char*>(a.p.grad_x) + first * static_cast<int64_t>(sizeof(Element));
  Vector<Element, kCount * sizeof(Element)>::store(to, values, 1);
}

using Kernel = void (*)(BackwardArguments);

cudaError_t launch(Kernel kernel, const dim3& grid, const dim3& block, const BackwardArguments& a,
                   cudaStream_t stream) {
  kernel<<<grid, block, 0, stream>>>(a);
  return cudaGetLastError();
}

template <class Element, bool kExact>
Kernel pixel_kernel(int lanes) {
  if (lanes == 8) return warp_backward_vectors_kernel<Element, 16, 8, kExact>;
  if (lanes == 32) return warp_backward_vectors_kernel<Element, sizeof(Element), 32, kExact>;
  return warp_backward_planes_kernel<Element, kExact>;
}

template <class Element>
cudaError_t launch_backward(const FlowWarpBackward& p, bool deterministic, cudaStream_t stream) {
  constexpr int64_t kSize = sizeof(Element);
  if (!fits_grid(p.n, p.h, p.w, kWarpRows)) return cudaErrorInvalidConfiguration;
  const int64_t count = p.c * p.h * p.w;
  if (p.n * count == 0) return cudaSuccess;
  const bool x_wanted = p.grad_x != nullptr;
  BackwardArguments a{p};
  a.exact = deterministic && x_wanted;
  const bool in_place = kSize == 4 && !a.exact;
  a.sums = in_place ? p.grad_x : p.workspace;
  if (a.exact) {
    a.flags = reinterpret_cast<uint32_t*>(static_cast<char*>(p.workspace) + flow_warp_sum_bytes(p, true));
    a.largest = a.flags + flow_warp_flag_words(p);
    while (int64_t{1} << a.headroom < p.h * p.w) ++a.headroom;
  }
  a.sums_strides = p.channels_last ? Strides{count, 1, p.w * p.c, p.c} : Strides{count, p.h * p.w, p.w, 1};
  const int lanes = plan_flow_warp_backward(p);
  const int64_t bytes = lanes == 8 ? 16 : kSize;
  a.vectors = static_cast<int>(p.c * kSize / bytes);
  a.channels = static_cast<int>(p.c), a.row_elements = static_cast<int>(p.w * p.c);
  // Of a single row or column, whose stride may be any, only the first is ever inside.
  if (lanes != 1 && p.w > 1) a.right = p.xs.w * kSize, a.column = static_cast<int>(a.right / bytes);
  if (lanes != 1 && p.h > 1) a.down = p.xs.h * kSize, a.row = static_cast<int>(a.down / bytes);

  const dim3 rows = row_grid(p.n, p.h, p.w, kWarpRows), block(32, kWarpRows);
  cudaError_t error = cudaSuccess;
  if (x_wanted) {
    const int64_t cleared = in_place ? flow_warp_sum_bytes(p, false) : flow_warp_workspace_bytes(p, deterministic);
    error = cudaMemsetAsync(a.sums, 0, static_cast<size_t>(cleared), stream);
    if (error != cudaSuccess) return error;
  }
  if (a.exact) {
    error = launch(warp_largest_kernel<Element>, rows, block, a, stream);
    if (error != cudaSuccess) return error;
  }
  error = launch(a.exact ? pixel_kernel<Element, true>(lanes) : pixel_kernel<Element, false>(lanes), rows, block, a,
                 stream);
  if (error != cudaSuccess || !x_wanted || in_place) return error;
  const bool fours = count % 4 == 0 && reinterpret_cast<uintptr_t>(p.grad_x) % (4 * kSize) == 0;
  const int64_t per_block = kBackwardThreads * (fours ? 4 : 1), blocks = (count + per_block - 1) / per_block;
  if (blocks > kMaxGridX) return cudaErrorInvalidConfiguration;
  return launch(fours ? warp_round_kernel<Element, 4> : warp_round_kernel<Element, 1>,
                dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(p.n)), dim3(kBackwardThreads), a, stream);
}

}  // namespace

cudaError_t launch_flow_warp_backward(const FlowWarpBackward& problem, bool deterministic, cudaStream_t stream) {
  switch (problem.dtype) {
    case DType::f32: return launch_backward<float>(problem, deterministic, stream);
    case DType::f16: return launch_backward<__half>(problem, deterministic, stream);
    case DType::bf16: return launch_backward<__nv_bfloat16>(problem, deterministic, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace vsr::cuda
