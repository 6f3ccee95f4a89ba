// A 3x3 or 7x7 convolution with stride 1, as large as its input, on the CPU: the call, the method, and how it is cut
// into blocks.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/epilogue.h"
#include "core/flow_warp.h"

namespace vsr::cpu {

// How the sums are found.
//
//   winograd3  F(3x3, 3x3): 25 products per nine pixels instead of 81.
//   winograd4  F(4x4, 3x3): 36 products per 16 pixels instead of 144, at a rounding error that a call has to allow.
//   direct     nine taps in a row: for few input channels, where the transforms would be most of the work.
//   taps       every pixel times all nine taps, then the sum of nine shifted results: for few output channels, which
//              would leave most lanes of a vector empty.
//   pieces     7x7 as four 4x4 convolutions, F(2x2, 4x4): 100 products per four pixels instead of 196.
//   pieces4    F(4x4, 4x4): 196 products per 16 pixels instead of 784, at a rounding error that a call has to allow.
enum class ConvMethod { winograd3, winograd4, direct, taps, pieces, pieces4 };

// All methods are products of matrices, `products` of them: rows of A (tiles or pixels, worked out per block) of depth
// k, times packed columns B. Columns come in chunks, those in panels of a few vectors: what the registers hold at once.
struct ConvPlan {
  ConvMethod method;
  bool halves;         // A and B in bfloat16, else float32
  int64_t sums;        // per side of a tile of a 3x3 kernel, 0 for methods without
  int64_t products;    // 25 for winograd3, 36 for winograd4, 100 for pieces, 196 for pieces4, else 1
  int64_t columns;     // of B: C_out, or 9 C_out for taps
  int64_t k;           // of the products: C_in, or 9 C_in for direct; made even for halves
  int64_t block_rows;  // rows of A per block
  int64_t high, wide;  // tiles per block of pieces
  int64_t blocks;
  int64_t pack_units;
  int64_t packed_bytes;
};

// out = epilogue(conv(x, weight) + bias). Column j of the sums is channel shuffled_channel(j) of the weight.
struct Conv {
  const void* x;            // (N, H, W, C_x), dense
  const void* weight;       // (C_out, C_in, size, size), any strides
  const void* bias;         // C_out values, dense, or null
  const void* slope;        // prelu: slope_count values, dense
  const void* packed;       // 64-byte aligned
  const int64_t* channels;  // the C_in channels of x that are convolved, or null: all, C_x = C_in
  Strides ws;
  int64_t c_x;
  int64_t c_in;
  int64_t slope_count;  // 0, 1 or C_out
  bool exact;           // for float32, neither winograd4 nor pieces4 is allowed
  int64_t size = 3;     // 3 or 7, which takes neither channels nor a pixel shuffle nor scatters
  ConvPlan plan;
  Epilogue tail;  // C_out is tail.c; slope of prelu and slopes are taken from `slope` and need not be set
};

}  // namespace vsr::cpu
