// What the CPU and CUDA implementations of the pixel shuffle share: checks and the problem description.
#pragma once

#include "core/pixel_shuffle.h"
#include "torch/tensors.h"

namespace vsr::op {

struct ShuffleCall {
  Tensor source;  // dense; holds the memory that the problem points to
  Tensor out;
  PixelShuffle problem;
};

// Into `out` if it is given, which has the layout that a new result would have.
inline ShuffleCall prepare_shuffle(const char* op, const Tensor& x, int64_t r, bool inverse,
                                   const OptionalTensor& out = std::nullopt) {
  check_image(op, "x", x);
  STD_TORCH_CHECK(r >= 1, op, ": r: expected an integer >= 1, got ", r);
  const size_t size = x.element_size();
  STD_TORCH_CHECK(size == 2 || size == 4 || size == 8, op, ": x: expected a dtype of 2, 4 or 8 bytes, got ", size);
  const int64_t n = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  STD_TORCH_CHECK(inverse ? h % r == 0 && w % r == 0 : c % (r * r) == 0, op, ": x: expected ",
                  inverse ? "height and width divisible by r" : "channels divisible by r^2", ", got shape ",
                  to_string(x), " and r = ", r);
  const bool channels_last = prefers_channels_last(x);
  const Shape shape = inverse ? Shape{n, c * r * r, h / r, w / r} : Shape{n, c / (r * r), h * r, w * r};
  if (out) {
    check_like(op, "out", *out, x);
    check_shape(op, "out", *out, {shape[0], shape[1], shape[2], shape[3]});
    STD_TORCH_CHECK(data(dense(*out, channels_last)) == data(*out), op, ": out: expected the memory format of x");
  }
  ShuffleCall call{dense(x, channels_last), out ? *out : make(x, shape, channels_last), {}};
  call.problem = {.source = data(call.source),
                  .destination = mutable_data(call.out),
                  .n = n,
                  .c = inverse ? c : shape[1],
                  .h = inverse ? shape[2] : h,
                  .w = inverse ? shape[3] : w,
                  .r = r,
                  .element_size = static_cast<int64_t>(size),
                  .channels_last = channels_last,
                  .inverse = inverse};
  return call;
}

}  // namespace vsr::op
