// Calls of the convolution operators and their checks: what the CPU and CUDA implementations share.
#pragma once

#include <tuple>

#include "torch/tensors.h"

namespace vsr::op {

using Pair = std::tuple<Tensor, Tensor>;
using Triple = std::tuple<Tensor, Tensor, Tensor>;

// residual + scale * pixel_shuffle(act(conv(x[:, in_channels], weight) + bias), r); with out_channels, the residual
// with the rest added to those of its channels.
struct ConvCall {
  const char* op;
  Tensor x;                                    // (N, C, H, W)
  Tensor weight;                               // (C_out, C_in, 3, 3)
  OptionalTensor bias = std::nullopt;          // (C_out,)
  OptionalTensor in_channels = std::nullopt;   // (C_in,); all channels of x where absent
  Activation activation = Activation::none;    // of the sums
  double number = 0.0;                         // slope of leaky_relu
  OptionalTensor slope = std::nullopt;         // of prelu: (1,) or (C_out,)
  double scale = 1.0;                          // of the shuffled values, before the residual
  int64_t r = 1;                               // of the shuffle
  OptionalTensor residual = std::nullopt;      // as the output
  OptionalTensor out_channels = std::nullopt;  // (C_out,); needs a residual and r == 1
  bool exact = true;                           // CUDA: float32 is not rounded to TF32; CPU: no winograd4
  OptionalTensor packed = std::nullopt;        // what conv3x3_pack made of weight, bias and slope

  int64_t c_in() const { return weight.size(1); }
  int64_t c_out() const { return weight.size(0); }

  // Of the sums after the shuffle, which is the output's unless that has the channels of a residual.
  Shape shuffled() const { return {x.size(0), c_out() / (r * r), x.size(2) * r, x.size(3) * r}; }
  Shape output() const {
    Shape shape = shuffled();
    if (out_channels) shape[1] = residual->size(1);
    return shape;
  }
};

// x + scale * conv(act(conv(x))), gathered and scattered on request. Until the first has run, x of the second is that
// of the first, whose image is as large.
struct BlockCall {
  ConvCall first, second;
};

// What the backward needs of a hidden layer is its output where that has the sign of the values before the activation.
inline bool sign_survives(const ConvCall& call) { return call.activation != Activation::prelu && call.number >= 0.0; }

// Gradients of conv(x[:, in_channels], weight) + bias by x[:, in_channels], weight and bias.
struct ConvGradients {
  const char* op;
  Tensor grad;                 // (N, C_out, H, W)
  Tensor x;                    // (N, C, H, W)
  Tensor weight;               // (C_out, C_in, 3, 3)
  OptionalTensor in_channels;  // (C_in,)
  bool need_x, need_weight, need_bias, exact;

  Shape input() const { return {x.size(0), weight.size(1), x.size(2), x.size(3)}; }
};

// Gradients of scale * pixel_shuffle(act(z), r) by z and by the slope of prelu.
struct EpilogueGradients {
  const char* op;
  Tensor grad;            // (N, C / r^2, r H, r W)
  Tensor saved;           // as grad: pixel_shuffle(z), or the output, if that has its sign; unused for none
  OptionalTensor slope;   // (1,) or (C,)
  Activation activation;  // of z
  double number;          // slope of leaky_relu
  double scale;           // of the shuffled values
  int64_t r;

