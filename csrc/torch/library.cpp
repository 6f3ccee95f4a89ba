// The schemas of all operators. Shapes of the public ones: vsr_kernels/ops. Implementations: *_cpu.cpp here, *_cuda.cpp
// in the object _C_cuda.

#include <torch/csrc/stable/library.h>

#include <string>
#include <vector>

#include "core/conv3x3.h"
#include "core/conv_chain.h"
#include "cpu/kernels.h"

namespace {

std::string cpu_isa() { return vsr::cpu::kernels().isa; }

int64_t conv3x3_packed_bytes(int64_t c_in, int64_t c_out, int64_t r, int64_t element_size, bool exact) {
  // The two 16-bit formats are packed alike.
  const vsr::DType dtype = element_size == 4 ? vsr::DType::f32 : vsr::DType::f16;
  return vsr::packed_bytes(vsr::conv3x3_layout(c_in, c_out, r, dtype, exact));
}

int64_t cpu_packed_bytes(int64_t size, int64_t c_in, int64_t c_out, int64_t r, torch::headeronly::ScalarType dtype,
                         bool exact) {
  using torch::headeronly::ScalarType;
  if (c_out == 0) return 0;
  vsr::cpu::Conv p{
      .c_x = c_in, .c_in = c_in, .exact = exact, .size = size, .tail = {.n = 1, .h = 1, .w = 1, .c = c_out, .r = r}};
  p.tail.dtype = dtype == ScalarType::Float  ? vsr::DType::f32
                 : dtype == ScalarType::Half ? vsr::DType::f16
                                             : vsr::DType::bf16;
  return vsr::cpu::kernels().conv_plan(p).packed_bytes;
}

int64_t conv3x3_cpu_packed_bytes(int64_t c_in, int64_t c_out, int64_t r, torch::headeronly::ScalarType dtype,
                                 bool exact) {
  return cpu_packed_bytes(3, c_in, c_out, r, dtype, exact);
}

int64_t conv7x7_packed_bytes(int64_t c_in, int64_t c_out, torch::headeronly::ScalarType dtype, bool exact) {
  return cpu_packed_bytes(7, c_in, c_out, 1, dtype, exact);
}

int64_t quantized_conv3x3_packed_bytes(int64_t c_in, int64_t c_out) {
  return vsr::cpu::quantized_layout(c_in, c_out).bytes;
}

int64_t conv_chain_packed_bytes(const std::vector<int64_t>& channels, int64_t r, int64_t element_size, bool exact) {
  int64_t bytes = 0;
  vsr::chain_packings({channels, r}, element_size == 4 ? vsr::DType::f32 : vsr::DType::f16, exact, bytes);
  return bytes;
}

}  // namespace

