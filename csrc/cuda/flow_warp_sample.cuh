// Where an output pixel of a flow warp samples: the same rules as csrc/cpu/flow_warp.inl.h.
#pragma once

#include "core/flow_warp.h"
#include "cuda/elements.cuh"
#include "cuda/memory.cuh"

namespace vsr::cuda {

constexpr int kWarpRows = 8;     // of a block: one warp each
constexpr int kWarpPixels = 32;  // of a row: one lane each while coordinates are worked out

constexpr int64_t kMaxGridX = 0x7fffffff, kMaxGridYZ = 65535;

// A block takes `rows` rows of 32 pixels. A position plus 1e9 has to be an int.
inline bool fits_grid(int64_t n, int64_t h, int64_t w, int rows) {
  constexpr int64_t kMaxSize = int64_t{1} << 30;
  return h <= kMaxSize && w <= kMaxSize && (h + rows - 1) / rows <= kMaxGridYZ && n <= kMaxGridYZ;
}
inline dim3 row_grid(int64_t n, int64_t h, int64_t w, int rows) {
  return dim3(static_cast<unsigned>((w + kWarpPixels - 1) / kWarpPixels), static_cast<unsigned>((h + rows - 1) / rows),
              static_cast<unsigned>(n));
}

struct Axis {
  int i0;        // first of two neighbours; may lie outside
  float f;       // weight of the second
  bool clipped;  // the coordinate lies on or beyond the border, where border padding is flat
};

// The displacement is split into whole pixels and a fraction, which is exact, unlike the sum with the position.
// Beyond 1e9 it is as far outside as any other; NaN becomes the lower end.
__device__ __forceinline__ Axis locate(int position, float displacement, int size, bool nearest, bool border) {
  constexpr float kFar = 1e9f;
  const float d = fminf(fmaxf(displacement, -kFar), kFar);
  const int whole = __float2int_rd(d);
  Axis axis{position + whole, d - __int2float_rn(whole), false};
  if (nearest) {  // ties go to the even pixel
    axis.i0 += axis.f > 0.5f || (axis.f == 0.5f && (axis.i0 & 1) != 0);
    axis.f = 0.0f;
  }
  if (border) {
    if (axis.i0 < 0 || (axis.i0 == 0 && axis.f == 0.0f)) {
      axis = {0, 0.0f, true};
    } else if (axis.i0 >= size - 1) {
      axis = {size - 1, 0.0f, true};
    }
  }
  return axis;
}

// The corners are numbered row by row: bit i of `mask` says that corner i is inside and wanted.
struct Sample {
  Axis x, y;
  unsigned mask;
};

// What a warp works on: 32 pixels of a row, the first of them in column `first`.
struct Run {
  int lane, row, first;
  int64_t n;

  __device__ __forceinline__ Run()
      : lane(threadIdx.x),
        row(static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y)),
        first(static_cast<int>(blockIdx.x) * kWarpPixels),
        n(blockIdx.z) {}
};

// The sample of the lane's own pixel; behind the last column it wants no corner. p: FlowWarp or FlowWarpBackward.
template <class Element, class Problem>
__device__ __forceinline__ Sample sample(const Problem& p, const Run& run) {
  Sample s{};
  const int h = static_cast<int>(p.h), w = static_cast<int>(p.w), column = run.first + run.lane;
  if (column >= w) return s;
  const int64_t at = run.n * p.fs.n + run.row * p.fs.h + column * p.fs.w;
  float dx, dy;
  if (sizeof(Element) == 4 || p.flow_dtype == DType::f32) {
    const float* field = static_cast<const float*>(p.flow) + at;
    dx = __ldg(field), dy = __ldg(field + p.fs.c);
  } else {
    const Element* field = static_cast<const Element*>(p.flow) + at;
    dx = to_float(field[0]), dy = to_float(field[p.fs.c]);
  }
  s.x = locate(column, dx, w, p.nearest, p.border);
  s.y = locate(run.row, dy, h, p.nearest, p.border);
  const auto inside = [](int i, int size) { return static_cast<unsigned>(i) < static_cast<unsigned>(size); };
  const unsigned left = inside(s.x.i0, w), right = inside(s.x.i0 + 1, w);
  const unsigned columns = left | right << 1;
  s.mask = (inside(s.y.i0, h) ? columns : 0) | (inside(s.y.i0 + 1, h) ? columns << 2 : 0);
  if (p.nearest) s.mask &= 1;
  return s;
}

struct Weights {
  float corner[4];
};

__device__ __forceinline__ Weights weights(float fx, float fy) {
  const float gx = 1.0f - fx, gy = 1.0f - fy;
  return {{gy * gx, gy * fx, fy * gx, fy * fx}};
}

