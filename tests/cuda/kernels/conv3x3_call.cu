// The launchers of the CUDA 3x3 convolution, and the host functions behind them, as C functions of plain numbers.
#include "cuda/conv3x3.cu"
#include "cuda/conv3x3_bf16.cu"
#include "cuda/conv3x3_f16.cu"
#include "cuda/conv3x3_f32.cu"
#include "cuda/conv3x3_pack.cu"

using namespace vsr;

namespace {

Conv3x3Layout layout_of(int64_t c_in, int64_t c_out, int64_t r, int dtype, int exact) {
  return conv3x3_layout(c_in, c_out, r, static_cast<DType>(dtype), exact != 0);
}

}  // namespace

extern "C" int64_t conv3x3_packed_bytes(int64_t c_in, int64_t c_out, int64_t r, int dtype, int exact) {
  return packed_bytes(layout_of(c_in, c_out, r, dtype, exact));
}

// Five numbers per packed weight: output channel (-1: padding), input channel, ky, kx, part.
extern "C" int64_t conv3x3_places(int64_t c_in, int64_t c_out, int64_t r, int dtype, int exact, int64_t* places) {
  const Conv3x3Layout layout = layout_of(c_in, c_out, r, dtype, exact);
  const int64_t count = packed_weights(layout);
  for (int64_t i = 0; places != nullptr && i < count; ++i) {
    const PackedWeight at = packed_weight(layout, i);
    const int64_t row[] = {at.channel_out, at.channel_in, at.ky, at.kx, at.part};
    for (int j = 0; j < 5; ++j) places[5 * i + j] = row[j];
  }
  return count;
}

extern "C" int conv3x3_height(int64_t c_in, int64_t c_out, int dtype, int exact, int64_t n, int64_t h, int64_t w,
                              int assembles, int multiprocessors, int shared_per_block, int shared_per_multiprocessor) {
  return conv_tile_height(layout_of(c_in, c_out, 1, dtype, exact), n, h, w, assembles != 0,
                          {multiprocessors, shared_per_block, shared_per_multiprocessor});
}

extern "C" int conv3x3_heights(int64_t c_out, int dtype, int* heights) {
  const Conv3x3Layout layout = layout_of(1, c_out, 1, dtype, 0);
  int count = 0;
  for (const int* h = conv_heights(layout.columns, layout.element_bytes); *h != 0; ++h) heights[count++] = *h;
  return count;
}

extern "C" int conv3x3_pack(const void* weight, const void* bias, const void* slope, void* packed, int64_t c_in,
                            int64_t c_out, int64_t r, int64_t stride_n, int64_t stride_c, int64_t stride_h,
                            int64_t stride_w, int64_t slope_count, float number, int activation, int transposed,
                            int dtype, int exact) {
  Conv3x3Pack p{};
  p.weight = weight, p.bias = bias, p.slope = slope, p.packed = packed;
  p.strides = {stride_n, stride_c, stride_h, stride_w};
  p.slope_count = slope_count, p.number = number;
  p.activation = static_cast<Activation>(activation), p.dtype = static_cast<DType>(dtype);
  p.transposed = transposed != 0;
  p.layout = layout_of(c_in, c_out, r, dtype, exact);
  return cuda::launch_conv3x3_pack(p, nullptr);
}

// Strides of x: n, c, h, w. tile_height 0: chosen for the device.
extern "C" int conv3x3(const void* x, const void* packed, const void* residual, void* out, void* kept,
                       const int64_t* in_channels, const int64_t* out_channels, const int64_t* strides, int64_t n,
                       int64_t h, int64_t w, int64_t c_in, int64_t c_out, int64_t c_total, int64_t r, float scale,
                       int activation, int dtype, int exact, int tile_height) {
  Conv3x3 p{};
  p.x = x, p.packed = packed, p.residual = residual, p.out = out, p.kept = kept;
  p.in_channels = in_channels, p.out_channels = out_channels;
  p.xs = {strides[0], strides[1], strides[2], strides[3]};
  p.n = n, p.h = h, p.w = w, p.c_in = c_in, p.c_out = c_out, p.c_total = c_total, p.r = r;
  p.scale = scale, p.activation = static_cast<Activation>(activation);
  p.dtype = static_cast<DType>(dtype), p.exact = exact != 0;
  return tile_height == 0 ? cuda::launch_conv3x3(p, nullptr) : cuda::launch_conv3x3(p, tile_height, nullptr);
}
