// Description of a backward warp by a flow field in pixels, and of how a GPU divides it.
#pragma once

#include "core/dtype.h"
#include "core/platform.h"
#include "core/strides.h"

namespace vsr {

struct FlowWarp {
  const void* x;     // (N, C, H, W), any strides
  const void* flow;  // (N, 2, H, W), any strides; channel 0 = dx, 1 = dy, in pixels
  void* out;         // (N, C, H, W), any strides: dense, or a slice of the channels of a dense tensor
  int64_t n, c, h, w;
  Strides xs, fs, os;
  DType dtype;       // of x and out
  DType flow_dtype;  // f32, or dtype
  bool nearest;      // else bilinear
  bool border;       // else zeros
};

// The warped image and another tensor side by side in one dense tensor (N, C + C_y, H, W) with strides warp.os.
struct FlowWarpConcat {
  FlowWarp warp;  // out: its slice
  const void* y;  // (N, C_y, H, W), any strides, dtype of x
  void* y_out;    // its slice
  int64_t y_c;
  Strides ys;
};

struct FlowWarpBackward {
  const void* grad;  // (N, C, H, W); CUDA: any strides, CPU: neighbouring channels
  const void* x;     // the same
  const void* flow;  // (N, 2, H, W), any strides
  void* grad_x;      // null if not wanted. CUDA: (N, C, H, W), dense. CPU: float32 (N, H, W, C), zeroed by the caller
  void* grad_flow;   // (N, 2, H, W), dense contiguous, flow_dtype; null if not wanted
  void* workspace;   // CUDA: flow_warp_workspace_bytes(), 16-byte aligned
  int64_t n, c, h, w;
  Strides gs, xs, fs;
  DType dtype;
  DType flow_dtype;
  bool nearest;
  bool border;
  bool channels_last;  // CUDA: format of grad_x
};

VSR_HOST_DEVICE constexpr int64_t element_bytes(DType dtype) { return dtype == DType::f32 ? 4 : 2; }

// How the lanes of a warp share pixels: `lanes` neighbouring lanes take one pixel, each `bytes` of its channels at a
// time. bytes == 0: one lane takes a pixel and walks its channels, which may lie anywhere.
struct WarpPlan {
  int bytes;
  int lanes;
};

constexpr int64_t kWarpFewChannels = 4;  // up to so many, neighbouring pixels are as good as neighbouring channels

// Whether every pixel of a tensor starts at a multiple of `bytes` and lies within 2^31 vectors of its image's first.
inline bool in_vectors(const void* pointer, const Strides& s, const FlowWarp& p, int64_t bytes) {
  const int64_t size = element_bytes(p.dtype);
  const auto aligned = [&](int64_t count, int64_t stride) { return count <= 1 || stride * size % bytes == 0; };
  const int64_t reach = ((p.h - 1) * s.h + (p.w - 1) * s.w + p.c) * size / bytes;
  return reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(bytes) == 0 && aligned(p.n, s.n) &&
         aligned(p.h, s.h) && aligned(p.w, s.w) && reach < int64_t{1} << 31;
}

// The lanes of a pixel of this many vectors of `bytes`.
VSR_HOST_DEVICE constexpr int warp_lanes(int64_t vectors, int64_t bytes) {
  int lanes = 1;
  while (lanes < 32 && lanes < vectors) lanes *= 2;
  // Several rounds per pixel: 32 lanes waste more of their last round than 16 do, if a round counts as much as finding
  // the pixel.
  if (lanes == 32 && (bytes < 16 || vectors > 32)) {
    const int64_t half = 16 * ((vectors + 15) / 16 + 1), whole = 32 * ((vectors + 31) / 32 + 1);
    if (half < whole) lanes = 16;
  }
  return lanes;
}

inline WarpPlan plan_flow_warp(const FlowWarp& p) {
  if (p.c <= kWarpFewChannels || p.xs.c != 1 || p.os.c != 1) return {0, 1};
  const int64_t size = element_bytes(p.dtype);
  const int64_t widths[] = {16, 4, size};
  for (const int64_t bytes : widths)
    if (p.c * size % bytes == 0 && in_vectors(p.x, p.xs, p, bytes) && in_vectors(p.out, p.os, p, bytes))
      return {static_cast<int>(bytes), warp_lanes(p.c * size / bytes, bytes)};
  return {0, 1};
}

// Lanes per pixel of the backward pass: 8 where vectors of 16 bytes are possible and 64 channels enough, else 32 by
// single elements, else (1) one lane walks the channels.
constexpr int kWarpSlots = 8;  // channels that a lane adds up at most

inline int plan_flow_warp_backward(const FlowWarpBackward& p) {
  if (p.c <= kWarpFewChannels || p.c > 32 * kWarpSlots || p.gs.c != 1 || p.xs.c != 1) return 1;
  if ((p.grad_x != nullptr && !p.channels_last) || p.w * p.c >= int64_t{1} << 31) return 1;
  FlowWarp shape{};
  shape.n = p.n, shape.c = p.c, shape.h = p.h, shape.w = p.w, shape.dtype = p.dtype;
  const auto both = [&](int64_t bytes) {
    return in_vectors(p.grad, p.gs, shape, bytes) && in_vectors(p.x, p.xs, shape, bytes);
  };
  const int64_t size = element_bytes(p.dtype);
  if (p.c <= 8 * kWarpSlots && p.c * size % 16 == 0 && both(16)) return 8;
  return both(size) ? 32 : 1;
}

// What the backward pass adds contributions to, where that is not grad_x itself. 16-bit images: a float32 per element.
// Deterministic: a 64-bit integer per element; two bits per element that remember infinities and NaN (in words of 32
// bits); a float32 per image, its largest gradient.
inline int64_t flow_warp_sum_bytes(const FlowWarpBackward& p, bool deterministic) {
  return p.n * p.c * p.h * p.w * (deterministic ? 8 : 4);
}
inline int64_t flow_warp_flag_words(const FlowWarpBackward& p) { return (p.n * p.c * p.h * p.w + 15) / 16; }
inline int64_t flow_warp_workspace_bytes(const FlowWarpBackward& p, bool deterministic) {
  if (p.grad_x == nullptr) return 0;
  if (deterministic) return flow_warp_sum_bytes(p, true) + 4 * (flow_warp_flag_words(p) + p.n);
  return p.dtype == DType::f32 ? 0 : flow_warp_sum_bytes(p, false);
}

}  // namespace vsr