// kBytes from global memory if bit kBit of the mask is set, else zeros; two bytes fill the lower half of a word.
template <int kBit, int kBytes, int kWords>
__device__ __forceinline__ void load_if(uint32_t (&words)[kWords], const char* from, unsigned mask) {
  static_assert(kWords * 4 == kBytes || (kWords == 1 && kBytes == 2));
#pragma unroll
  for (int i = 0; i < kWords; ++i) words[i] = 0;
  if constexpr (kBytes == 16) {
    asm("{.reg .pred p; .reg .b32 bit; and.b32 bit, %5, %6; setp.ne.b32 p, bit, 0; "
        "@p ld.global.nc.v4.b32 {%0, %1, %2, %3}, [%4];}"
        : "+r"(words[0]), "+r"(words[1]), "+r"(words[2]), "+r"(words[3])
        : "l"(__cvta_generic_to_global(from)), "r"(mask), "n"(1 << kBit));
  } else if constexpr (kBytes == 8) {
    asm("{.reg .pred p; .reg .b32 bit; and.b32 bit, %3, %4; setp.ne.b32 p, bit, 0; "
        "@p ld.global.nc.v2.b32 {%0, %1}, [%2];}"
        : "+r"(words[0]), "+r"(words[1])
        : "l"(__cvta_generic_to_global(from)), "r"(mask), "n"(1 << kBit));
  } else if constexpr (kBytes == 4) {
    asm("{.reg .pred p; .reg .b32 bit; and.b32 bit, %2, %3; setp.ne.b32 p, bit, 0; @p ld.global.nc.b32 %0, [%1];}"
        : "+r"(words[0])
        : "l"(__cvta_generic_to_global(from)), "r"(mask), "n"(1 << kBit));
  } else {
    static_assert(kBytes == 2);
    asm("{.reg .pred p; .reg .b32 bit; .reg .b16 half; mov.b16 half, 0; and.b32 bit, %2, %3; setp.ne.b32 p, bit, 0; "
        "@p ld.global.nc.b16 half, [%1]; cvt.u32.u16 %0, half;}"
        : "+r"(words[0])
        : "l"(__cvta_generic_to_global(from)), "r"(mask), "n"(1 << kBit));
  }
}

// What fits in kBytes of elements, as floats. Two bytes are the lower half of a word.
template <class Element, int kBytes>
struct Vector {
  static constexpr int kWords = kBytes < 4 ? 1 : kBytes / 4;
  static constexpr int kValues = kBytes / static_cast<int>(sizeof(Element));

  static __device__ __forceinline__ float value(const uint32_t (&words)[kWords], int i) {
    if constexpr (sizeof(Element) == 4) {
      return __uint_as_float(words[i]);
    } else {
      return half_of<Element>(words[i / 2], i % 2 != 0);
    }
  }

  static __device__ __forceinline__ void pack(uint32_t (&words)[kWords], const float (&values)[kValues]) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if constexpr (sizeof(Element) == 4) {
        words[i] = __float_as_uint(values[i]);
      } else if constexpr (kBytes >= 4) {
        words[i] = halves<Element>(values[2 * i], values[2 * i + 1]);
      } else {
        words[i] = halves<Element>(values[0], 0.0f);
      }
    }
  }

  // Where limit > 0.
  static __device__ __forceinline__ void store(char* to, const float (&values)[kValues], int limit) {
    uint32_t words[kWords];
    pack(words, values);
    if constexpr (kBytes >= 4) {
      store_global_below<0>(to, words, limit);
    } else {
      if (limit > 0) *reinterpret_cast<uint16_t*>(to) = static_cast<uint16_t>(words[0]);
    }
  }
};

// The four corners of a vector of channels. at: the first corner; right, down: bytes to its neighbours.
template <class Element, int kBytes>
struct Corners {
  using Lane = Vector<Element, kBytes>;
  uint32_t words[4][Lane::kWords];

  __device__ __forceinline__ void load(const char* at, int64_t right, int64_t down, unsigned mask) {
    load_if<0, kBytes>(words[0], at, mask);
    load_if<1, kBytes>(words[1], at + right, mask);
    load_if<2, kBytes>(words[2], at + down, mask);
    load_if<3, kBytes>(words[3], at + down + right, mask);
  }

  __device__ __forceinline__ void blend(float (&values)[Lane::kValues], const Weights& by) const {
#pragma unroll
    for (int i = 0; i < Lane::kValues; ++i) {
      float v = by.corner[0] * Lane::value(words[0], i);
      v = fmaf(by.corner[1], Lane::value(words[1], i), v);
      v = fmaf(by.corner[2], Lane::value(words[2], i), v);
      values[i] = fmaf(by.corner[3], Lane::value(words[3], i), v);
    }
  }
};

}  // namespace vsr::cuda
