// Description of a backward warp by a flow field in pixels.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace vsr {

struct Strides {  // in elements
  int64_t n, c, h, w;
};

struct FlowWarp {
  const void* x;     // (N, C, H, W), any strides
  const void* flow;  // (N, 2, H, W), any strides; channel 0 = dx, 1 = dy, in pixels
  void* out;         // (N, C, H, W), dense, channels_last if x has neighbouring channels
  int64_t n, c, h, w;
  Strides xs, fs, os;
  DType dtype;       // of x and out
  DType flow_dtype;  // f32, or dtype
  bool nearest;      // else bilinear
  bool border;       // else zeros
};

struct FlowWarpBackward {
  const void* grad;  // (N, C, H, W), dense channels_last
  const void* x;     // (N, C, H, W), dense channels_last
  const void* flow;  // (N, 2, H, W), any strides
  float* grad_x;     // (N, H, W, C), zeroed by the caller; null if not wanted
  void* grad_flow;   // (N, 2, H, W), dense contiguous, flow_dtype; null if not wanted
  int64_t n, c, h, w;
  Strides fs;
  DType dtype;
  DType flow_dtype;
  bool nearest;
  bool border;
};

}  // namespace vsr
