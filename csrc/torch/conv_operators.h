// The convolution operators as the schemas list their arguments, for a Device that implements four calls:
//   Pair convolve(const ConvCall&, bool keep)          the output, and what the backward needs besides
//   Pair block(BlockCall&, bool keep)                  the output, and what the backward needs of the hidden layer
//   Triple gradients(const ConvGradients&)             empty tensors where nothing is needed
//   Pair epilogue_gradients(const EpilogueGradients&)  empty second without a slope
#pragma once

#include "torch/conv_call.h"

namespace vsr::op {

template <class Device>
struct ConvOperators {
  static Pair conv3x3(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& slope,
                      double negative_slope, const OptionalTensor& residual, const std::string& activation,
                      double scale, int64_t r, bool keep, bool exact, const OptionalTensor& packed) {
    const ConvCall call{.op = "conv3x3",
                        .x = x,
                        .weight = weight,
                        .bias = bias,
                        .activation = activation_of("conv3x3", activation),
                        .number = negative_slope,
                        .slope = slope,
                        .scale = scale,
                        .r = r,
                        .residual = residual,
                        .exact = exact,
                        .packed = packed};
    check(call);
    return Device::convolve(call, keep);
  }

  static Pair sparse_conv3x3(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                             const OptionalTensor& slope, double negative_slope, const OptionalTensor& in_channels,
                             const OptionalTensor& out_channels, const OptionalTensor& residual,
                             const std::string& activation, bool keep, bool exact, const OptionalTensor& packed) {
    const ConvCall call{.op = "sparse_conv3x3",
                        .x = x,
                        .weight = weight,
                        .bias = bias,
                        .in_channels = in_channels,
                        .activation = activation_of("sparse_conv3x3", activation),
                        .number = negative_slope,
                        .slope = slope,
                        .residual = residual,
                        .out_channels = out_channels,
                        .exact = exact,
                        .packed = packed};
    check(call);
    return Device::convolve(call, keep);
  }

  static Pair residual_block(const Tensor& x, const Tensor& weight1, const OptionalTensor& bias1, const Tensor& weight2,
                             const OptionalTensor& bias2, const OptionalTensor& slope, double negative_slope,
                             const std::string& activation, double scale, bool keep, bool exact,
                             const OptionalTensor& packed1, const OptionalTensor& packed2) {
    const char* op = "residual_block";
    BlockCall call{.first = {.op = op,
                             .x = x,
                             .weight = weight1,
                             .bias = bias1,
                             .activation = activation_of(op, activation),
                             .number = negative_slope,
                             .slope = slope,
                             .exact = exact,
                             .packed = packed1},
                   .second = {.op = op,
                              .x = x,
                              .weight = weight2,
                              .bias = bias2,
                              .scale = scale,
                              .residual = x,
                              .exact = exact,
                              .packed = packed2}};
    check(call);
    return Device::block(call, keep);
  }

  static Pair sparse_residual_block(const Tensor& x, const Tensor& weight1, const OptionalTensor& bias1,
                                    const Tensor& weight2, const OptionalTensor& bias2, const OptionalTensor& slope,
                                    double negative_slope, const Tensor& in_channels, const Tensor& out_channels,
                                    const std::string& activation, bool keep, bool exact, const OptionalTensor& packed1,
                                    const OptionalTensor& packed2) {
    const char* op = "sparse_residual_block";
    BlockCall call{.first = {.op = op,
                             .x = x,
                             .weight = weight1,
                             .bias = bias1,
                             .in_channels = in_channels,
                             .activation = activation_of(op, activation),
                             .number = negative_slope,
                             .slope = slope,
                             .exact = exact,
                             .packed = packed1},
                   .second = {.op = op,
                              .x = x,
                              .weight = weight2,
                              .bias = bias2,
                              .residual = x,
                              .out_channels = out_channels,
                              .exact = exact,
                              .packed = packed2}};
    check(call);
    return Device::block(call, keep);
  }

  static Triple conv3x3_backward(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                 const OptionalTensor& in_channels, bool need_x, bool need_weight, bool need_bias,
                                 bool exact) {
    const ConvGradients call{"conv3x3_backward", grad, x, weight, in_channels, need_x, need_weight, need_bias, exact};
    check(call);
    return Device::gradients(call);
  }

  static Pair conv3x3_epilogue_backward(const Tensor& grad, const Tensor& saved, const OptionalTensor& slope,
                                        const std::string& activation, double negative_slope, double scale, int64_t r) {
    const char* op = "conv3x3_epilogue_backward";
    const EpilogueGradients call{op, grad, saved, slope, activation_of(op, activation), negative_slope, scale, r};
    check(call);
    return Device::epilogue_gradients(call);
  }

  static void add_to(torch::stable::detail::StableLibrary& library) {
    library.impl("conv3x3", TORCH_BOX(&conv3x3));
    library.impl("conv3x3_backward", TORCH_BOX(&conv3x3_backward));
    library.impl("conv3x3_epilogue_backward", TORCH_BOX(&conv3x3_epilogue_backward));
    library.impl("residual_block", TORCH_BOX(&residual_block));
    library.impl("sparse_conv3x3", TORCH_BOX(&sparse_conv3x3));
    library.impl("sparse_residual_block", TORCH_BOX(&sparse_residual_block));
  }
};

}  // namespace vsr::op