  Shape before() const { return {grad.size(0), grad.size(1) * r * r, grad.size(2) / r, grad.size(3) / r}; }
};

inline int64_t elements(const Shape& shape) { return shape[0] * shape[1] * shape[2] * shape[3]; }

inline std::vector<int64_t> sizes(const Shape& shape) { return {shape.begin(), shape.end()}; }

inline Shape shape_of(const Tensor& t) { return {t.size(0), t.size(1), t.size(2), t.size(3)}; }

inline Tensor zeros(const Tensor& like, const Shape& shape, bool channels_last) {
  Tensor made = make(like, shape, channels_last);
  return torch::stable::zero_(made);
}

// (N, C, H, W) -> (C,)
inline Tensor sum_of_pixels(const Tensor& t) {
  const std::array<int64_t, 3> dims{0, 2, 3};
  return torch::stable::sum(t, torch::headeronly::IntHeaderOnlyArrayRef(dims.data(), dims.size()));
}

inline void check_slope(const char* op, Activation activation, const OptionalTensor& slope, const Tensor& x,
                        int64_t channels) {
  if (activation != Activation::prelu) return;
  STD_TORCH_CHECK(slope, op, ": slope: expected a tensor for prelu, got none");
  check_like(op, "slope", *slope, x);
  const int64_t count = slope->numel();
  STD_TORCH_CHECK(slope->dim() == 1 && (count == 1 || count == channels), op, ": slope: expected shape (1,) or (",
                  channels, ",), got ", to_string(*slope));
}

inline void check_weights(const char* op, const Tensor& weight, const OptionalTensor& bias, Activation activation,
                          const OptionalTensor& slope, int64_t r) {
  const int64_t c_out = weight.size(0);
  if (bias) {
    check_like(op, "bias", *bias, weight);
    check_shape(op, "bias", *bias, {c_out});
  }
  STD_TORCH_CHECK(r >= 1 && c_out % (r * r) == 0, op, ": weight: expected C_out divisible by r^2, got C_out = ", c_out,
                  " and r = ", r);
  check_slope(op, activation, slope, weight, c_out);
}

// Channel numbers in device memory are not read, which would wait for the device: the caller answers for them.
inline void check_channels(const char* op, const char* name, const Tensor& channels, const Tensor& x, int64_t count,
                           int64_t limit) {
  STD_TORCH_CHECK(channels.device() == x.device() && channels.scalar_type() == ScalarType::Long && channels.dim() == 1,
                  op, ": ", name, ": expected a 1-d int64 tensor on the device of x, got shape ", to_string(channels));
  check_shape(op, name, channels, {count});
  if (!channels.is_cpu()) return;
  const Tensor list = torch::stable::contiguous(channels);
  const int64_t* at = static_cast<const int64_t*>(data(list));
  for (int64_t i = 0; i < count; ++i)
    STD_TORCH_CHECK(at[i] >= 0 && at[i] < limit, op, ": ", name, ": expected channel numbers in [0, ", limit, "), got ",
                    at[i]);
}

// `channels`: those of x.
inline void check_input(const char* op, const Tensor& x, int64_t channels, const Tensor& weight,
                        const OptionalTensor& in_channels) {
  dtype_of(op, x);
  check_image(op, "weight", weight);
  check_like(op, "weight", weight, x);
  check_shape(op, "weight", weight, {weight.size(0), in_channels ? in_channels->numel() : channels, 3, 3});
  if (in_channels) check_channels(op, "in_channels", *in_channels, x, weight.size(1), channels);
}

inline void check(const ConvCall& call, int64_t channels) {
  const char* op = call.op;
  check_input(op, call.x, channels, call.weight, call.in_channels);
  check_weights(op, call.weight, call.bias, call.activation, call.slope, call.r);
  if (call.out_channels) {
    STD_TORCH_CHECK(call.residual, op, ": residual: expected a tensor where out_channels is given, got none");
    check_image(op, "residual", *call.residual);
    check_channels(op, "out_channels", *call.out_channels, call.x, call.c_out(), call.residual->size(1));
  }
  if (call.residual) {
    check_like(op, "residual", *call.residual, call.x);
    check_shape(op, "residual", *call.residual, sizes(call.output()));
  }
}

inline void check(const ConvCall& call) {
  check_image(call.op, "x", call.x);
  check(call, call.x.size(1));
}

inline void check(const BlockCall& call) {
  check(call.first);
  check(call.second, call.first.c_out());
}

inline void check(const ConvGradients& call) {
  check_image(call.op, "x", call.x);
  check_input(call.op, call.x, call.x.size(1), call.weight, call.in_channels);
  check_like(call.op, "grad", call.grad, call.x);
  check_shape(call.op, "grad", call.grad, {call.x.size(0), call.weight.size(0), call.x.size(2), call.x.size(3)});
}

inline void check(const EpilogueGradients& call) {
  const char* op = call.op;
  check_image(op, "grad", call.grad);
  dtype_of(op, call.grad);
  STD_TORCH_CHECK(call.r >= 1 && call.grad.size(2) % call.r == 0 && call.grad.size(3) % call.r == 0, op,
                  ": grad: expected height and width divisible by r = ", call.r, ", got shape ", to_string(call.grad));
  check_slope(op, call.activation, call.slope, call.grad, call.before()[1]);
  if (call.activation == Activation::none) return;
  check_like(op, "saved", call.saved, call.grad);
  check_shape(op, "saved", call.saved, sizes(shape_of(call.grad)));
}

}  // namespace vsr::op
