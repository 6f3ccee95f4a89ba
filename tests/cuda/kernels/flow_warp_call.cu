// The launchers of the CUDA flow warp, and their plans, as C functions of plain numbers. Sizes are n, c, h, w; strides
// are in the same order, one tensor after the other.
#include "cuda/flow_warp.cu"
#include "cuda/flow_warp_backward.cu"

using namespace vsr;

namespace {

Strides strides_at(const int64_t* s, int tensor) {
  s += 4 * tensor;
  return {s[0], s[1], s[2], s[3]};
}

FlowWarp problem(const void* x, const void* flow, void* out, const int64_t* sizes, const int64_t* strides, int dtype,
                 int flow_dtype, int nearest, int border) {
  return {x,
          flow,
          out,
          sizes[0],
          sizes[1],
          sizes[2],
          sizes[3],
          strides_at(strides, 0),
          strides_at(strides, 1),
          strides_at(strides, 2),
          static_cast<DType>(dtype),
          static_cast<DType>(flow_dtype),
          nearest != 0,
          border != 0};
}

}  // namespace

// Strides of x, flow, out.
extern "C" int flow_warp(const void* x, const void* flow, void* out, const int64_t* sizes, const int64_t* strides,
                         int dtype, int flow_dtype, int nearest, int border) {
  return cuda::launch_flow_warp(problem(x, flow, out, sizes, strides, dtype, flow_dtype, nearest, border), nullptr);
}

// 100 * bytes + lanes
extern "C" int flow_warp_plan(const void* x, void* out, const int64_t* sizes, const int64_t* strides, int dtype) {
  const WarpPlan plan = plan_flow_warp(problem(x, nullptr, out, sizes, strides, dtype, dtype, 0, 0));
  return 100 * plan.bytes + plan.lanes;
}

// Strides of x, flow, out, y.
extern "C" int flow_warp_concat(const void* x, const void* flow, void* out, const void* y, void* y_out, int64_t y_c,
                                const int64_t* sizes, const int64_t* strides, int dtype, int flow_dtype, int nearest,
                                int border) {
  return cuda::launch_flow_warp_concat({problem(x, flow, out, sizes, strides, dtype, flow_dtype, nearest, border), y,
                                        y_out, y_c, strides_at(strides, 3)},
                                       nullptr);
}

namespace {

// Strides of grad, x, flow.
FlowWarpBackward backward_problem(const void* grad, const void* x, const void* flow, void* grad_x, void* grad_flow,
                                  void* workspace, const int64_t* sizes, const int64_t* strides, int dtype,
                                  int flow_dtype, int nearest, int border, int channels_last) {
  return {grad,
          x,
          flow,
          grad_x,
          grad_flow,
          workspace,
          sizes[0],
          sizes[1],
          sizes[2],
          sizes[3],
          strides_at(strides, 0),
          strides_at(strides, 1),
          strides_at(strides, 2),
          static_cast<DType>(dtype),
          static_cast<DType>(flow_dtype),
          nearest != 0,
          border != 0,
          channels_last != 0};
}

}  // namespace

extern "C" int flow_warp_backward(const void* grad, const void* x, const void* flow, void* grad_x, void* grad_flow,
                                  void* workspace, const int64_t* sizes, const int64_t* strides, int dtype,
                                  int flow_dtype, int nearest, int border, int channels_last, int deterministic) {
  return cuda::launch_flow_warp_backward(backward_problem(grad, x, flow, grad_x, grad_flow, workspace, sizes, strides,
                                                          dtype, flow_dtype, nearest, border, channels_last),
                                         deterministic != 0, nullptr);
}

extern "C" int64_t flow_warp_workspace(void* grad_x, const int64_t* sizes, int dtype, int deterministic) {
  FlowWarpBackward p{};
  p.grad_x = grad_x, p.n = sizes[0], p.c = sizes[1], p.h = sizes[2], p.w = sizes[3];
  p.dtype = static_cast<DType>(dtype);
  return flow_warp_workspace_bytes(p, deterministic != 0);
}

// Lanes per pixel. Strides of grad, x.
extern "C" int flow_warp_backward_plan(const void* grad, const void* x, void* grad_x, const int64_t* sizes,
                                       const int64_t* strides, int dtype, int channels_last) {
  int64_t all[12] = {};
  for (int i = 0; i < 8; ++i) all[i] = strides[i];
  return plan_flow_warp_backward(
      backward_problem(grad, x, nullptr, grad_x, nullptr, nullptr, sizes, all, dtype, dtype, 0, 0, channels_last));
}
