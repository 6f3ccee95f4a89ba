// Convolutions on CUDA: every call becomes problems of core/ and launches of cuda/.
//
// Results are dense channels_last, x is read with the strides it has, a residual or incoming gradient that is not dense
// channels_last is copied first. Weights that come without a packing are packed by a launch of their own.

#include "core/conv3x3_wgrad.h"
#include "core/residual_block.h"
#include "cuda/conv3x3_epilogue.h"
#include "cuda/conv3x3_wgrad.h"
#include "cuda/device.h"
#include "cuda/residual_block.h"
#include "torch/conv_on_cuda.h"
#include "torch/conv_operators.h"

namespace vsr::op {
namespace {

// One launch or two, as the model of costs has it. The packings of both plans are the same where both channel counts
// are padded to the same number; where they are not, a packing for single convolutions is of no use to one launch.
void block_into(const BlockCall& call, const Tensor& out, const OptionalTensor& kept, cudaStream_t stream) {
  const ConvCall &first = call.first, &second = call.second;
  const Tensor x = dense_on_vectors(first.x);
  ResidualBlock p{.x = data(x),
                  .out = mutable_data(out),
                  .hidden = kept ? mutable_data(*kept) : nullptr,
                  .n = x.size(0),
                  .h = x.size(2),
                  .w = x.size(3),
                  .c = x.size(1),
                  .c_mid = first.c_out(),
                  .scale = static_cast<float>(second.scale),
                  .activation = first.activation,
                  .dtype = dtype_of(first.op, x),
                  .exact = first.exact,
                  .hidden_before_activation = kept && !sign_survives(first)};
  Gpu gpu{};
  raise(first.op, cuda::current_gpu(gpu));
  p.plan = choose_block_plan(p.c, p.c_mid, p.n, p.h, p.w, p.dtype, p.exact, gpu);
  const BlockLayouts layouts = block_layouts(p.c, p.c_mid, p.dtype, p.exact, p.plan);
  const Tensor packed1 = packed_for(first, layouts.first, stream);
  const Tensor packed2 = packed_for(second, layouts.second, stream);
  p.packed1 = data(packed1), p.packed2 = data(packed2);
  const Tensor scratch = block_needs_scratch(p) ? make(x, {p.n, p.c_mid, p.h, p.w}, true) : make_empty(x);
  p.scratch = mutable_data(scratch);
  raise(first.op, cuda::launch_residual_block(p, stream));
}

// grad_x is a convolution of grad, with the weight seen from its other side.
void grad_x_into(const ConvGradients& call, const Tensor& grad_x, cudaStream_t stream) {
  if (grad_x.numel() == 0) return;
  const DType dtype = dtype_of(call.op, call.x);
  const int64_t c_in = call.weight.size(1), c_out = call.weight.size(0);
  const Conv3x3Layout layout = conv3x3_layout(c_out, c_in, 1, dtype, call.exact);
  const Tensor packed = bytes_on(call.x, packed_bytes(layout));
  pack_into(mutable_data(packed), call.op, call.weight, std::nullopt, std::nullopt, 0.0, Activation::none, true, layout,
            stream);
  const Conv3x3 p{.x = data(call.grad),
                  .packed = data(packed),
                  .out = mutable_data(grad_x),
                  .xs = strides_of(call.grad),
                  .n = call.x.size(0),
                  .h = call.x.size(2),
                  .w = call.x.size(3),
                  .c_in = c_out,
                  .c_out = c_in,
                  .r = 1,
                  .scale = 1.0f,
                  .dtype = dtype,
                  .exact = call.exact};
  raise(call.op, cuda::launch_conv3x3(p, stream));
}

void grad_weight_into(const ConvGradients& call, const Tensor& grad_weight, const OptionalTensor& grad_bias,
                      cudaStream_t stream) {
  const Tensor x = dense(call.x, true), grad = dense(call.grad, true);
  const OptionalTensor gather = contiguous(call.in_channels);
  Conv3x3WeightGradient p{.x = data(x),
                          .grad = data(grad),
                          .in_channels = numbers(gather),
                          .grad_weight = mutable_data(grad_weight),
                          .grad_bias = grad_bias ? mutable_data(*grad_bias) : nullptr,
                          .n = x.size(0),
                          .h = x.size(2),
                          .w = x.size(3),
                          .c_x = x.size(1),
                          .c_in = call.weight.size(1),
                          .c_out = call.weight.size(0),
                          .dtype = dtype_of(call.op, x),
                          .exact = call.exact};
  raise(call.op, cuda::conv3x3_weight_gradient_workspace(p, p.workspace_bytes));
  const Tensor workspace = bytes_on(x, p.workspace_bytes);
  p.workspace = mutable_data(workspace);
  raise(call.op, cuda::launch_conv3x3_weight_gradient(p, stream));
}

struct Cuda {
  static Pair convolve(const ConvCall& call, bool keep) {
    const Tensor out = make(call.x, call.output(), true);
    const Tensor kept = keep ? make(call.x, call.shuffled(), true) : make_empty(call.x);
    convolve_into(call, out, keep ? OptionalTensor(kept) : std::nullopt, StreamOf(call.x));
    return {out, kept};
  }

