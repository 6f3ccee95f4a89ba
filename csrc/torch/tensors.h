// Tensors at the boundary: checks, layouts and allocation. The only headers of torch used are those of the stable ABI.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "core/activation.h"
#include "core/dtype.h"
#include "core/flow_warp.h"

namespace vsr::op {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Shape = std::array<int64_t, 4>;

inline std::string to_string(const Tensor& t) {
  std::string text = "(";
  for (int64_t d = 0; d < t.dim(); ++d) text += (d ? ", " : "") + std::to_string(t.size(d));
  return text + ")";
}

// The Python functions check their arguments fully; these checks keep a direct call of torch.ops.vsr_kernels within
// its buffers.
inline void check_shape(const char* op, const char* name, const Tensor& t, const std::vector<int64_t>& shape) {
  bool same = t.dim() == static_cast<int64_t>(shape.size());
  for (size_t d = 0; same && d < shape.size(); ++d) same = t.size(d) == shape[d];
  std::string expected;
  for (size_t d = 0; d < shape.size(); ++d) expected += (d ? ", " : "") + std::to_string(shape[d]);
  STD_TORCH_CHECK(same, op, ": ", name, ": expected shape (", expected, "), got ", to_string(t));
}

inline void check_image(const char* op, const char* name, const Tensor& t) {
  STD_TORCH_CHECK(t.dim() == 4, op, ": ", name, ": expected 4 dimensions (N, C, H, W), got shape ", to_string(t));
}

inline void check_like(const char* op, const char* name, const Tensor& t, const Tensor& x) {
  STD_TORCH_CHECK(t.scalar_type() == x.scalar_type(), op, ": ", name, ": expected the dtype of x, got another");
  STD_TORCH_CHECK(t.device() == x.device(), op, ": ", name, ": expected the device of x, got another");
}

inline DType dtype_of(const char* op, const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return DType::f32;
    case ScalarType::Half: return DType::f16;
    case ScalarType::BFloat16: return DType::bf16;
    default: STD_TORCH_CHECK(false, op, ": expected float32, float16 or bfloat16; float64 runs as reference only");
  }
  return DType::f32;
}

inline Activation activation_of(const char* op, const std::string& name) {
  if (name == "none") return Activation::none;
  if (name == "relu") return Activation::relu;
  if (name == "leaky_relu") return Activation::leaky_relu;
  STD_TORCH_CHECK(name == "prelu", op, ": activation: expected none, relu, leaky_relu or prelu, got ", name);
  return Activation::prelu;
}

// Channels of a pixel are neighbours and the tensor is not contiguous as well: the rule of vsr_kernels/layout.py.
inline bool prefers_channels_last(const Tensor& t) { return t.stride(1) == 1 && !t.is_contiguous(); }

inline MemoryFormat format_of(bool channels_last) {
  return channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

inline Tensor dense(const Tensor& t, bool channels_last) {
  return torch::stable::contiguous(t, format_of(channels_last));
}

inline OptionalTensor dense(const OptionalTensor& t, bool channels_last) {
  if (!t) return std::nullopt;
  return dense(*t, channels_last);
}

inline OptionalTensor contiguous(const OptionalTensor& t) {
  if (!t) return std::nullopt;
  return torch::stable::contiguous(*t);
}

// Uninitialised (n, c, h, w) like x.
inline Tensor make(const Tensor& x, const Shape& shape, bool channels_last) {
  return torch::stable::empty({shape.data(), shape.size()}, x.scalar_type(), std::nullopt, x.device(), std::nullopt,
                              format_of(channels_last));
}

// Dense, and with just the strides that an allocation in that format has: where a size is 1, other strides are dense
// too, and a tensor that goes back to torch would not look as its fake kernel said.
inline Tensor canonical(const Tensor& t, bool channels_last) {
  const Tensor packed = dense(t, channels_last);
  const int64_t c = t.size(1), h = t.size(2), w = t.size(3);
  const Shape strides = channels_last ? Shape{c * h * w, 1, w * c, c} : Shape{c * h * w, h * w, w, 1};
  bool same = true;
  for (int64_t d = 0; d < 4; ++d) same = same && packed.stride(d) == strides[d];
  if (same) return packed;
  Tensor fresh = make(t, {t.size(0), c, h, w}, channels_last);
  return torch::stable::copy_(fresh, packed);
}

inline Tensor make_empty(const Tensor& x) {
  const std::array<int64_t, 1> none{0};
  return torch::stable::empty({none.data(), none.size()}, x.scalar_type(), std::nullopt, x.device());
}

inline Strides strides_of(const Tensor& t) { return {t.stride(0), t.stride(1), t.stride(2), t.stride(3)}; }

inline const void* data(const Tensor& t) { return t.const_data_ptr(); }
inline const void* data(const OptionalTensor& t) { return t ? t->const_data_ptr() : nullptr; }
inline void* mutable_data(const Tensor& t) { return t.mutable_data_ptr(); }

}  // namespace vsr::op
