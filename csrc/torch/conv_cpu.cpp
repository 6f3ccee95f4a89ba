// Convolutions on the CPU: the sums by PyTorch's own channels_last convolution, everything behind them in one pass.

#include <algorithm>
#include <cstring>
#include <tuple>

#include "core/epilogue.h"
#include "cpu/kernels.h"
#include "torch/tensors.h"

namespace vsr::op {
namespace {

// What happens to the sums, as the schemas pass it.
struct Tail {
  Activation activation = Activation::none;
  double number = 0.0;
  OptionalTensor slope;
  double scale = 1.0;
  int64_t r = 1;
  OptionalTensor residual;
  OptionalTensor scatter;
};

// Rows per task so that a task is worth a thread.
int64_t row_grain(int64_t elements_per_row) {
  return std::max<int64_t>(1, 32768 / std::max<int64_t>(1, elements_per_row));
}

// Sums of a 3x3 convolution with padding 1, plus bias: (N, C_out, H, W), dense channels_last, fresh memory.
Tensor convolve(const char* op, const Tensor& x, const Tensor& weight, const OptionalTensor& bias) {
  check_image(op, "x", x);
  dtype_of(op, x);
  check_image(op, "weight", weight);
  check_like(op, "weight", weight, x);
  check_shape(op, "weight", weight, {weight.size(0), x.size(1), 3, 3});
  if (bias) {
    check_like(op, "bias", *bias, x);
    check_shape(op, "bias", *bias, {weight.size(0)});
  }
  const Shape shape{x.size(0), weight.size(0), x.size(2), x.size(3)};
  if (shape[0] * shape[1] * shape[2] * shape[3] == 0) return make(x, shape, true);
  if (x.size(1) == 0) {  // a sum of nothing, which PyTorch's convolution refuses
    Tensor sums = make(x, shape, true);
    if (!bias) return torch::stable::zero_(sums);
    return torch::stable::copy_(sums, torch::stable::view(*bias, {1, shape[1], 1, 1}));
  }
  const std::vector<int64_t> one{1, 1}, zero{0, 0};
  std::array<StableIValue, 9> stack{torch::stable::detail::from(dense(x, true)),
                                    torch::stable::detail::from(dense(weight, true)),
                                    torch::stable::detail::from(bias),
                                    torch::stable::detail::from(one),
                                    torch::stable::detail::from(one),
                                    torch::stable::detail::from(one),
                                    torch::stable::detail::from(false),
                                    torch::stable::detail::from(zero),
                                    torch::stable::detail::from(int64_t{1})};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::convolution", "", stack.data(), TORCH_ABI_VERSION));
  return canonical(torch::stable::detail::to<Tensor>(stack[0]), true);
}

void check_slope(const char* op, const Tail& tail, const Tensor& z) {
  if (tail.activation != Activation::prelu) return;
  STD_TORCH_CHECK(tail.slope, op, ": slope: expected a tensor for prelu, got none");
  check_like(op, "slope", *tail.slope, z);
  const int64_t count = tail.slope->numel();
  STD_TORCH_CHECK(tail.slope->dim() == 1 && (count == 1 || count == z.size(1)), op, ": slope: expected shape (1,) or (",
                  z.size(1), ",), got ", to_string(*tail.slope));
}

void check_channels(const char* op, const char* name, const Tensor& channels, int64_t limit) {
  STD_TORCH_CHECK(channels.is_cpu() && channels.scalar_type() == ScalarType::Long && channels.dim() == 1, op, ": ",
                  name, ": expected a 1-d int64 tensor on the CPU, got shape ", to_string(channels));
  const Tensor list = torch::stable::contiguous(channels);
  const int64_t* at = static_cast<const int64_t*>(data(list));
  for (int64_t i = 0; i < list.numel(); ++i)
    STD_TORCH_CHECK(at[i] >= 0 && at[i] < limit, op, ": ", name, ": expected channel numbers in [0, ", limit, "), got ",
                    at[i]);
}

// residual + scale * pixel_shuffle(act(z)). z may be overwritten unless it is kept.
Tensor finish(const char* op, const Tensor& z, const Tail& tail, bool keep) {
  const int64_t n = z.size(0), c = z.size(1), h = z.size(2), w = z.size(3), r = tail.r;
  STD_TORCH_CHECK(r >= 1 && c % (r * r) == 0, op, ": weight: expected C_out divisible by r^2, got C_out = ", c,
                  " and r = ", r);
  check_slope(op, tail, z);
  Shape shape{n, c / (r * r), h * r, w * r};
  if (tail.scatter) {
    STD_TORCH_CHECK(tail.residual, op, ": residual: expected a tensor where out_channels is given, got none");
    check_image(op, "residual", *tail.residual);
    shape[1] = tail.residual->size(1);
    check_channels(op, "out_channels", *tail.scatter, shape[1]);
    check_shape(op, "out_channels", *tail.scatter, {c});
  }
  if (tail.residual) {
    check_like(op, "residual", *tail.residual, z);
    check_shape(op, "residual", *tail.residual, {shape[0], shape[1], shape[2], shape[3]});
  }
  const bool nothing =
      tail.activation == Activation::none && tail.scale == 1.0 && r == 1 && !tail.residual && !tail.scatter;
  if (nothing && !keep) return z;
  const bool in_place = r == 1 && !tail.scatter && !keep;
  Tensor out = in_place ? z : make(z, shape, true);
  if (out.numel() == 0) return out;
  if (c == 0) return torch::stable::copy_(out, *tail.residual);  // nothing is added to it
  const OptionalTensor residual = dense(tail.residual, true);
  const OptionalTensor slope = contiguous(tail.slope);
  const OptionalTensor scatter = contiguous(tail.scatter);
  const Epilogue p{.z = data(z),
                   .out = mutable_data(out),
                   .residual = data(residual),
                   .slope = data(slope),
                   .scatter = static_cast<const int64_t*>(data(scatter)),
                   .n = n,
                   .h = h,
                   .w = w,
                   .c = c,
                   .c_out = shape[1],
                   .r = r,
                   .slope_count = slope ? slope->numel() : 0,
                   .number = static_cast<float>(tail.number),
                   .scale = static_cast<float>(tail.scale),
                   .activation = tail.activation,
                   .dtype = dtype_of(op, z)};
  torch::stable::parallel_for(0, n * h, row_grain(w * std::max(c, shape[1])),
                              [&](int64_t begin, int64_t end) { cpu::kernels().epilogue(p, begin, end); });
  return out;
}

Tensor gather(const char* op, const Tensor& x, const OptionalTensor& channels) {
  if (!channels) return x;
  check_image(op, "x", x);
  dtype_of(op, x);
  check_channels(op, "in_channels", *channels, x.size(1));
  const Tensor source = dense(x, true), list = torch::stable::contiguous(*channels);
  const Tensor out = make(x, {x.size(0), list.numel(), x.size(2), x.size(3)}, true);
  const ChannelGather p{.x = data(source),
                        .out = mutable_data(out),
                        .channels = static_cast<const int64_t*>(data(list)),
                        .c = x.size(1),
                        .kept = list.numel(),
                        .element_size = static_cast<int64_t>(x.element_size())};
  if (out.numel() > 0)
    torch::stable::parallel_for(0, x.size(0) * x.size(2) * x.size(3), row_grain(p.kept),
                                [&](int64_t begin, int64_t end) { cpu::gather_channels(p, begin, end); });
  return out;
}

using Pair = std::tuple<Tensor, Tensor>;

Pair run_conv(const char* op, const Tensor& x, const Tensor& weight, const OptionalTensor& bias, const Tail& tail,
              bool keep) {
  const Tensor z = convolve(op, x, weight, bias);
  const Tensor out = finish(op, z, tail, keep);
  return {out, keep ? z : make_empty(x)};
}

// The hidden layer of a block, and what its backward needs of it: the output where its sign tells the derivative.
Pair run_hidden(const char* op, const Tensor& x, const Tensor& weight, const OptionalTensor& bias, const Tail& tail,
                bool keep) {
  const bool by_sign = tail.activation != Activation::prelu && tail.number >= 0.0;
  auto [hidden, z] = run_conv(op, x, weight, bias, tail, keep && !by_sign);
  return {hidden, keep && by_sign ? hidden : z};
}

Pair conv3x3(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& slope,
             double negative_slope, const OptionalTensor& residual, const std::string& activation, double scale,
             int64_t r, bool keep) {
  const Tail tail{.activation = activation_of("conv3x3", activation),
                  .number = negative_slope,
                  .slope = slope,
                  .scale = scale,
                  .r = r,
                  .residual = residual,
                  .scatter = std::nullopt};
  return run_conv("conv3x3", x, weight, bias, tail, keep);
}

Pair residual_block(const Tensor& x, const Tensor& weight1, const OptionalTensor& bias1, const Tensor& weight2,
                    const OptionalTensor& bias2, const OptionalTensor& slope, double negative_slope,
                    const std::string& activation, double scale, bool keep) {
  const char* op = "residual_block";
  const Tail first{.activation = activation_of(op, activation), .number = negative_slope, .slope = slope};
  const Tail second{.scale = scale, .residual = x};
  const auto [hidden, saved] = run_hidden(op, x, weight1, bias1, first, keep);
  return {std::get<0>(run_conv(op, hidden, weight2, bias2, second, false)), saved};
}

Pair sparse_conv3x3(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& slope,
                    double negative_slope, const OptionalTensor& in_channels, const OptionalTensor& out_channels,
                    const OptionalTensor& residual, const std::string& activation, bool keep) {
  const char* op = "sparse_conv3x3";
  const Tail tail{.activation = activation_of(op, activation),
                  .number = negative_slope,
                  .slope = slope,
                  .residual = residual,
                  .scatter = out_channels};
  return run_conv(op, gather(op, x, in_channels), weight, bias, tail, keep);
}

Pair sparse_residual_block(const Tensor& x, const Tensor& weight1, const OptionalTensor& bias1, const Tensor& weight2,
                           const OptionalTensor& bias2, const OptionalTensor& slope, double negative_slope,
                           const Tensor& in_channels, const Tensor& out_channels, const std::string& activation,
                           bool keep) {
  const char* op = "sparse_residual_block";
  const Tail first{.activation = activation_of(op, activation), .number = negative_slope, .slope = slope};
  const Tail second{.residual = x, .scatter = out_channels};
  const auto [hidden, saved] = run_hidden(op, gather(op, x, in_channels), weight1, bias1, first, keep);
  return {std::get<0>(run_conv(op, hidden, weight2, bias2, second, false)), saved};
}

// Gradient of the prelu slope from the parts that the rows contributed, in float64 and in the order of the rows.
Tensor sum_slope(const Tensor& slope, const std::vector<float>& rows, int64_t channels) {
  std::vector<double> sums(slope.numel(), 0.0);
  for (size_t i = 0; i < rows.size(); ++i) sums[sums.size() == 1 ? 0 : i % channels] += rows[i];
  const std::array<int64_t, 1> shape{slope.numel()};
  const Tensor wide =
      torch::stable::empty({shape.data(), shape.size()}, ScalarType::Double, std::nullopt, slope.device());
  std::memcpy(mutable_data(wide), sums.data(), sums.size() * sizeof(double));
  return torch::stable::to(wide, slope.scalar_type());
}

Pair conv3x3_epilogue_backward(const Tensor& grad, const Tensor& saved, const OptionalTensor& slope,
                               const std::string& activation, double negative_slope, double scale, int64_t r,
                               bool of_output) {
  const char* op = "conv3x3_epilogue_backward";
  check_image(op, "grad", grad);
  STD_TORCH_CHECK(r >= 1 && grad.size(2) % r == 0 && grad.size(3) % r == 0, op,
                  ": grad: expected height and width divisible by r = ", r, ", got shape ", to_string(grad));
  const Shape shape{grad.size(0), grad.size(1) * r * r, grad.size(2) / r, grad.size(3) / r};
  const Tensor before = make(grad, shape, true);
  const Tail tail{.activation = activation_of(op, activation), .slope = slope};
  check_slope(op, tail, before);
  if (tail.activation != Activation::none) {
    check_like(op, "saved", saved, grad);
    check_shape(op, "saved", saved,
                of_output ? std::vector<int64_t>{grad.size(0), grad.size(1), grad.size(2), grad.size(3)}
                          : std::vector<int64_t>(shape.begin(), shape.end()));
  }
  const Tensor dense_grad = dense(grad, true), dense_saved = dense(saved, true);
  const OptionalTensor dense_slope = contiguous(slope);
  std::vector<float> rows(slope && before.numel() > 0 ? shape[0] * shape[2] * shape[1] : 0);
  const EpilogueBackward p{.grad = data(dense_grad),
                           .saved = data(dense_saved),
                           .slope = data(dense_slope),
                           .before = mutable_data(before),
                           .slope_rows = rows.empty() ? nullptr : rows.data(),
                           .n = shape[0],
                           .h = shape[2],
                           .w = shape[3],
                           .c = shape[1],
                           .r = r,
                           .slope_count = slope ? slope->numel() : 0,
                           .number = static_cast<float>(negative_slope),
                           .scale = static_cast<float>(scale),
                           .activation = tail.activation,
                           .of_output = of_output,
                           .dtype = dtype_of(op, grad)};
  if (before.numel() > 0)
    torch::stable::parallel_for(0, p.n * p.h, row_grain(p.w * p.c),
                                [&](int64_t begin, int64_t end) { cpu::kernels().epilogue_backward(p, begin, end); });
  return {before, slope ? sum_slope(*slope, rows, p.c) : make_empty(grad)};
}

}  // namespace
}  // namespace vsr::op

STABLE_TORCH_LIBRARY_IMPL(vsr_kernels, CPU, m) {
  m.impl("conv3x3", TORCH_BOX(&vsr::op::conv3x3));
  m.impl("conv3x3_epilogue_backward", TORCH_BOX(&vsr::op::conv3x3_epilogue_backward));
  m.impl("residual_block", TORCH_BOX(&vsr::op::residual_block));
  m.impl("sparse_conv3x3", TORCH_BOX(&vsr::op::sparse_conv3x3));
  m.impl("sparse_residual_block", TORCH_BOX(&vsr::op::sparse_residual_block));
}
