// vsr_kernels._numpy: the CPU kernels on NumPy arrays. vsr_kernels/numpy checks and lays out the arguments; what is
// checked here is that a packing fits. Arrays keep the strides they come with; the lock of the interpreter is released
// while a kernel runs.

#include <pybind11/numpy.h>

#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "cpu/kernels.h"
#include "numpy/threads.h"

namespace py = pybind11;

namespace vsr::numpy {
namespace {

using py::array;
using py::object;

DType dtype_of(const std::string& name) {
  return name == "float32" ? DType::f32 : name == "float16" ? DType::f16 : DType::bf16;
}

Activation activation_of(const std::string& name) {
  return name == "relu"         ? Activation::relu
         : name == "leaky_relu" ? Activation::leaky_relu
         : name == "prelu"      ? Activation::prelu
                                : Activation::none;
}

Strides strides_of(const array& a) {
  const auto in_elements = [&](int d) { return static_cast<int64_t>(a.strides(d) / a.itemsize()); };
  return {in_elements(0), in_elements(1), in_elements(2), in_elements(3)};
}

// Of an array or None.
const void* data(const object& a) { return a.is_none() ? nullptr : py::reinterpret_borrow<array>(a).data(); }
int64_t size(const object& a) { return a.is_none() ? 0 : py::reinterpret_borrow<array>(a).size(); }

// Weights, bias and slopes in the order in which the kernels read them.
class Packed {
 public:
  explicit Packed(int64_t bytes) : bytes_(bytes), memory_(std::aligned_alloc(64, (bytes + 63) / 64 * 64)) {
    if (!memory_) throw std::bad_alloc();
  }
  Packed(Packed&& other) noexcept : bytes_(other.bytes_), memory_(std::exchange(other.memory_, nullptr)) {}
  ~Packed() { std::free(memory_); }
  void* at() const { return memory_; }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_;
  void* memory_;
};

// What a packing is made of; sizes of an image are 1.
cpu::Conv describe(const array& weight, const object& bias, const object& slope, float number,
                   const std::string& activation, int64_t r, const std::string& dtype) {
  return {.weight = weight.data(),
          .bias = data(bias),
          .slope = data(slope),
          .ws = strides_of(weight),
          .c_x = weight.shape(1),
          .c_in = weight.shape(1),
          .slope_count = size(slope),
          .exact = true,
          .tail = {.n = 1,
                   .h = 1,
                   .w = 1,
                   .c = weight.shape(0),
                   .c_out = weight.shape(0) / (r * r),
                   .r = r,
                   .slope = number,
                   .scale = 1.0f,
                   .activation = activation_of(activation),
                   .dtype = dtype_of(dtype)}};
}

Packed pack_weights(const cpu::Conv& p) {
  Packed packed(p.plan.packed_bytes);
  parallel_for(p.plan.pack_units, 4,
               [&](int64_t begin, int64_t end) { cpu::kernels().conv_pack(p, packed.at(), begin, end); });
  return packed;
}

// weight (C_out, C_in, 3, 3), C_out > 0; bias (C_out,) or None; slope (1,) or (C_out,) for prelu, else None.
Packed pack(const array& weight, const object& bias, const object& slope, float number, const std::string& activation,
            int64_t r, const std::string& dtype) {
  cpu::Conv p = describe(weight, bias, slope, number, activation, r, dtype);
  const py::gil_scoped_release released;
  p.plan = cpu::kernels().conv_plan(p);
  return pack_weights(p);
}

// out = residual + scale * pixel_shuffle(act(conv(x[:, in_channels]))), or scattered; out and residual (N, C, r H, r W)
// and x (N, C_x, H, W) dense channels_last, channel lists dense int64. Nothing is empty but x and the lists.
void conv3x3(array out, const array& x, const array& weight, const object& bias, const object& slope, float number,
             const object& in_channels, const object& out_channels, const object& residual,
             const std::string& activation, float scale, int64_t r, const std::string& dtype, const object& packed) {
  cpu::Conv p = describe(weight, bias, slope, number, activation, r, dtype);
  p.x = x.data();
  p.channels = static_cast<const int64_t*>(data(in_channels));
  p.c_x = x.shape(1);
  p.tail.out = out.mutable_data();
  p.tail.residual = data(residual);
  p.tail.scatter = static_cast<const int64_t*>(data(out_channels));
  p.tail.n = x.shape(0), p.tail.h = x.shape(2), p.tail.w = x.shape(3);
  p.tail.c_out = out.shape(1);
  p.tail.scale = scale;
  const Packed* kept = packed.is_none() ? nullptr : &packed.cast<const Packed&>();
  const py::gil_scoped_release released;
  const cpu::Kernels& kernels = cpu::kernels();
  p.plan = kernels.conv_plan(p);
  if (kept && kept->bytes() != p.plan.packed_bytes) throw std::invalid_argument("the packing is of other weights");
  const auto run = [&](const Packed& weights) {
    p.packed = weights.at();
    parallel_for(p.plan.blocks, 1, [&](int64_t begin, int64_t end) { kernels.conv3x3(p, begin, end); });
  };
  kept ? run(*kept) : run(pack_weights(p));
}

// out and x (N, C, H, W), flow (N, 2, H, W), any strides, none empty.
void flow_warp(array out, const array& x, const array& flow, bool nearest, bool border, const std::string& dtype,
               const std::string& flow_dtype) {
  const FlowWarp p{.x = x.data(),
                   .flow = flow.data(),
                   .out = out.mutable_data(),
                   .n = x.shape(0),
                   .c = x.shape(1),
                   .h = x.shape(2),
                   .w = x.shape(3),
                   .xs = strides_of(x),
                   .fs = strides_of(flow),
                   .os = strides_of(out),
                   .dtype = dtype_of(dtype),
                   .flow_dtype = dtype_of(flow_dtype),
                   .nearest = nearest,
                   .border = border};
  const py::gil_scoped_release released;
  parallel_for(p.n * p.h, 1, [&](int64_t begin, int64_t end) { cpu::kernels().flow_warp(p, begin, end); });
}

// packed (N, C r^2, H, W) and shuffled (N, C, r H, r W), both dense in one format and not empty; inverse: from shuffled
// to packed.
void pixel_shuffle(array packed, array shuffled, int64_t r, bool channels_last, bool inverse) {
  array& to = inverse ? packed : shuffled;
  const array& from = inverse ? shuffled : packed;
  const PixelShuffle p{.source = from.data(),
                       .destination = to.mutable_data(),
                       .n = packed.shape(0),
                       .c = shuffled.shape(1),
                       .h = packed.shape(2),
                       .w = packed.shape(3),
                       .r = r,
                       .element_size = packed.itemsize(),
                       .channels_last = channels_last,
                       .inverse = inverse};
  const py::gil_scoped_release released;
  parallel_for(cpu::shuffle_units(p), 1,
               [&](int64_t begin, int64_t end) { cpu::kernels().pixel_shuffle(p, begin, end); });
}

}  // namespace
}  // namespace vsr::numpy

PYBIND11_MODULE(_numpy, m) {
  using namespace vsr::numpy;
  py::class_<Packed>(m, "Packed");
  m.def("pack", &pack);
  m.def("conv3x3", &conv3x3);
  m.def("flow_warp", &flow_warp);
  m.def("pixel_shuffle", &vsr::numpy::pixel_shuffle);
  m.def("isa", [] { return std::string(vsr::cpu::kernels().isa); });
  m.def("threads", &threads);
  m.def("set_threads", &set_threads, py::call_guard<py::gil_scoped_release>());
}
