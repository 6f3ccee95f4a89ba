#include "core/flow_warp.h"
#include "cpu/kernels.h"
#include "torch/tensors.h"

namespace vsr::op {
namespace {

struct Mode {
  bool nearest, border;
};

Mode mode_of(const char* op, const std::string& interpolation, const std::string& padding) {
  STD_TORCH_CHECK(interpolation == "bilinear" || interpolation == "nearest", op,
                  ": interpolation: expected bilinear or nearest, got ", interpolation);
  STD_TORCH_CHECK(padding == "zeros" || padding == "border", op, ": padding: expected zeros or border, got ", padding);
  return {interpolation == "nearest", padding == "border"};
}

DType check_flow(const char* op, const Tensor& x, const Tensor& flow) {
  check_image(op, "x", x);
  check_shape(op, "flow", flow, {x.size(0), 2, x.size(2), x.size(3)});
  STD_TORCH_CHECK(flow.device() == x.device(), op, ": flow: expected the device of x, got another");
  STD_TORCH_CHECK(flow.scalar_type() == ScalarType::Float || flow.scalar_type() == x.scalar_type(), op,
                  ": flow: expected float32 or the dtype of x, got another");
  return dtype_of(op, flow);
}

Tensor flow_warp(const Tensor& x, const Tensor& flow, const std::string& interpolation, const std::string& padding) {
  const char* op = "flow_warp";
  const DType flow_dtype = check_flow(op, x, flow);
  const Mode mode = mode_of(op, interpolation, padding);
  const Tensor out = make(x, {x.size(0), x.size(1), x.size(2), x.size(3)}, prefers_channels_last(x));
  if (x.numel() == 0) return out;
  const FlowWarp p{.x = data(x),
                   .flow = data(flow),
                   .out = mutable_data(out),
                   .n = x.size(0),
                   .c = x.size(1),
                   .h = x.size(2),
                   .w = x.size(3),
                   .xs = strides_of(x),
                   .fs = strides_of(flow),
                   .os = strides_of(out),
                   .dtype = dtype_of(op, x),
                   .flow_dtype = flow_dtype,
                   .nearest = mode.nearest,
                   .border = mode.border};
  torch::stable::parallel_for(0, p.n * p.h, 1,
                              [&](int64_t begin, int64_t end) { cpu::kernels().flow_warp(p, begin, end); });
  return out;
}

std::tuple<Tensor, Tensor> flow_warp_backward(const Tensor& grad, const Tensor& x, const Tensor& flow,
                                              const std::string& interpolation, const std::string& padding, bool need_x,
                                              bool need_flow) {
  const char* op = "flow_warp_backward";
  const DType flow_dtype = check_flow(op, x, flow);
  const Mode mode = mode_of(op, interpolation, padding);
  check_shape(op, "grad", grad, {x.size(0), x.size(1), x.size(2), x.size(3)});
  check_like(op, "grad", grad, x);
  const Shape shape{x.size(0), x.size(1), x.size(2), x.size(3)};
  const Tensor dense_grad = dense(grad, true), dense_x = dense(x, true);
  // The scatter adds up in float32 whatever the dtype of x.
  const Tensor sums = need_x ? torch::stable::empty({shape.data(), shape.size()}, ScalarType::Float, std::nullopt,
                                                    x.device(), std::nullopt, MemoryFormat::ChannelsLast)
                             : make_empty(x);
  const Tensor grad_flow = need_flow ? make(flow, {shape[0], 2, shape[2], shape[3]}, false) : make_empty(flow);
  if (need_x) std::memset(mutable_data(sums), 0, sums.numel() * sizeof(float));
  if (need_flow && x.numel() == 0)
    std::memset(mutable_data(grad_flow), 0, grad_flow.numel() * grad_flow.element_size());
  if (x.numel() > 0) {
    const FlowWarpBackward p{.grad = data(dense_grad),
                             .x = data(dense_x),
                             .flow = data(flow),
                             .grad_x = need_x ? static_cast<float*>(mutable_data(sums)) : nullptr,
                             .grad_flow = need_flow ? mutable_data(grad_flow) : nullptr,
                             .n = shape[0],
                             .c = shape[1],
                             .h = shape[2],
                             .w = shape[3],
                             .fs = strides_of(flow),
                             .dtype = dtype_of(op, x),
                             .flow_dtype = flow_dtype,
                             .nearest = mode.nearest,
                             .border = mode.border};
    const cpu::Kernels& kernels = cpu::kernels();
    if (need_x)
      torch::stable::parallel_for(0, p.n * cpu::grad_x_blocks(p.c), 1,
                                  [&](int64_t begin, int64_t end) { kernels.flow_warp_grad_x(p, begin, end); });
    if (need_flow)
      torch::stable::parallel_for(0, p.n * p.h, 1,
                                  [&](int64_t begin, int64_t end) { kernels.flow_warp_grad_flow(p, begin, end); });
  }
  if (!need_x) return {sums, grad_flow};
  const Tensor grad_x = torch::stable::to(sums, x.scalar_type());
  return {canonical(grad_x, prefers_channels_last(x)), grad_flow};
}

}  // namespace
}  // namespace vsr::op

STABLE_TORCH_LIBRARY_IMPL(vsr_kernels, CPU, m) {
  m.impl("flow_warp", TORCH_BOX(&vsr::op::flow_warp));
  m.impl("flow_warp_backward", TORCH_BOX(&vsr::op::flow_warp_backward));
}
