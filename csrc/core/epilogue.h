// Description of what follows the sums of a 3x3 convolution.
#pragma once

#include <cstdint>

#include "core/activation.h"
#include "core/dtype.h"

namespace vsr {

// out = residual + scale * pixel_shuffle(act(z), r), or scattered onto some channels of the residual. All tensors are
// dense channels_last. z holds C = C_shuffled * r * r channels with the bias already added.
struct Epilogue {
  const void* z;           // (N, H, W, C)
  void* out;               // (N, r H, r W, C_out); may be z where r == 1 and nothing is scattered
  const void* residual;    // as out, or null
  const void* slope;       // prelu: slope_count values
  const int64_t* scatter;  // null, or C channels of out; needs residual and r == 1
  int64_t n, h, w, c;
  int64_t c_out;
  int64_t r;
  int64_t slope_count;  // 1 or C
  float number;         // slope of leaky_relu
  float scale;
  Activation activation;
  DType dtype;
};

// The gradient before the epilogue, and per image row the part of the prelu slope's gradient that it contributes.
struct EpilogueBackward {
  const void* grad;   // (N, r H, r W, C / r^2)
  const void* saved;  // z (N, H, W, C), or the output (as grad) if of_output; unused for none
  const void* slope;  // prelu
  void* before;       // (N, H, W, C)
  float* slope_rows;  // (N H, C), zeroed by the caller; or null
  int64_t n, h, w, c;
  int64_t r;
  int64_t slope_count;
  float number;
  float scale;
  Activation activation;
  bool of_output;
  DType dtype;
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
