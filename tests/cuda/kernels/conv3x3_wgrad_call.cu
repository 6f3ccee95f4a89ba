// The launchers of the CUDA weight gradient, and the host functions behind them, as C functions of plain numbers.
#include "cuda/conv3x3_wgrad.cu"
#include "cuda/conv3x3_wgrad_bf16.cu"
#include "cuda/conv3x3_wgrad_f16.cu"
#include "cuda/conv3x3_wgrad_f32.cu"

using namespace vsr;

namespace {

void report(const WeightGradientPlan& plan, int64_t* out) {
  const int64_t numbers[] = {plan.name,   plan.row_blocks,    plan.column_blocks,
                             plan.splits, wgrad_stages(plan), wgrad_workspace_bytes(plan)};
  for (int i = 0; i < 6; ++i) out[i] = numbers[i];
}

}  // namespace

// out: form, blocks of rows and of columns, splits, stages, bytes of workspace.
extern "C" void conv3x3_wgrad_plan(int64_t n, int64_t h, int64_t w, int64_t c_in, int64_t c_out, int dtype, int exact,
                                   int capability, int multiprocessors, int shared_per_multiprocessor,
                                   int64_t workspace, int64_t* out) {
  report(weight_gradient_plan(n, h, w, c_in, c_out, static_cast<DType>(dtype), exact != 0,
                              {capability, multiprocessors, shared_per_multiprocessor}, workspace),
         out);
}

extern "C" int conv3x3_wgrad_shared_bytes(int form, int element_bytes, int asynchronous) {
  return wgrad_shared_bytes(kWeightGradientForms[form], element_bytes, asynchronous != 0);
}

extern "C" int64_t conv3x3_wgrad_workspace(int64_t n, int64_t h, int64_t w, int64_t c_in, int64_t c_out, int dtype,
                                           int exact) {
  Conv3x3WeightGradient p{};
  p.n = n, p.h = h, p.w = w, p.c_in = c_in, p.c_out = c_out;
  p.dtype = static_cast<DType>(dtype), p.exact = exact != 0;
  int64_t bytes = 0;
  const int error = cuda::conv3x3_weight_gradient_workspace(p, bytes);
  return error == 0 ? bytes : -error;
}

// splits 0: as many as suit the device and the workspace.
extern "C" int conv3x3_wgrad(const void* x, const void* grad, const int64_t* in_channels, void* grad_weight,
                             void* grad_bias, void* workspace, int64_t workspace_bytes, int64_t n, int64_t h, int64_t w,
                             int64_t c_x, int64_t c_in, int64_t c_out, int dtype, int exact, int64_t splits) {
  const Conv3x3WeightGradient p{
      x,         grad, in_channels, grad_weight, grad_bias, workspace, workspace_bytes,
      n,         h,    w,           c_x,         c_in,      c_out,     static_cast<DType>(dtype),
      exact != 0};
  if (splits == 0) return cuda::launch_conv3x3_weight_gradient(p, nullptr);
  WeightGradientPlan plan =
      weight_gradient_plan(n, h, w, c_in, c_out, p.dtype, p.exact, {80, 108, 164 << 10}, workspace_bytes);
  plan.splits = splits;
  return cuda::launch_conv3x3_weight_gradient(p, plan, nullptr);
}
