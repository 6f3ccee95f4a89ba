// One convolution on CUDA: its packed weights and its launch. What the operators with convolutions in them are made of.
#pragma once

#include "cuda/conv3x3.h"
#include "torch/conv_call.h"
#include "torch/cuda_call.h"

namespace vsr::op {

// Dense channels_last and on a boundary of 16 bytes, which a view into the middle of a tensor may miss.
inline Tensor dense_on_vectors(const Tensor& t) {
  const Tensor packed = dense(t, true);
  return reinterpret_cast<uintptr_t>(data(packed)) % 16 == 0 ? packed : torch::stable::clone(packed);
}

inline OptionalTensor dense_on_vectors(const OptionalTensor& t) {
  if (!t) return std::nullopt;
  return dense_on_vectors(*t);
}

inline Tensor bytes_on(const Tensor& x, int64_t count) {
  const std::array<int64_t, 1> shape{count};
  return torch::stable::empty({shape.data(), shape.size()}, ScalarType::Byte, std::nullopt, x.device());
}

inline const int64_t* numbers(const OptionalTensor& list) { return static_cast<const int64_t*>(data(list)); }

// Weights of one convolution in the order of a layout, into packed_bytes(layout) of memory.
inline void pack_into(void* memory, const char* op, const Tensor& weight, const OptionalTensor& bias,
                      const OptionalTensor& slope, double number, Activation activation, bool transposed,
                      const Conv3x3Layout& layout, cudaStream_t stream) {
  if (packed_bytes(layout) == 0) return;
  const OptionalTensor biases = contiguous(bias), slopes = contiguous(slope);
  const Conv3x3Pack p{.weight = data(weight),
                      .bias = data(biases),
                      .slope = data(slopes),
                      .packed = memory,
                      .strides = strides_of(weight),
                      .slope_count = slope ? slope->numel() : 0,
                      .number = static_cast<float>(number),
                      .activation = activation,
                      .dtype = dtype_of(op, weight),
                      .transposed = transposed,
                      .layout = layout};
  raise(op, cuda::launch_conv3x3_pack(p, stream));
}

inline Conv3x3Layout layout_of(const ConvCall& call) {
  return conv3x3_layout(call.c_in(), call.c_out(), call.r, dtype_of(call.op, call.x), call.exact);
}

// What the call brings, if it is in this layout, else packed now.
inline Tensor packed_for(const ConvCall& call, const Conv3x3Layout& layout, cudaStream_t stream) {
  const Conv3x3Layout usual = layout_of(call);
  if (call.packed) {
    check_shape(call.op, "packed", *call.packed, {packed_bytes(usual)});
    STD_TORCH_CHECK(call.packed->scalar_type() == ScalarType::Byte && call.packed->is_contiguous() &&
                        call.packed->device() == call.x.device(),
                    call.op, ": packed: expected what conv3x3_pack returns on the device of x");
    if (usual.columns == layout.columns) return *call.packed;
  }
  const Tensor packed = bytes_on(call.x, packed_bytes(layout));
  pack_into(mutable_data(packed), call.op, call.weight, call.bias, call.slope, call.number, call.activation, false,
            layout, stream);
  return packed;
}

// Launches a checked call into `out`, and what is kept into `kept` unless that is empty.
inline void convolve_into(const ConvCall& call, const Tensor& out, const OptionalTensor& kept, cudaStream_t stream) {
  if (out.numel() == 0) return;
  if (call.c_out() == 0) {  // nothing is added to the residual
    Tensor copy = out;
    torch::stable::copy_(copy, *call.residual);
    return;
  }
  const Tensor packed = packed_for(call, layout_of(call), stream);
  const OptionalTensor residual = dense_on_vectors(call.residual);
  const OptionalTensor gather = contiguous(call.in_channels), scatter = contiguous(call.out_channels);
  const Conv3x3 p{.x = data(call.x),
                  .packed = data(packed),
                  .residual = data(residual),
                  .out = mutable_data(out),
                  .kept = kept ? mutable_data(*kept) : nullptr,
                  .in_channels = numbers(gather),
                  .out_channels = numbers(scatter),
                  .xs = strides_of(call.x),
                  .n = call.x.size(0),
                  .h = call.x.size(2),
                  .w = call.x.size(3),
                  .c_in = call.c_in(),
                  .c_out = call.c_out(),
                  .c_total = out.size(1),
                  .r = call.r,
                  .scale = static_cast<float>(call.scale),
                  .activation = call.activation,
                  .dtype = dtype_of(call.op, call.x),
                  .exact = call.exact};
  raise(call.op, cuda::launch_conv3x3(p, stream));
}

}  // namespace vsr::op
