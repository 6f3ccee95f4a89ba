#include <cstring>

#include "cpu/kernels.h"
#include "torch/warp.h"

namespace vsr::op {
namespace {

void warp_rows(const FlowWarp& p) {
  torch::stable::parallel_for(0, p.n * p.h, 1,
                              [&](int64_t begin, int64_t end) { cpu::kernels().flow_warp(p, begin, end); });
}

Tensor flow_warp(const Tensor& x, const Tensor& flow, const std::string& interpolation, const std::string& padding) {
  const WarpCall call = prepare_warp(x, flow, interpolation, padding);
  if (x.numel() > 0) warp_rows(call.problem);
  return call.out;
}

void flow_warp_into(Tensor out, const Tensor& x, const Tensor& flow, const std::string& interpolation,
                    const std::string& padding) {
  const FlowWarp p = describe_warp_into(out, x, flow, interpolation, padding);
  if (x.numel() > 0) warp_rows(p);
}

Tensor flow_warp_concat(const Tensor& x, const Tensor& flow, const Tensor& y, bool warp_first,
                        const std::string& interpolation, const std::string& padding) {
  const WarpConcatCall call = prepare_warp_concat(x, flow, y, warp_first, interpolation, padding);
  if (x.numel() > 0) warp_rows(call.problem.warp);
  if (y.numel() > 0) {
    Tensor out = call.out;
    Tensor beside = torch::stable::narrow(out, 1, warp_first ? x.size(1) : 0, y.size(1));
    torch::stable::copy_(beside, y);
  }
  return call.out;
}

// The kernels read the channels of a pixel as neighbours; pixels may lie anywhere, as in a slice of channels.
Tensor with_neighbouring_channels(const Tensor& t) { return t.stride(1) == 1 ? t : dense(t, true); }

std::tuple<Tensor, Tensor> flow_warp_backward(const Tensor& grad, const Tensor& x, const Tensor& flow,
                                              const std::string& interpolation, const std::string& padding, bool need_x,
                                              bool need_flow, bool deterministic) {
  FlowWarpBackward p = describe_warp_backward(grad, x, flow, interpolation, padding);
  const Tensor near_grad = with_neighbouring_channels(grad), near_x = with_neighbouring_channels(x);
  p.grad = data(near_grad), p.gs = strides_of(near_grad);
  p.x = data(near_x), p.xs = strides_of(near_x);
  // The scatter adds up in float32 whatever the dtype of x.
  const Shape shape{p.n, p.c, p.h, p.w};
  const Tensor sums = need_x ? torch::stable::empty({shape.data(), shape.size()}, ScalarType::Float, std::nullopt,
                                                    x.device(), std::nullopt, MemoryFormat::ChannelsLast)
                             : make_empty(x);
  const Tensor grad_flow = need_flow ? make(flow, {p.n, 2, p.h, p.w}, false) : make_empty(flow);
  if (need_x) std::memset(mutable_data(sums), 0, sums.numel() * sizeof(float));
  if (need_flow && x.numel() == 0)
    std::memset(mutable_data(grad_flow), 0, grad_flow.numel() * grad_flow.element_size());
  if (x.numel() > 0) {
    p.grad_x = need_x ? mutable_data(sums) : nullptr;
    p.grad_flow = need_flow ? mutable_data(grad_flow) : nullptr;
    const cpu::Kernels& kernels = cpu::kernels();
    if (need_x)
      torch::stable::parallel_for(0, p.n * cpu::grad_x_bands(p.h), 1,
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
  m.impl("flow_warp_into", TORCH_BOX(&vsr::op::flow_warp_into));
  m.impl("flow_warp_concat", TORCH_BOX(&vsr::op::flow_warp_concat));
  m.impl("flow_warp_backward", TORCH_BOX(&vsr::op::flow_warp_backward));
}
