// The gradient of a 3x3 convolution by its weight and bias on the CPU: the call, and how it is cut into parts.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace vsr::cpu {

// Products are matrices of `rows` by `columns`, one of them the input channels and the other the output channels. The
// parts follow from the shapes alone, and with them the order of all sums.
struct WeightGradPlan {
  bool swapped;  // rows are the output channels
  int64_t rows, columns;
  int64_t row_step;     // columns, rounded up
  int64_t product;      // elements of one product, rounded up
  int64_t block_tiles;  // tiles of 2x2 pixels that are transformed at a time
  int64_t part_tiles;   // a multiple of it
  int64_t parts;
  int64_t part_sums;  // 16 products and the sums of the bias
};

// grad_weight[co][ci][ky][kx] = sum over pixels of grad[y][x][co] * x[y + ky - 1][x + kx - 1][ci]; grad_bias = sum over
// pixels of grad.
struct WeightGrad {
  const void* x;      // (N, H, W, C_in), dense
  const void* grad;   // (N, H, W, C_out), dense
  double* parts;      // plan.parts * plan.part_sums
  void* grad_weight;  // (C_out, C_in, 3, 3), dense
  void* grad_bias;    // (C_out,)
  int64_t n, h, w, c_in, c_out;
  DType dtype;
  WeightGradPlan plan;
};

}  // namespace vsr::cpu
