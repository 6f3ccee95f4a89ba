// The launchers of the convolution's epilogue backward as C functions of plain numbers.
#include "cuda/conv3x3_epilogue.cu"

extern "C" int64_t epilogue_slice_count(int64_t pixels) { return vsr::epilogue_slices(pixels); }

extern "C" int epilogue_backward(const void* grad, const void* saved, const void* slope, void* before,
                                 float* slope_parts, int64_t n, int64_t h, int64_t w, int64_t c, int64_t r,
                                 int64_t slope_count, float number, float scale, int activation, int dtype) {
  const vsr::EpilogueBackward p{grad,
                                saved,
                                slope,
                                before,
                                slope_parts,
                                n,
                                h,
                                w,
                                c,
                                r,
                                slope_count,
                                number,
                                scale,
                                static_cast<vsr::Activation>(activation),
                                static_cast<vsr::DType>(dtype)};
  return vsr::cuda::launch_conv3x3_epilogue_backward(p, nullptr);
}

extern "C" int slope_sum(const float* parts, void* grad_slope, int64_t count, int64_t c, int64_t slope_count,
                         int dtype) {
  return vsr::cuda::launch_slope_sum({parts, grad_slope, count, c, slope_count, static_cast<vsr::DType>(dtype)},
                                     nullptr);
}
