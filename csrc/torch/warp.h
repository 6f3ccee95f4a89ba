// What the CPU and CUDA implementations of the flow warp share: checks and problem descriptions.
#pragma once

#include "core/flow_warp.h"
#include "torch/tensors.h"

namespace vsr::op {

struct WarpMode {
  bool nearest, border;
};

inline WarpMode warp_mode(const char* op, const std::string& interpolation, const std::string& padding) {
  STD_TORCH_CHECK(interpolation == "bilinear" || interpolation == "nearest", op,
                  ": interpolation: expected bilinear or nearest, got ", interpolation);
  STD_TORCH_CHECK(padding == "zeros" || padding == "border", op, ": padding: expected zeros or border, got ", padding);
  return {interpolation == "nearest", padding == "border"};
}

inline DType check_flow(const char* op, const Tensor& x, const Tensor& flow) {
  check_image(op, "x", x);
  check_shape(op, "flow", flow, {x.size(0), 2, x.size(2), x.size(3)});
  STD_TORCH_CHECK(flow.device() == x.device(), op, ": flow: expected the device of x, got another");
  STD_TORCH_CHECK(flow.scalar_type() == ScalarType::Float || flow.scalar_type() == x.scalar_type(), op,
                  ": flow: expected float32 or the dtype of x, got another");
  return dtype_of(op, flow);
}

struct WarpCall {
  Tensor out;
  FlowWarp problem;
};

inline FlowWarp describe_warp(const char* op, const Tensor& x, const Tensor& flow, const std::string& interpolation,
                              const std::string& padding) {
  const DType flow_dtype = check_flow(op, x, flow);
  const WarpMode mode = warp_mode(op, interpolation, padding);
  return {.x = data(x),
          .flow = data(flow),
          .n = x.size(0),
          .c = x.size(1),
          .h = x.size(2),
          .w = x.size(3),
          .xs = strides_of(x),
          .fs = strides_of(flow),
          .dtype = dtype_of(op, x),
          .flow_dtype = flow_dtype,
          .nearest = mode.nearest,
          .border = mode.border};
}

// A warp into memory of any strides.
inline FlowWarp describe_warp_into(const Tensor& out, const Tensor& x, const Tensor& flow,
                                   const std::string& interpolation, const std::string& padding) {
  const char* op = "flow_warp_into";
  FlowWarp p = describe_warp(op, x, flow, interpolation, padding);
  check_shape(op, "out", out, {p.n, p.c, p.h, p.w});
  check_like(op, "out", out, x);
  p.out = mutable_data(out), p.os = strides_of(out);
  return p;
}

inline WarpCall prepare_warp(const Tensor& x, const Tensor& flow, const std::string& interpolation,
                             const std::string& padding) {
  FlowWarp p = describe_warp("flow_warp", x, flow, interpolation, padding);
  const Tensor out = make(x, {p.n, p.c, p.h, p.w}, prefers_channels_last(x));
  p.out = mutable_data(out), p.os = strides_of(out);
  return {out, p};
}

struct WarpConcatCall {
  Tensor out;
  FlowWarpConcat problem;
};

inline WarpConcatCall prepare_warp_concat(const Tensor& x, const Tensor& flow, const Tensor& y, bool warp_first,
                                          const std::string& interpolation, const std::string& padding) {
  const char* op = "flow_warp_concat";
  FlowWarp p = describe_warp(op, x, flow, interpolation, padding);
  check_image(op, "y", y);
  check_shape(op, "y", y, {p.n, y.size(1), p.h, p.w});
  check_like(op, "y", y, x);
  const int64_t y_c = y.size(1);
  const Tensor out = make(x, {p.n, p.c + y_c, p.h, p.w}, prefers_channels_last(x));
  p.os = strides_of(out);
  char* const first = static_cast<char*>(mutable_data(out));
  char* const second = first + (warp_first ? p.c : y_c) * p.os.c * element_bytes(p.dtype);
  p.out = warp_first ? first : second;
  return {out, {.warp = p, .y = data(y), .y_out = warp_first ? second : first, .y_c = y_c, .ys = strides_of(y)}};
}

// Checks and everything but the gradients' memory.
inline FlowWarpBackward describe_warp_backward(const Tensor& grad, const Tensor& x, const Tensor& flow,
                                               const std::string& interpolation, const std::string& padding) {
  const char* op = "flow_warp_backward";
  const FlowWarp p = describe_warp(op, x, flow, interpolation, padding);
  check_shape(op, "grad", grad, {p.n, p.c, p.h, p.w});
  check_like(op, "grad", grad, x);
  return {.grad = data(grad),
          .x = p.x,
          .flow = p.flow,
          .n = p.n,
          .c = p.c,
          .h = p.h,
          .w = p.w,
          .gs = strides_of(grad),
          .xs = p.xs,
          .fs = p.fs,
          .dtype = p.dtype,
          .flow_dtype = p.flow_dtype,
          .nearest = p.nearest,
          .border = p.border,
          .channels_last = prefers_channels_last(x)};
}

}  // namespace vsr::op
