// The schemas of all operators. Shapes of the public ones: vsr_kernels/ops. Implementations: *_cpu.cpp here, *_cuda.cpp
// in the object _C_cuda.

#include <torch/csrc/stable/library.h>

#include <string>

#include "cpu/kernels.h"

namespace {

std::string cpu_isa() { return vsr::cpu::kernels().isa; }

}  // namespace

STABLE_TORCH_LIBRARY(vsr_kernels, m) {
  m.def("pixel_shuffle(Tensor x, int r) -> Tensor");
  m.def("pixel_unshuffle(Tensor x, int r) -> Tensor");

  m.def("flow_warp(Tensor x, Tensor flow, str interpolation, str padding) -> Tensor");
  // -> gradients by x and by flow; an empty tensor where one is not needed
  m.def(
      "flow_warp_backward(Tensor grad, Tensor x, Tensor flow, str interpolation, str padding, bool need_x, "
      "bool need_flow) -> (Tensor, Tensor)");

  // residual + scale * pixel_shuffle(act(conv(x))), and the values before the activation (empty unless asked for)
  m.def(
      "conv3x3(Tensor x, Tensor weight, Tensor? bias, Tensor? slope, float negative_slope, Tensor? residual, "
      "str activation, float scale, int pixel_shuffle, bool keep_preactivation) -> (Tensor, Tensor)");
  // -> gradients by the convolution's sums and by the prelu slope (empty without one). saved: the values before the
  // activation, or the output if saved_is_output
  m.def(
      "conv3x3_epilogue_backward(Tensor grad, Tensor saved, Tensor? slope, str activation, float negative_slope, "
      "float scale, int pixel_shuffle, bool saved_is_output) -> (Tensor, Tensor)");
  // -> the output, and for the backward what the sign of the activation's derivative needs of the hidden layer: its
  // output for relu and leaky_relu, the values before activation for prelu (empty unless asked for)
  m.def(
      "residual_block(Tensor x, Tensor weight1, Tensor? bias1, Tensor weight2, Tensor? bias2, Tensor? slope, "
      "float negative_slope, str activation, float scale, bool keep_hidden) -> (Tensor, Tensor)");
  m.def(
      "sparse_conv3x3(Tensor x, Tensor weight, Tensor? bias, Tensor? slope, float negative_slope, Tensor? in_channels, "
      "Tensor? out_channels, Tensor? residual, str activation, bool keep_preactivation) -> (Tensor, Tensor)");
  m.def(
      "sparse_residual_block(Tensor x, Tensor weight1, Tensor? bias1, Tensor weight2, Tensor? bias2, Tensor? slope, "
      "float negative_slope, Tensor in_channels, Tensor out_channels, str activation, bool keep_hidden) -> (Tensor, "
      "Tensor)");

  m.def("cpu_isa() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(vsr_kernels, CompositeExplicitAutograd, m) { m.impl("cpu_isa", TORCH_BOX(&cpu_isa)); }