  static Pair block(BlockCall& call, bool keep) {
    const ConvCall& first = call.first;
    const Tensor out = make(first.x, call.second.output(), true);
    const Tensor kept = keep ? make(first.x, first.output(), true) : make_empty(first.x);
    if (out.numel() == 0 && kept.numel() == 0) return {out, kept};
    const StreamOf stream(first.x);
    const OptionalTensor wanted = keep ? OptionalTensor(kept) : std::nullopt;
    if (!first.in_channels && !call.second.out_channels) {
      block_into(call, out, wanted, stream);
      return {out, kept};
    }
    const bool by_sign = keep && sign_survives(first);
    call.second.x = by_sign ? kept : make(first.x, first.output(), true);
    convolve_into(first, call.second.x, by_sign ? std::nullopt : wanted, stream);
    convolve_into(call.second, out, std::nullopt, stream);
    return {out, kept};
  }

  static Triple gradients(const ConvGradients& call) {
    const Tensor& weight = call.weight;
    const bool nothing = call.grad.numel() == 0;  // to sum up
    const Shape input = call.input();
    const Tensor grad_x = !call.need_x ? make_empty(call.x)
                          : nothing    ? zeros(call.x, input, true)
                                       : make(call.x, input, true);
    if (nothing || !call.need_weight) {
      const Tensor grad_weight = call.need_weight ? zeros(weight, shape_of(weight), false) : make_empty(call.x);
      const Tensor grad_bias = call.need_bias ? sum_of_pixels(call.grad) : make_empty(call.x);
      if (call.need_x && !nothing) grad_x_into(call, grad_x, StreamOf(call.x));
      return {grad_x, grad_weight, grad_bias};
    }
    const std::array<int64_t, 1> biases{weight.size(0)};
    const Tensor grad_weight = make(weight, shape_of(weight), false);
    const Tensor grad_bias = call.need_bias ? torch::stable::empty({biases.data(), biases.size()}, weight.scalar_type(),
                                                                   std::nullopt, weight.device())
                                            : make_empty(call.x);
    const StreamOf stream(call.x);
    if (call.need_x) grad_x_into(call, grad_x, stream);
    grad_weight_into(call, grad_weight, call.need_bias ? OptionalTensor(grad_bias) : std::nullopt, stream);
    return {grad_x, grad_weight, grad_bias};
  }

  static Pair epilogue_gradients(const EpilogueGradients& call) {
    const Shape shape = call.before();
    const Tensor before = make(call.grad, shape, true);
    const OptionalTensor slope = contiguous(call.slope);
    if (before.numel() == 0) {
      Tensor grad_slope = slope ? torch::stable::clone(*slope) : make_empty(call.grad);
      return {before, slope ? torch::stable::zero_(grad_slope) : grad_slope};
    }
    const Tensor grad = dense(call.grad, true), saved = dense(call.saved, true);
    const int64_t slices = epilogue_slices(shape[0] * shape[2] * shape[3]);
    const Tensor parts = bytes_on(grad, slope ? slices * shape[1] * static_cast<int64_t>(sizeof(float)) : 0);
    float* slope_parts = slope ? static_cast<float*>(mutable_data(parts)) : nullptr;
    const EpilogueBackward p{.grad = data(grad),
                             .saved = data(saved),
                             .slope = data(slope),
                             .before = mutable_data(before),
                             .slope_parts = slope_parts,
                             .n = shape[0],
                             .h = shape[2],
                             .w = shape[3],
                             .c = shape[1],
                             .r = call.r,
                             .slope_count = slope ? slope->numel() : 0,
                             .number = static_cast<float>(call.number),
                             .scale = static_cast<float>(call.scale),
                             .activation = call.activation,
                             .dtype = dtype_of(call.op, grad)};
    const StreamOf stream(grad);
    raise(call.op, cuda::launch_conv3x3_epilogue_backward(p, stream));
    if (!slope) return {before, make_empty(call.grad)};
    const std::array<int64_t, 1> count{slope->numel()};
    const Tensor grad_slope =
        torch::stable::empty({count.data(), count.size()}, slope->scalar_type(), std::nullopt, slope->device());
    const SlopeSum sum{slope_parts, mutable_data(grad_slope), slices, p.c, p.slope_count, p.dtype};
    raise(call.op, cuda::launch_slope_sum(sum, stream));
    return {before, grad_slope};
  }
};

Tensor conv3x3_pack(const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& slope,
                    double negative_slope, const std::string& activation, int64_t r, bool exact, bool transposed) {
  const char* op = "conv3x3_pack";
  const Activation kind = activation_of(op, activation);
  const DType dtype = dtype_of(op, weight);
  check_image(op, "weight", weight);
  const int64_t c_out = weight.size(0), c_in = weight.size(1);
  check_shape(op, "weight", weight, {c_out, c_in, 3, 3});
  check_weights(op, weight, bias, kind, slope, r);
  STD_TORCH_CHECK(!transposed || (!bias && kind == Activation::none && r == 1), op,
                  ": transposed: expected neither bias nor activation nor shuffle with it");
  const Conv3x3Layout layout =
      transposed ? conv3x3_layout(c_out, c_in, 1, dtype, exact) : conv3x3_layout(c_in, c_out, r, dtype, exact);
  const Tensor packed = bytes_on(weight, packed_bytes(layout));
  pack_into(mutable_data(packed), op, weight, bias, slope, negative_slope, kind, transposed, layout, StreamOf(weight));
  return packed;
}

}  // namespace
}  // namespace vsr::op

STABLE_TORCH_LIBRARY_IMPL(vsr_kernels, CUDA, m) {
  vsr::op::ConvOperators<vsr::op::Cuda>::add_to(m);
  m.impl("conv3x3_pack", TORCH_BOX(&vsr::op::conv3x3_pack));
}
