// Convolutions of uint8 with int8, on the CPU.

#include "cpu/kernels.h"
#include "torch/conv_call.h"

namespace vsr::op {
namespace {

struct QuantizedCall {
  const char* op;
  Tensor x;                                      // (N, C_in, H, W): uint8 or floating
  Tensor weight;                                 // (C_out, C_in, 3, 3) int8
  Tensor zero_point;                             // (1,) uint8, of x
  Tensor scale;                                  // (C_out,) float32
  OptionalTensor bias = std::nullopt;            // (C_out,) float32
  OptionalTensor slope = std::nullopt;           // of prelu: (1,) or (C_out,) float32
  double number = 0.0;                           // slope of leaky_relu
  OptionalTensor out_zero_point = std::nullopt;  // (1,) uint8; present where the result is uint8
  OptionalTensor base = std::nullopt;            // (N, C_out / r^2, H, W), added to every sub-pixel

  Activation activation = Activation::none;
  int64_t r = 1;
  ScalarType dtype = ScalarType::Float;  // of the result
  OptionalTensor packed = std::nullopt;

  int64_t c_out() const { return weight.size(0); }
  Shape output() const { return {x.size(0), c_out() / (r * r), x.size(2) * r, x.size(3) * r}; }
};

void check_vector(const char* op, const char* name, const Tensor& t, const Tensor& weight, int64_t count) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float, op, ": ", name, ": expected float32, got another dtype");
  STD_TORCH_CHECK(t.device() == weight.device(), op, ": ", name, ": expected the device of weight, got another");
  check_shape(op, name, t, {count});
}

void check_zero_point(const char* op, const char* name, const Tensor& t) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Byte && t.is_cpu(), op, ": ", name,
                  ": expected uint8 on the CPU, got another dtype or device");
  check_shape(op, name, t, {1});
}

int32_t value_of(const Tensor& zero_point) { return *static_cast<const uint8_t*>(data(zero_point)); }

void check_weights(const QuantizedCall& call) {
  const char* op = call.op;
  check_image(op, "weight", call.weight);
  STD_TORCH_CHECK(call.weight.scalar_type() == ScalarType::Char, op, ": weight: expected int8, got another dtype");
  const int64_t c_out = call.c_out(), c_in = call.weight.size(1);
  check_shape(op, "weight", call.weight, {c_out, c_in, 3, 3});
  STD_TORCH_CHECK(c_in <= cpu::kMostQuantizedChannels, op, ": weight: expected at most ", cpu::kMostQuantizedChannels,
                  " input channels, got ", c_in);
  STD_TORCH_CHECK(call.r >= 1 && c_out % (call.r * call.r) == 0, op,
                  ": weight: expected C_out divisible by r^2, got C_out = ", c_out, " and r = ", call.r);
  check_vector(op, "scale", call.scale, call.weight, c_out);
  if (call.bias) check_vector(op, "bias", *call.bias, call.weight, c_out);
  if (call.activation == Activation::prelu) {
    STD_TORCH_CHECK(call.slope, op, ": slope: expected a tensor for prelu, got none");
    check_vector(op, "slope", *call.slope, call.weight, call.slope->numel() == 1 ? 1 : c_out);
  }
  check_zero_point(op, "zero_point", call.zero_point);
}

void check(const QuantizedCall& call) {
  const char* op = call.op;
  check_weights(call);
  check_image(op, "x", call.x);
  STD_TORCH_CHECK(call.x.device() == call.weight.device(), op, ": x: expected the device of weight, got another");
  check_shape(op, "x", call.x, {call.x.size(0), call.weight.size(1), call.x.size(2), call.x.size(3)});
  if (call.x.scalar_type() != ScalarType::Byte) dtype_of(op, call.x);
  if (call.out_zero_point) {
    check_zero_point(op, "out_zero_point", *call.out_zero_point);
    STD_TORCH_CHECK(!call.base && call.r == 1, op,
                    ": out_zero_point: expected none with a base or a shuffle, got a tensor");
  }
  STD_TORCH_CHECK((call.dtype == ScalarType::Byte) == call.out_zero_point.has_value(), op,
                  ": dtype: expected uint8 with out_zero_point and a floating one without, got another");
  if (!call.base) return;
  STD_TORCH_CHECK(call.base->scalar_type() == call.dtype, op, ": base: expected the dtype of the result, got another");
  STD_TORCH_CHECK(call.base->device() == call.x.device(), op, ": base: expected the device of x, got another");
  check_shape(op, "base", *call.base, {call.x.size(0), call.output()[1], call.x.size(2), call.x.size(3)});
}

Tensor pack(const QuantizedCall& call) {
  const int64_t c_in = call.weight.size(1), c_out = call.c_out();
  const std::array<int64_t, 1> shape{cpu::quantized_layout(c_in, c_out).bytes};
  const Tensor packed =
      torch::stable::empty({shape.data(), shape.size()}, ScalarType::Byte, std::nullopt, call.weight.device());
  const Tensor scale = torch::stable::contiguous(call.scale);
  const OptionalTensor bias = contiguous(call.bias);
  const OptionalTensor slope = call.activation == Activation::prelu ? contiguous(call.slope) : std::nullopt;
  cpu::pack_quantized({.weight = static_cast<const int8_t*>(data(call.weight)),
                       .scale = static_cast<const float*>(data(scale)),
                       .bias = static_cast<const float*>(data(bias)),
                       .slope = static_cast<const float*>(data(slope)),
                       .ws = strides_of(call.weight),
                       .c_in = c_in,
                       .c_out = c_out,
                       .r = call.r,
                       .slope_count = slope ? slope->numel() : 0,
                       .zero_point = value_of(call.zero_point),
                       .number = static_cast<float>(call.number),
                       .activation = call.activation},
                      mutable_data(packed));
  return packed;
}

