// Convolutions on the CPU and their gradients. The gradient by the input is a convolution like any other, with the
// weight turned around and its channels exchanged; that by the weight has kernels of its own (cpu/conv_wgrad.inl.h).

#include <algorithm>
#include <cstring>

#include "core/epilogue.h"
#include "cpu/kernels.h"
#include "cpu/scratch.h"
#include "torch/conv_operators.h"

namespace vsr::op {
namespace {

// Rows per task so that a task is worth a thread.
int64_t row_grain(int64_t elements_per_row) {
  return std::max<int64_t>(1, 32768 / std::max<int64_t>(1, elements_per_row));
}

Tensor gather(const Tensor& x, const OptionalTensor& channels) {
  if (!channels) return x;
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

// Everything of a call but its tensors' memory.
cpu::Conv describe(const ConvCall& call, const OptionalTensor& bias, const OptionalTensor& slope) {
  return {.weight = data(call.weight),
          .bias = data(bias),
          .slope = data(slope),
          .ws = strides_of(call.weight),
          .c_x = call.x.size(1),
          .c_in = call.c_in(),
          .slope_count = slope ? slope->numel() : 0,
          .exact = call.exact,
          .size = call.weight.size(2),
          .tail = {.n = call.x.size(0),
                   .h = call.x.size(2),
                   .w = call.x.size(3),
                   .c = call.c_out(),
                   .c_out = call.output()[1],
                   .r = call.r,
                   .slope = static_cast<float>(call.number),
                   .scale = static_cast<float>(call.scale),
                   .activation = call.activation,
                   .dtype = dtype_of(call.op, call.x)}};
}

OptionalTensor slopes_of(const ConvCall& call) {
  return call.activation == Activation::prelu ? contiguous(call.slope) : std::nullopt;
}

Tensor bytes(const Tensor& like, int64_t count) {
  const std::array<int64_t, 1> shape{count};
  return torch::stable::empty({shape.data(), shape.size()}, ScalarType::Byte, std::nullopt, like.device());
}

// Weights, bias and slopes in the order of p.plan, which depends on sizes in its number of blocks only.
Tensor pack(const cpu::Conv& p, const Tensor& like) {
  const Tensor packed = bytes(like, p.plan.packed_bytes);
  torch::stable::parallel_for(0, p.plan.pack_units, 4, [&](int64_t begin, int64_t end) {
    cpu::kernels().conv_pack(p, mutable_data(packed), begin, end);
  });
  return packed;
}

Tensor packed_for(const ConvCall& call, const cpu::Conv& p) {
  if (!call.packed) return pack(p, call.x);
  const Tensor& packed = *call.packed;
  check_shape(call.op, "packed", packed, {p.plan.packed_bytes});
  STD_TORCH_CHECK(packed.scalar_type() == ScalarType::Byte && packed.is_contiguous() && packed.is_cpu() &&
                      reinterpret_cast<uintptr_t>(data(packed)) % 64 == 0,
                  call.op, ": packed: expected what the packing operator returns on the CPU");
  return packed;
}

// Runs a checked call into `out`, and pixel_shuffle(conv(x)) into `kept` unless that is empty.
void convolve_into(const ConvCall& call, const Tensor& out, const Tensor& kept) {
  if (out.numel() == 0) return;
  if (call.c_out() == 0) {  // nothing is added to it
    Tensor copy = out;
    torch::stable::copy_(copy, *call.residual);
    return;
  }
  const Tensor x = dense(call.x, true);
  const OptionalTensor in_channels = contiguous(call.in_channels);
  const OptionalTensor bias = contiguous(call.bias), slope = slopes_of(call);
  const OptionalTensor residual = dense(call.residual, true), out_channels = contiguous(call.out_channels);
  cpu::Conv p = describe(call, bias, slope);
  p.x = data(x);
  p.channels = static_cast<const int64_t*>(data(in_channels));
  p.tail.out = mutable_data(out);
  p.tail.kept = kept.numel() > 0 ? mutable_data(kept) : nullptr;
  p.tail.residual = data(residual);
  p.tail.scatter = static_cast<const int64_t*>(data(out_channels));
  const cpu::Kernels& kernels = cpu::kernels();
  p.plan = kernels.conv_plan(p);
  const Tensor packed = packed_for(call, p);
  p.packed = data(packed);
  torch::stable::parallel_for(0, p.plan.blocks, 1, [&](int64_t begin, int64_t end) { kernels.conv3x3(p, begin, end); });
}

// (C_out, C_in, 3, 3) -> (C_in, C_out, 3, 3), rows and columns in reverse: what the gradient is convolved with.
template <class T>
void turn(const Tensor& weight, const Tensor& turned) {
  const T* from = static_cast<const T*>(data(weight));
  T* to = static_cast<T*>(mutable_data(turned));
  const Strides s = strides_of(weight);
  for (int64_t ci = 0; ci < weight.size(1); ++ci)
    for (int64_t co = 0; co < weight.size(0); ++co)
      for (int64_t tap = 8; tap >= 0; --tap) *to++ = from[co * s.n + ci * s.c + tap / 3 * s.h + tap % 3 * s.w];
}

Tensor turned(const Tensor& weight) {
  const Tensor out = make(weight, {weight.size(1), weight.size(0), 3, 3}, false);
  weight.element_size() == 4 ? turn<uint32_t>(weight, out) : turn<uint16_t>(weight, out);
  return out;
}

// Gradients by weight and bias.
Pair weight_gradients(const ConvGradients& call) {
  const Tensor x = dense(gather(call.x, call.in_channels), true), grad = dense(call.grad, true);
  const Tensor by_weight = make(call.weight, shape_of(call.weight), false);
  const std::array<int64_t, 1> biases{call.weight.size(0)};
  const Tensor by_bias =
      torch::stable::empty({biases.data(), biases.size()}, x.scalar_type(), std::nullopt, x.device());
  cpu::WeightGrad p{.x = data(x),
                    .grad = data(grad),
                    .grad_weight = mutable_data(by_weight),
                    .grad_bias = mutable_data(by_bias),
                    .n = x.size(0),
                    .h = x.size(2),
                    .w = x.size(3),
                    .c_in = call.weight.size(1),
                    .c_out = call.weight.size(0),
                    .dtype = dtype_of(call.op, x)};
  const cpu::Kernels& kernels = cpu::kernels();
  p.plan = kernels.wgrad_plan(p);
  // Of this thread, which waits for the others: fresh memory would cost a page fault per 4096 bytes, in every call.
  const int64_t sums = p.plan.parts * p.plan.part_sums * static_cast<int64_t>(sizeof(double));
  p.parts = static_cast<double*>(cpu::scratch(3, sums));
  torch::stable::parallel_for(0, p.plan.parts, 1,
                              [&](int64_t begin, int64_t end) { kernels.wgrad_parts(p, begin, end); });
  torch::stable::parallel_for(0, p.plan.rows, 4, [&](int64_t begin, int64_t end) { kernels.wgrad_sum(p, begin, end); });
  return {by_weight, by_bias};
}

struct Cpu {
  // The output, and pixel_shuffle(conv(x)) if it is to be kept.
  static Pair convolve(const ConvCall& call, bool keep) {
    const Tensor out = make(call.x, call.output(), true);
    const Tensor kept = keep ? make(call.x, call.shuffled(), true) : make_empty(call.x);
    convolve_into(call, out, kept);
    return {out, kept};
  }

  static Pair block(BlockCall& call, bool keep) {
    const bool by_sign = sign_survives(call.first);
    const auto [hidden, z] = convolve(call.first, keep && !by_sign);
    call.second.x = hidden;
    return {std::get<0>(convolve(call.second, false)), keep && by_sign ? hidden : z};
  }

  static Triple gradients(const ConvGradients& call) {
    Triple made{make_empty(call.x), make_empty(call.x), make_empty(call.x)};
    auto& [grad_x, grad_weight, grad_bias] = made;
    if (elements(call.input()) == 0 || call.grad.numel() == 0 || call.weight.numel() == 0) {
      if (call.need_x) grad_x = zeros(call.x, call.input(), true);
      if (call.need_weight) grad_weight = zeros(call.weight, shape_of(call.weight), false);
      if (call.need_bias) grad_bias = sum_of_pixels(call.grad);
      return made;
    }
    if (call.need_x) {
      const ConvCall by_x{.op = call.op, .x = call.grad, .weight = turned(call.weight), .exact = call.exact};
      grad_x = std::get<0>(convolve(by_x, false));
    }
    if (call.need_weight) {
      const auto [by_weight, by_bias] = weight_gradients(call);
      grad_weight = by_weight;
      if (call.need_bias) grad_bias = by_bias;
    } else if (call.need_bias) {
      grad_bias = sum_of_pixels(call.grad);
    }
    return made;
  }

  static Pair epilogue_gradients(const EpilogueGradients& call) {
    const Shape shape = call.before();
    const Tensor before = make(call.grad, shape, true);
    const Tensor grad = dense(call.grad, true), saved = dense(call.saved, true);
    const OptionalTensor slope = contiguous(call.slope);
    std::vector<float> rows(slope && before.numel() > 0 ? shape[0] * shape[2] * shape[1] : 0);
    const EpilogueBackward p{.grad = data(grad),
                             .saved = data(saved),
                             .slope = data(slope),
                             .before = mutable_data(before),
                             .slope_parts = rows.empty() ? nullptr : rows.data(),
                             .n = shape[0],
                             .h = shape[2],
                             .w = shape[3],
                             .c = shape[1],
                             .r = call.r,
                             .slope_count = slope ? slope->numel() : 0,
                             .number = static_cast<float>(call.number),
                             .scale = static_cast<float>(call.scale),
                             .activation = call.activation,
                             .dtype = dtype_of(call.op, call.grad)};
    if (before.numel() > 0)
      torch::stable::parallel_for(0, p.n * p.h, row_grain(p.w * p.c),
                                  [&](int64_t begin, int64_t end) { cpu::kernels().epilogue_backward(p, begin, end); });
    return {before, slope ? sum_slope(*slope, rows, p.c) : make_empty(call.grad)};
  }
};

cpu::Conv describe_packing(const ConvCall& call, const OptionalTensor& bias, const OptionalTensor& slope) {
  cpu::Conv p = describe(call, bias, slope);
  p.tail.n = p.tail.h = p.tail.w = 1;
  p.plan = cpu::kernels().conv_plan(p);
  return p;
}

Tensor conv3x3_pack(const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& slope,
                    double negative_slope, const std::string& activation, int64_t r, bool exact, bool transposed) {
  const char* op = "conv3x3_pack";
  STD_TORCH_CHECK(!transposed, op, ": transposed: expected False on the CPU, got True");
  const Activation kind = activation_of(op, activation);
  dtype_of(op, weight);
  check_image(op, "weight", weight);
  check_shape(op, "weight", weight, {weight.size(0), weight.size(1), 3, 3});
  check_weights(op, weight, bias, kind, slope, r);
  const ConvCall call{.op = op,
                      .x = weight,
                      .weight = weight,
                      .bias = bias,
                      .activation = kind,
                      .number = negative_slope,
                      .slope = slope,
                      .r = r,
                      .exact = exact};
  if (call.c_out() == 0) return bytes(weight, 0);
  const OptionalTensor biases = contiguous(bias), slopes = slopes_of(call);
  return pack(describe_packing(call, biases, slopes), weight);
}

// The output of a planned call: as an operator would have made it.
void check_out(const char* op, const Tensor& out, const Tensor& x, const Shape& shape) {
  check_like(op, "out", out, x);
  check_shape(op, "out", out, sizes(shape));
  STD_TORCH_CHECK(data(dense(out, true)) == data(out), op, ": out: expected channels_last memory");
}

void conv3x3_into(Tensor out, const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                  const OptionalTensor& slope, double negative_slope, const OptionalTensor& in_channels,
                  const OptionalTensor& out_channels, const OptionalTensor& residual, const std::string& activation,
                  double scale, int64_t r, bool exact, const OptionalTensor& packed) {
  const char* op = "conv3x3_into";
  const ConvCall call{.op = op,
                      .x = x,
                      .weight = weight,
                      .bias = bias,
                      .in_channels = in_channels,
                      .activation = activation_of(op, activation),
                      .number = negative_slope,
                      .slope = slope,
                      .scale = scale,
                      .r = r,
                      .residual = residual,
                      .out_channels = out_channels,
                      .exact = exact,
                      .packed = packed};
  check(call);
  check_out(op, out, x, call.output());
  convolve_into(call, out, make_empty(x));
}

ConvCall call7x7(const char* op, const Tensor& x, const Tensor& weight, const OptionalTensor& bias, bool relu,
                 bool exact, const OptionalTensor& packed) {
  return {.op = op,
          .x = x,
          .weight = weight,
          .bias = bias,
          .activation = relu ? Activation::relu : Activation::none,
          .exact = exact,
          .packed = packed};
}

void check7x7(const ConvCall& call, int64_t c_in) {
  const char* op = call.op;
  check_image(op, "x", call.x);
  dtype_of(op, call.x);
  check_like(op, "weight", call.weight, call.x);
  check_image(op, "weight", call.weight);
  check_shape(op, "weight", call.weight, {call.weight.size(0), c_in, 7, 7});
  check_weights(op, call.weight, call.bias, call.activation, call.slope, call.r);
}

Tensor conv7x7(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, bool relu, bool exact,
               const OptionalTensor& packed) {
  const ConvCall call = call7x7("conv7x7", x, weight, bias, relu, exact, packed);
  check7x7(call, x.size(1));
  return std::get<0>(Cpu::convolve(call, false));
}

void conv7x7_into(Tensor out, const Tensor& x, const Tensor& weight, const OptionalTensor& bias, bool relu, bool exact,
                  const OptionalTensor& packed) {
  const ConvCall call = call7x7("conv7x7_into", x, weight, bias, relu, exact, packed);
  check7x7(call, x.size(1));
  check_out(call.op, out, x, call.output());
  convolve_into(call, out, make_empty(x));
}

Tensor conv7x7_pack(const Tensor& weight, const OptionalTensor& bias, bool exact) {
  const ConvCall call = call7x7("conv7x7_pack", weight, weight, bias, false, exact, std::nullopt);
  check_image(call.op, "weight", weight);
  check7x7(call, weight.size(1));
  if (call.c_out() == 0) return bytes(weight, 0);
  const OptionalTensor biases = contiguous(bias);
  return pack(describe_packing(call, biases, std::nullopt), weight);
}

}  // namespace
}  // namespace vsr::op

STABLE_TORCH_LIBRARY_IMPL(vsr_kernels, CPU, m) {
  vsr::op::ConvOperators<vsr::op::Cpu>::add_to(m);
  m.impl("conv3x3_into", TORCH_BOX(&vsr::op::conv3x3_into));
  m.impl("conv3x3_pack", TORCH_BOX(&vsr::op::conv3x3_pack));
  m.impl("conv7x7", TORCH_BOX(&vsr::op::conv7x7));
  m.impl("conv7x7_into", TORCH_BOX(&vsr::op::conv7x7_into));
  m.impl("conv7x7_pack", TORCH_BOX(&vsr::op::conv7x7_pack));
}
