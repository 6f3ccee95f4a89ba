// The launchers of the residual block, and the host functions behind them, as C functions of plain numbers.
#include "cuda/conv3x3.cu"
#include "cuda/conv3x3_bf16.cu"
#include "cuda/conv3x3_pack.cu"
#include "cuda/residual_block.cu"
#include "cuda/residual_block_bf16.cu"
#include "cuda/residual_block_f16.cu"
#include "cuda/thin_net.cu"
#include "cuda/thin_net_bf16.cu"
#include "cuda/thin_net_f16.cu"

// Of the single convolution, bfloat16 and one instance of float32: all of it takes long to compile, and is tested by
// itself.
namespace vsr::cuda {

cudaError_t launch_conv3x3_f32(const Conv3x3& p, int tile_height, cudaStream_t stream) {
  const Conv3x3Layout layout = conv3x3_layout(p.c_in, p.c_out, p.r, p.dtype, p.exact);
  if (layout.columns != 32 || tile_height != 8 || !p.exact) return cudaErrorInvalidValue;
  return launch_tiles<ConvTraits<MathTf32x3, 32, 8>>(p, conv_arguments(p, layout), stream);
}

cudaError_t launch_conv3x3_f16(const Conv3x3&, int, cudaStream_t) { return cudaErrorInvalidValue; }

}  // namespace vsr::cuda

using namespace vsr;

namespace {

Conv3x3Layout layout_of(int second, int64_t c, int64_t c_mid, int dtype, int exact, int plan) {
  const BlockLayouts layouts =
      block_layouts(c, c_mid, static_cast<DType>(dtype), exact != 0, static_cast<BlockPlan>(plan));
  return second != 0 ? layouts.second : layouts.first;
}

}  // namespace

extern "C" int fused_columns_of(int64_t c, int64_t c_mid, int dtype) {
  return fused_columns(c, c_mid, static_cast<DType>(dtype));
}

extern "C" int64_t block_packed_bytes(int second, int64_t c, int64_t c_mid, int dtype, int exact, int plan) {
  return packed_bytes(layout_of(second, c, c_mid, dtype, exact, plan));
}

extern "C" int block_pack(int second, const void* weight, const void* bias, const void* slope, void* packed, int64_t c,
                          int64_t c_mid, int64_t slope_count, float number, int activation, int dtype, int exact,
                          int plan) {
  Conv3x3Pack p{};
  p.weight = weight, p.bias = bias, p.slope = slope, p.packed = packed;
  p.layout = layout_of(second, c, c_mid, dtype, exact, plan);
  p.strides = {9 * p.layout.c_in, 9, 3, 1};
  p.slope_count = slope_count, p.number = number;
  p.activation = second != 0 ? Activation::none : static_cast<Activation>(activation);
  p.dtype = static_cast<DType>(dtype);
  return cuda::launch_conv3x3_pack(p, nullptr);
}

// height 0: chosen for the device.
extern "C" int residual_block(const void* x, const void* packed1, const void* packed2, void* out, void* hidden,
                              void* scratch, int64_t n, int64_t h, int64_t w, int64_t c, int64_t c_mid, float scale,
                              int activation, int dtype, int exact, int before, int plan, int height) {
  ResidualBlock p{};
  p.x = x, p.packed1 = packed1, p.packed2 = packed2, p.out = out, p.hidden = hidden, p.scratch = scratch;
  p.n = n, p.h = h, p.w = w, p.c = c, p.c_mid = c_mid, p.scale = scale;
  p.activation = static_cast<Activation>(activation), p.dtype = static_cast<DType>(dtype), p.exact = exact != 0;
  p.hidden_before_activation = before != 0, p.plan = static_cast<BlockPlan>(plan);
  return height == 0 ? cuda::launch_residual_block(p, nullptr) : cuda::launch_fused_block(p, height, nullptr);
}

extern "C" int block_plan(int64_t c, int64_t c_mid, int64_t n, int64_t h, int64_t w, int dtype, int capability,
                          int multiprocessors, int shared_per_block, int shared_per_multiprocessor, int64_t l2_bytes) {
  const Gpu gpu{capability, multiprocessors, shared_per_block, shared_per_multiprocessor, l2_bytes};
  return static_cast<int>(choose_block_plan(c, c_mid, n, h, w, static_cast<DType>(dtype), false, gpu));
}

// Microseconds that the model gives the fused form (0: it does not fit), two launches, and the first of the two.
extern "C" void block_times(int64_t c, int64_t c_mid, int64_t n, int64_t h, int64_t w, int dtype, int capability,
                            int multiprocessors, int shared_per_block, int shared_per_multiprocessor, int64_t l2_bytes,
                            double* times) {
  const Gpu gpu{capability, multiprocessors, shared_per_block, shared_per_multiprocessor, l2_bytes};
  const BlockTimes found = block_times_of(c, c_mid, n, h, w, static_cast<DType>(dtype), false, gpu);
  times[0] = found.fused / gpu_rates(capability).cycles_per_microsecond;
  times[1] = found.two / gpu_rates(capability).cycles_per_microsecond;
}

extern "C" int block_height(int64_t c, int64_t c_mid, int64_t n, int64_t h, int64_t w, int dtype, int capability,
                            int multiprocessors, int shared_per_block, int shared_per_multiprocessor,
                            int64_t l2_bytes) {
  const Gpu gpu{capability, multiprocessors, shared_per_block, shared_per_multiprocessor, l2_bytes};
  return block_tile(c, c_mid, n, h, w, static_cast<DType>(dtype), gpu).height;
}
