#include "cuda/flow_warp.h"
#include "torch/cuda_call.h"
#include "torch/warp.h"

namespace vsr::op {
namespace {

Tensor flow_warp(const Tensor& x, const Tensor& flow, const std::string& interpolation, const std::string& padding) {
  const WarpCall call = prepare_warp(x, flow, interpolation, padding);
  if (x.numel() > 0)
    on_stream_of("flow_warp", x, [&](cudaStream_t stream) { return cuda::launch_flow_warp(call.problem, stream); });
  return call.out;
}

Tensor flow_warp_concat(const Tensor& x, const Tensor& flow, const Tensor& y, bool warp_first,
                        const std::string& interpolation, const std::string& padding) {
  const WarpConcatCall call = prepare_warp_concat(x, flow, y, warp_first, interpolation, padding);
  if (call.out.numel() > 0)
    on_stream_of("flow_warp_concat", x,
                 [&](cudaStream_t stream) { return cuda::launch_flow_warp_concat(call.problem, stream); });
  return call.out;
}

std::tuple<Tensor, Tensor> flow_warp_backward(const Tensor& grad, const Tensor& x, const Tensor& flow,
                                              const std::string& interpolation, const std::string& padding, bool need_x,
                                              bool need_flow, bool deterministic) {
  const char* op = "flow_warp_backward";
  FlowWarpBackward p = describe_warp_backward(grad, x, flow, interpolation, padding);
  const Tensor grad_x = need_x ? make(x, {p.n, p.c, p.h, p.w}, p.channels_last) : make_empty(x);
  Tensor grad_flow = need_flow ? make(flow, {p.n, 2, p.h, p.w}, false) : make_empty(flow);
  if (x.numel() == 0) return {grad_x, need_flow ? torch::stable::zero_(grad_flow) : grad_flow};
  p.grad_x = need_x ? mutable_data(grad_x) : nullptr;
  p.grad_flow = need_flow ? mutable_data(grad_flow) : nullptr;
  const std::array<int64_t, 1> bytes{flow_warp_workspace_bytes(p, deterministic)};
  const Tensor workspace =
      torch::stable::empty({bytes.data(), bytes.size()}, ScalarType::Byte, std::nullopt, x.device());
  p.workspace = mutable_data(workspace);
  on_stream_of(op, x, [&](cudaStream_t stream) { return cuda::launch_flow_warp_backward(p, deterministic, stream); });
  return {grad_x, grad_flow};
}

}  // namespace
}  // namespace vsr::op

STABLE_TORCH_LIBRARY_IMPL(vsr_kernels, CUDA, m) {
  m.impl("flow_warp", TORCH_BOX(&vsr::op::flow_warp));
  m.impl("flow_warp_concat", TORCH_BOX(&vsr::op::flow_warp_concat));
  m.impl("flow_warp_backward", TORCH_BOX(&vsr::op::flow_warp_backward));
}
