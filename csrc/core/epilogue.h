// Description of what follows the sums of a 3x3 convolution.
#pragma once

#include <cstdint>

#include "core/activation.h"
#include "core/dtype.h"
#include "core/platform.h"

namespace vsr {

// out = residual + scale * pixel_shuffle(act(z), r), or scattered onto some channels of the residual. All tensors are
// dense channels_last. z are the sums of a convolution with the bias added, C = r * r * C_shuffled float32 values of a
// pixel in the order of memory after the shuffle: sub-row, sub-column, channel (shuffled_channel).
struct Epilogue {
  void* out;               // (N, r H, r W, C_out)
  void* kept;              // (N, r H, r W, C / r^2): pixel_shuffle(z, r), rounded to dtype; or null
  const void* residual;    // as out, or null
  const float* slopes;     // C values in the order of z, or null: `slope` for all
  const int64_t* scatter;  // null, or C channels of out; needs residual and r == 1
  int64_t n, h, w, c;
  int64_t c_out;
  int64_t r;
  float slope;
  float scale;
  Activation activation;
  DType dtype;
};

// The channel before the shuffle of value `column` of z.
inline int64_t shuffled_channel(int64_t column, int64_t c, int64_t r) {
  const int64_t shuffled = c / (r * r);
  return column % shuffled * r * r + column / shuffled;
}

// The gradient before the epilogue, and the parts of the prelu slope's gradient, to be added up in their order. A part
// is what some pixels contribute to each of the C channels: a row of the image on the CPU, a slice
// (epilogue_slices) on CUDA.
struct EpilogueBackward {
  const void* grad;    // (N, r H, r W, C / r^2)
  const void* saved;   // as grad: the values before the activation, or outputs of the same sign; unused for none
  const void* slope;   // prelu
  void* before;        // (N, H, W, C); neither grad nor saved
  float* slope_parts;  // (parts, C); zeroed by the caller on the CPU; or null
  int64_t n, h, w, c;
  int64_t r;
  int64_t slope_count;
  float number;
  float scale;
  Activation activation;
  DType dtype;
};

// Slices that the pixels of a backward on CUDA are cut into: as many as fill a large device, few enough that their
// parts are added up in no time. It follows from the problem alone, so that the order of sums is that of every device.
VSR_HOST_DEVICE inline int64_t epilogue_slices(int64_t pixels) {
  constexpr int64_t kPixelsPerSlice = 64, kMost = 1024;
  const int64_t slices = (pixels + kPixelsPerSlice - 1) / kPixelsPerSlice;
  return slices < kMost ? slices : kMost;
}

// grad_slope = the sum of the parts, in their order; over the channels as well if there is one slope for all.
struct SlopeSum {
  const float* parts;  // (count, C)
  void* grad_slope;    // (slope_count,)
  int64_t count, c;
  int64_t slope_count;
  DType dtype;  // of grad_slope
};

// Channels picked out of a dense channels_last tensor.
struct ChannelGather {
  const void* x;  // (pixels, C)
  void* out;      // (pixels, kept)
  const int64_t* channels;
  int64_t c, kept;
  int64_t element_size;
};

}  // namespace vsr