STABLE_TORCH_LIBRARY(vsr_kernels, m) {
  m.def("pixel_shuffle(Tensor x, int r) -> Tensor");
  m.def("pixel_unshuffle(Tensor x, int r) -> Tensor");

  m.def("flow_warp(Tensor x, Tensor flow, str interpolation, str padding) -> Tensor");
  // cat([flow_warp(x, flow), y], 1), or with y first
  m.def("flow_warp_concat(Tensor x, Tensor flow, Tensor y, bool warp_first, str interpolation, str padding) -> Tensor");
  // -> gradients by x and by flow; an empty tensor where one is not needed
  m.def(
      "flow_warp_backward(Tensor grad, Tensor x, Tensor flow, str interpolation, str padding, bool need_x, "
      "bool need_flow, bool deterministic=False) -> (Tensor, Tensor)");

  // Of the convolutions, all channels_last:
  // exact: on CUDA, float32 is not rounded to TF32; on the CPU, Winograd F(4x4) is not used.
  // packed: what conv3x3_pack made of these very weight, bias, slope, activation, shuffle and exact; packed anew where
  //   absent, on CUDA by a launch of its own.

  // residual + scale * pixel_shuffle(act(conv(x))), and pixel_shuffle(conv(x)) (empty unless asked for)
  m.def(
      "conv3x3(Tensor x, Tensor weight, Tensor? bias, Tensor? slope, float negative_slope, Tensor? residual, "
      "str activation, float scale, int pixel_shuffle, bool keep_preactivation, bool exact, Tensor? packed) -> "
      "(Tensor, Tensor)");
  // -> gradients of conv(x[:, in_channels]) by x[:, in_channels], weight and bias; an empty tensor where one is not
  // needed
  m.def(
      "conv3x3_backward(Tensor grad, Tensor x, Tensor weight, Tensor? in_channels, bool need_x, bool need_weight, "
      "bool need_bias, bool exact) -> (Tensor, Tensor, Tensor)");
  // -> gradients by the convolution's sums and by the prelu slope (empty without one). saved: the values before the
  // activation, or the output where that has their sign; in the layout of grad, and unused for the activation none
  m.def(
      "conv3x3_epilogue_backward(Tensor grad, Tensor saved, Tensor? slope, str activation, float negative_slope, "
      "float scale, int pixel_shuffle) -> (Tensor, Tensor)");
  // -> bytes in the order in which the kernel reads them. transposed, CUDA only: of the gradient by x, whose output
  // channels are the weight's input channels
  m.def(
      "conv3x3_pack(Tensor weight, Tensor? bias, Tensor? slope, float negative_slope, str activation, "
      "int pixel_shuffle, bool exact, bool transposed) -> Tensor");
  m.def("conv3x3_packed_bytes(int c_in, int c_out, int pixel_shuffle, int element_size, bool exact) -> int");
  m.def("conv3x3_cpu_packed_bytes(int c_in, int c_out, int pixel_shuffle, ScalarType dtype, bool exact) -> int");
  // CPU only. relu(conv(x)) or conv(x), also into memory that is there; exact: Winograd F(4x4, 4x4) is not used for
  // float32
  m.def("conv7x7(Tensor x, Tensor weight, Tensor? bias, bool relu, bool exact, Tensor? packed) -> Tensor");
  m.def(
      "conv7x7_into(Tensor(a!) out, Tensor x, Tensor weight, Tensor? bias, bool relu, bool exact, Tensor? packed) -> "
      "()");
  m.def("conv7x7_pack(Tensor weight, Tensor? bias, bool exact) -> Tensor");
  m.def("conv7x7_packed_bytes(int c_in, int c_out, ScalarType dtype, bool exact) -> int");
  // CPU only. pixel_shuffle(act(scale * conv(x - zero_point) + bias), r), and base added to all sub-pixels; see
  // cpu/quantized.h. x: uint8, or floating and still to be rounded. With out_zero_point, which takes neither base nor
  // shuffle, the result is rounded to uint8, which dtype has to say. packed: what quantized_conv3x3_pack made of these
  // very arguments
  m.def(
      "quantized_conv3x3(Tensor x, Tensor weight, Tensor zero_point, Tensor scale, Tensor? bias, Tensor? slope, "
      "float negative_slope, Tensor? out_zero_point, Tensor? base, str activation, int pixel_shuffle, "
      "ScalarType dtype, Tensor? packed) -> Tensor");
  m.def(
      "quantized_conv3x3_pack(Tensor weight, Tensor zero_point, Tensor scale, Tensor? bias, Tensor? slope, "
      "float negative_slope, str activation, int pixel_shuffle) -> Tensor");
  m.def("quantized_conv3x3_packed_bytes(int c_in, int c_out) -> int");
  // CPU only, for planned calls: conv3x3 and sparse_conv3x3 in one, quantized_conv3x3, flow_warp, and both shuffles,
  // into memory that is there
  m.def(
      "conv3x3_into(Tensor(a!) out, Tensor x, Tensor weight, Tensor? bias, Tensor? slope, float negative_slope, "
      "Tensor? in_channels, Tensor? out_channels, Tensor? residual, str activation, float scale, int pixel_shuffle, "
      "bool exact, Tensor? packed) -> ()");
  m.def(
      "quantized_conv3x3_into(Tensor(a!) out, Tensor x, Tensor weight, Tensor zero_point, Tensor scale, Tensor? bias, "
      "Tensor? slope, float negative_slope, Tensor? out_zero_point, Tensor? base, str activation, "
      "int pixel_shuffle, Tensor? packed) -> ()");
  m.def("pixel_shuffle_into(Tensor(a!) out, Tensor x, int r, bool inverse) -> ()");
  m.def("flow_warp_into(Tensor(a!) out, Tensor x, Tensor flow, str interpolation, str padding) -> ()");
  // -> the output, and for the backward what the sign of the activation's derivative needs of the hidden layer: its
  // output for relu and leaky_relu, the values before activation for prelu (empty unless asked for)
  m.def(
      "residual_block(Tensor x, Tensor weight1, Tensor? bias1, Tensor weight2, Tensor? bias2, Tensor? slope, "
      "float negative_slope, str activation, float scale, bool keep_hidden, bool exact, Tensor? packed1, "
      "Tensor? packed2) -> (Tensor, Tensor)");
  // CUDA only. -> residual + pixel_shuffle(conv_L(act(... act(conv_1(x))))); no biases, or one per layer; a slope per
  // layer but the last for prelu, else none. packed: what conv_chain_pack made of the same; packed anew, by launches of
  // its own, where absent
  m.def(
      "conv_chain(Tensor x, Tensor[] weights, Tensor[] biases, Tensor[] slopes, float negative_slope, str activation, "
      "Tensor? residual, int pixel_shuffle, bool exact, Tensor? packed) -> Tensor");
  m.def(
      "conv_chain_pack(Tensor[] weights, Tensor[] biases, Tensor[] slopes, float negative_slope, str activation, "
      "int pixel_shuffle, bool exact) -> Tensor");
  m.def("conv_chain_packed_bytes(int[] channels, int pixel_shuffle, int element_size, bool exact) -> int");
  // in_channels, out_channels: int64 on the device of x. Their values are checked on the CPU only
  m.def(
      "sparse_conv3x3(Tensor x, Tensor weight, Tensor? bias, Tensor? slope, float negative_slope, Tensor? in_channels, "
      "Tensor? out_channels, Tensor? residual, str activation, bool keep_preactivation, bool exact, Tensor? packed) -> "
      "(Tensor, Tensor)");
  m.def(
      "sparse_residual_block(Tensor x, Tensor weight1, Tensor? bias1, Tensor weight2, Tensor? bias2, Tensor? slope, "
      "float negative_slope, Tensor in_channels, Tensor out_channels, str activation, bool keep_hidden, bool exact, "
      "Tensor? packed1, Tensor? packed2) -> (Tensor, Tensor)");

  m.def("cpu_isa() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(vsr_kernels, CompositeExplicitAutograd, m) {
  m.impl("conv3x3_packed_bytes", TORCH_BOX(&conv3x3_packed_bytes));
  m.impl("conv3x3_cpu_packed_bytes", TORCH_BOX(&conv3x3_cpu_packed_bytes));
  m.impl("conv7x7_packed_bytes", TORCH_BOX(&conv7x7_packed_bytes));
  m.impl("quantized_conv3x3_packed_bytes", TORCH_BOX(&quantized_conv3x3_packed_bytes));
  m.impl("conv_chain_packed_bytes", TORCH_BOX(&conv_chain_packed_bytes));
  m.impl("cpu_isa", TORCH_BOX(&cpu_isa));
}