Tensor packed_for(const QuantizedCall& call) {
  if (!call.packed) return pack(call);
  const Tensor& packed = *call.packed;
  check_shape(call.op, "packed", packed, {cpu::quantized_layout(call.weight.size(1), call.c_out()).bytes});
  STD_TORCH_CHECK(packed.scalar_type() == ScalarType::Byte && packed.is_contiguous() && packed.is_cpu() &&
                      reinterpret_cast<uintptr_t>(data(packed)) % 64 == 0,
                  call.op, ": packed: expected what quantized_conv3x3_pack returns");
  return packed;
}

void convolve_into(const QuantizedCall& call, const Tensor& out) {
  if (out.numel() == 0) return;
  const Tensor x = dense(call.x, true), packed = packed_for(call);
  const OptionalTensor base = dense(call.base, true);
  const bool rounds = x.scalar_type() != ScalarType::Byte, requantized = call.out_zero_point.has_value();
  const cpu::QuantizedConv p{.x = data(x),
                             .packed = data(packed),
                             .base = data(base),
                             .c_in = x.size(1),
                             .zero_point = value_of(call.zero_point),
                             .out_zero_point = requantized ? value_of(*call.out_zero_point) : 0,
                             .rounds = rounds,
                             .requantized = requantized,
                             .x_dtype = rounds ? dtype_of(call.op, x) : DType::f32,
                             .tail = {.out = mutable_data(out),
                                      .n = x.size(0),
                                      .h = x.size(2),
                                      .w = x.size(3),
                                      .c = call.c_out(),
                                      .c_out = call.output()[1],
                                      .r = call.r,
                                      .scale = 1.0f,
                                      .dtype = requantized ? DType::f32 : dtype_of(call.op, out)}};
  torch::stable::parallel_for(0, p.tail.n * p.tail.h, 1,
                              [&](int64_t begin, int64_t end) { cpu::kernels().quantized_conv3x3(p, begin, end); });
}

Tensor quantized_conv3x3(const Tensor& x, const Tensor& weight, const Tensor& zero_point, const Tensor& scale,
                         const OptionalTensor& bias, const OptionalTensor& slope, double negative_slope,
                         const OptionalTensor& out_zero_point, const OptionalTensor& base,
                         const std::string& activation, int64_t r, ScalarType dtype, const OptionalTensor& packed) {
  const char* op = "quantized_conv3x3";
  const QuantizedCall call{.op = op,
                           .x = x,
                           .weight = weight,
                           .zero_point = zero_point,
                           .scale = scale,
                           .bias = bias,
                           .slope = slope,
                           .number = negative_slope,
                           .out_zero_point = out_zero_point,
                           .base = base,
                           .activation = activation_of(op, activation),
                           .r = r,
                           .dtype = dtype,
                           .packed = packed};
  check(call);
  const Shape shape = call.output();
  const Tensor out = torch::stable::empty({shape.data(), shape.size()}, dtype, std::nullopt, x.device(), std::nullopt,
                                          MemoryFormat::ChannelsLast);
  convolve_into(call, out);
  return out;
}

void quantized_conv3x3_into(Tensor out, const Tensor& x, const Tensor& weight, const Tensor& zero_point,
                            const Tensor& scale, const OptionalTensor& bias, const OptionalTensor& slope,
                            double negative_slope, const OptionalTensor& out_zero_point, const OptionalTensor& base,
                            const std::string& activation, int64_t r, const OptionalTensor& packed) {
  const char* op = "quantized_conv3x3_into";
  const QuantizedCall call{.op = op,
                           .x = x,
                           .weight = weight,
                           .zero_point = zero_point,
                           .scale = scale,
                           .bias = bias,
                           .slope = slope,
                           .number = negative_slope,
                           .out_zero_point = out_zero_point,
                           .base = base,
                           .activation = activation_of(op, activation),
                           .r = r,
                           .dtype = out.scalar_type(),
                           .packed = packed};
  check(call);
  STD_TORCH_CHECK(out.device() == x.device(), op, ": out: expected the device of x, got another");
  check_shape(op, "out", out, sizes(call.output()));
  STD_TORCH_CHECK(data(dense(out, true)) == data(out), op, ": out: expected channels_last memory");
  convolve_into(call, out);
}

Tensor quantized_conv3x3_pack(const Tensor& weight, const Tensor& zero_point, const Tensor& scale,
                              const OptionalTensor& bias, const OptionalTensor& slope, double negative_slope,
                              const std::string& activation, int64_t r) {
  const char* op = "quantized_conv3x3_pack";
  const QuantizedCall call{.op = op,
                           .x = weight,
                           .weight = weight,
                           .zero_point = zero_point,
                           .scale = scale,
                           .bias = bias,
                           .slope = slope,
                           .number = negative_slope,
                           .activation = activation_of(op, activation),
                           .r = r};
  check_weights(call);
  return pack(call);
}

}  // namespace
}  // namespace vsr::op

STABLE_TORCH_LIBRARY_IMPL(vsr_kernels, CPU, m) {
  m.impl("quantized_conv3x3", TORCH_BOX(&vsr::op::quantized_conv3x3));
  m.impl("quantized_conv3x3_into", TORCH_BOX(&vsr::op::quantized_conv3x3_into));
  m.impl("quantized_conv3x3_pack", TORCH_BOX(&vsr::op::quantized_conv3x3_pack));
}
