// Runs the torch-free CPU kernels of one instruction set (the best, or VSR_KERNELS_CPU_ISA) under sanitizers, at shapes
// where vectors and blocks have tails, on buffers of exactly their size, and compares them with plain float64 loops.
// Work is split into uneven ranges, last range first, as threads might take it. Exit status: 0, 1 for a wrong value
// (sanitizers have their own), 77 where this CPU does not have the instruction set.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace {

using namespace vsr;

std::mt19937 generator(1);

int64_t draw(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(generator); }
bool coin() { return draw(0, 1) == 1; }
template <class T>
T one_of(std::initializer_list<T> values) {
  return values.begin()[draw(0, static_cast<int64_t>(values.size()) - 1)];
}

// Heap memory of exactly `bytes`, filled with NaN: nothing may be read that was not written.
class Memory {
 public:
  explicit Memory(int64_t bytes) : bytes_(bytes) {
    void* p = nullptr;
    if (posix_memalign(&p, 64, static_cast<size_t>(bytes)) != 0) throw std::bad_alloc();
    std::memset(p, 0xff, static_cast<size_t>(bytes));
    memory_.reset(static_cast<char*>(p));
  }
  void* at() const { return memory_.get(); }
  int64_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  std::unique_ptr<char, Free> memory_;
  int64_t bytes_;
};

int64_t size_of(DType dtype) { return dtype == DType::f32 ? 4 : 2; }

double read(const void* p, DType dtype, int64_t i) {
  if (dtype == DType::f32) return static_cast<const float*>(p)[i];
  if (dtype == DType::f16) return to_float(static_cast<const float16*>(p)[i]);
  return to_float(static_cast<const bfloat16*>(p)[i]);
}

void write(void* p, DType dtype, int64_t i, float value) {
  if (dtype == DType::f32) static_cast<float*>(p)[i] = value;
  if (dtype == DType::f16) static_cast<float16*>(p)[i] = from_float<float16>(value);
  if (dtype == DType::bf16) static_cast<bfloat16*>(p)[i] = from_float<bfloat16>(value);
}

// `count` elements of one type.
struct Array {
  Memory memory;
  DType dtype;
  int64_t count;

  Array(DType type, int64_t elements) : memory(elements * size_of(type)), dtype(type), count(elements) {}
  static Array random(DType type, int64_t elements, double scale = 1.0) {
    Array a(type, elements);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < elements; ++i) a.set(i, static_cast<float>(normal(generator) * scale));
    return a;
  }
  void* at() const { return memory.at(); }
  double operator[](int64_t i) const { return read(at(), dtype, i); }
  void set(int64_t i, float value) const { write(at(), dtype, i, value); }
};

// Largest error, of the largest true value: rounding of the result, and of bfloat16 operands where there are any.
double tolerance(DType dtype) { return dtype == DType::f32 ? 3e-5 : dtype == DType::f16 ? 2e-3 : 3e-2; }

void compare(const std::string& what, const Array& got, const std::vector<double>& truth) {
  double largest = 1.0;
  for (double v : truth) largest = std::max(largest, std::fabs(v));
  if (got.count != static_cast<int64_t>(truth.size())) throw std::logic_error(what + ": sizes differ");
  for (int64_t i = 0; i < got.count; ++i) {
    if (std::fabs(got[i] - truth[static_cast<size_t>(i)]) <= tolerance(got.dtype) * largest) continue;
    std::fprintf(stderr, "%s: element %ld is %g, expected %g\n", what.c_str(), static_cast<long>(i), got[i],
                 truth[static_cast<size_t>(i)]);
    std::exit(1);
  }
}

// f(begin, end) over uneven ranges of [0, count), the last first.
template <class F>
void split(int64_t count, F f) {
  int64_t end = count;
  while (end > 0) {
    const int64_t begin = std::max<int64_t>(0, end - draw(1, 1 + count / 2));
    f(begin, end);
    end = begin;
  }
}

std::string name(DType dtype) { return dtype == DType::f32 ? "float32" : dtype == DType::f16 ? "float16" : "bfloat16"; }

double activate(Activation activation, double z, double slope) {
  if (activation == Activation::none || z > 0) return z;
  return activation == Activation::relu ? 0.0 : z * slope;
}

struct Size {
  int64_t n, h, w;
};

Size draw_size() {
  return one_of<Size>({{1, 1, 1}, {2, 1, 9}, {1, 7, 1}, {2, 5, 6}, {1, 3, 43}, {1, 16, 14}, {1, 2, 97}});
}

// Sums of the convolution, (N, H, W, C_out).
std::vector<double> convolve(const Array& x, const Array& weight, const Array* bias, Size s, int64_t c_in,
                             int64_t c_out, int64_t size = 3) {
  std::vector<double> z;
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t y = 0; y < s.h; ++y)
      for (int64_t col = 0; col < s.w; ++col)
        for (int64_t co = 0; co < c_out; ++co) {
          double sum = bias ? (*bias)[co] : 0.0;
          for (int64_t tap = 0; tap < size * size; ++tap) {
            const int64_t from_y = y + tap / size - size / 2, from_x = col + tap % size - size / 2;
            if (from_y < 0 || from_y >= s.h || from_x < 0 || from_x >= s.w) continue;
            for (int64_t ci = 0; ci < c_in; ++ci)
              sum += x[((n * s.h + from_y) * s.w + from_x) * c_in + ci] * weight[(co * c_in + ci) * size * size + tap];
          }
          z.push_back(sum);
        }
  return z;
}

void check_conv(const cpu::Kernels& kernels, DType dtype, int64_t c_in, int64_t c_out) {
  const Size s = draw_size();
  const int64_t r = c_out % 9 == 0 ? 3 : c_out % 4 == 0 ? one_of<int64_t>({1, 2}) : 1;
  const bool scattered = r == 1 && coin(), kept = coin(), infinite = draw(0, 7) == 0;
  const bool has_bias = coin(), has_residual = scattered || coin();
  const auto activation =
      one_of({Activation::none, Activation::relu, Activation::leaky_relu, Activation::prelu, Activation::prelu});
  const int64_t slope_count = activation == Activation::prelu ? one_of<int64_t>({1, c_out}) : 0;
  const int64_t shuffled = c_out / (r * r), channels = scattered ? c_out + draw(0, 9) : shuffled;
  const int64_t pixels = s.n * s.h * s.w, values = pixels * r * r * channels;
  const bool gathered = coin(), exact = coin();
  const int64_t c_x = gathered ? c_in + draw(0, 9) : c_in;
  const Array x = Array::random(dtype, pixels * c_x), bias = Array::random(dtype, c_out);
  std::vector<int64_t> picks(static_cast<size_t>(c_x));
  for (size_t i = 0; i < picks.size(); ++i) picks[i] = static_cast<int64_t>(i);
  if (gathered) std::shuffle(picks.begin(), picks.end(), generator);
  const Memory gather(c_in * 8);
  std::memcpy(gather.at(), picks.data(), static_cast<size_t>(gathered ? c_in * 8 : 0));
  const Array weight = Array::random(dtype, c_out * c_in * 9, 1.0 / std::sqrt(9.0 * static_cast<double>(c_in)));
  const Array slope = Array::random(dtype, slope_count), residual = Array::random(dtype, values);
  const Array out(dtype, values), before(dtype, pixels * c_out);
  std::vector<int64_t> list(static_cast<size_t>(channels));
  for (size_t i = 0; i < list.size(); ++i) list[i] = static_cast<int64_t>(i);
  std::shuffle(list.begin(), list.end(), generator);
  const Memory scatter(c_out * 8);
  std::memcpy(scatter.at(), list.data(), static_cast<size_t>(scattered ? c_out * 8 : 0));
  if (infinite) x.set(draw(0, x.count - 1), std::numeric_limits<float>::infinity());

  cpu::Conv p{.x = x.at(),
              .weight = weight.at(),
              .bias = has_bias ? bias.at() : nullptr,
              .slope = slope_count ? slope.at() : nullptr,
              .channels = gathered ? static_cast<const int64_t*>(gather.at()) : nullptr,
              .ws = {c_in * 9, 9, 3, 1},
              .c_x = c_x,
              .c_in = c_in,
              .slope_count = slope_count,
              .exact = exact,
              .tail = {.out = out.at(),
                       .kept = kept ? before.at() : nullptr,
                       .residual = has_residual ? residual.at() : nullptr,
                       .scatter = scattered ? static_cast<const int64_t*>(scatter.at()) : nullptr,
                       .n = s.n,
                       .h = s.h,
                       .w = s.w,
                       .c = c_out,
                       .c_out = channels,
                       .r = r,
                       .slope = 0.25f,
                       .scale = one_of({1.0f, 0.5f}),
                       .activation = activation,
                       .dtype = dtype}};
  p.plan = kernels.conv_plan(p);
  const Memory packed(p.plan.packed_bytes);
  p.packed = packed.at();
  split(p.plan.pack_units, [&](int64_t begin, int64_t end) { kernels.conv_pack(p, packed.at(), begin, end); });
  split(p.plan.blocks, [&](int64_t begin, int64_t end) { kernels.conv3x3(p, begin, end); });
  if (infinite) return;  // the repair of what is not finite has run; its values are for the tests of the operators

  const Array seen(dtype, pixels * c_in);
  for (int64_t i = 0; i < seen.count; ++i)
    seen.set(i, static_cast<float>(x[i / c_in * c_x + picks[static_cast<size_t>(i % c_in)]]));
  const std::vector<double> z = convolve(seen, weight, has_bias ? &bias : nullptr, s, c_in, c_out);
  std::vector<double> truth(static_cast<size_t>(values), 0.0), truth_before(static_cast<size_t>(before.count), 0.0);
  for (int64_t i = 0; has_residual && i < values; ++i) truth[static_cast<size_t>(i)] = residual[i];
  for (int64_t pixel = 0; pixel < pixels; ++pixel)
    for (int64_t co = 0; co < c_out; ++co) {
      const int64_t line = pixel / s.w, col = pixel % s.w, c = co / (r * r), i = co / r % r, j = co % r;
      const int64_t place = ((line * r + i) * s.w + col) * r + j;
      const double sum = z[static_cast<size_t>(pixel * c_out + co)];
      const double factor = activation == Activation::leaky_relu ? 0.25
                            : slope_count == 0                   ? 0.0
                                                                 : slope[slope_count > 1 ? co : 0];
      const int64_t to = scattered ? list[static_cast<size_t>(co)] : c;
      truth[static_cast<size_t>(place * channels + to)] += p.tail.scale * activate(activation, sum, factor);
      truth_before[static_cast<size_t>(place * shuffled + c)] = sum;
    }
  const std::string what = "conv3x3 " + name(dtype) + " " + std::to_string(c_in) + " -> " + std::to_string(c_out);
  compare(what, out, truth);
  if (kept) compare(what + ", kept", before, truth_before);
}

void check_conv7x7(const cpu::Kernels& kernels, DType dtype, int64_t c_in, int64_t c_out) {
  const Size s = draw_size();
  const int64_t pixels = s.n * s.h * s.w;
  const bool has_bias = coin(), infinite = draw(0, 7) == 0;
  const auto activation = one_of({Activation::none, Activation::relu});
  const Array x = Array::random(dtype, pixels * c_in), bias = Array::random(dtype, c_out);
  const Array weight = Array::random(dtype, c_out * c_in * 49, 1.0 / std::sqrt(49.0 * static_cast<double>(c_in)));
  const Array out(dtype, pixels * c_out);
  if (infinite) x.set(draw(0, x.count - 1), std::numeric_limits<float>::infinity());
  cpu::Conv p{.x = x.at(),
              .weight = weight.at(),
              .bias = has_bias ? bias.at() : nullptr,
              .ws = {c_in * 49, 49, 7, 1},
              .c_x = c_in,
              .c_in = c_in,
              .exact = coin(),
              .size = 7,
              .tail = {.out = out.at(),
                       .n = s.n,
                       .h = s.h,
                       .w = s.w,
                       .c = c_out,
                       .c_out = c_out,
                       .r = 1,
                       .scale = 1.0f,
                       .activation = activation,
                       .dtype = dtype}};
  p.plan = kernels.conv_plan(p);
  const Memory packed(p.plan.packed_bytes);
  p.packed = packed.at();
  split(p.plan.pack_units, [&](int64_t begin, int64_t end) { kernels.conv_pack(p, packed.at(), begin, end); });
  split(p.plan.blocks, [&](int64_t begin, int64_t end) { kernels.conv3x3(p, begin, end); });
  if (infinite) return;
  std::vector<double> truth = convolve(x, weight, has_bias ? &bias : nullptr, s, c_in, c_out, 7);
  for (double& value : truth) value = activate(activation, value, 0.0);
  compare("conv7x7 " + name(dtype) + " " + std::to_string(c_in) + " -> " + std::to_string(c_out), out, truth);
}

void check_wgrad(const cpu::Kernels& kernels, DType dtype, int64_t c_in, int64_t c_out) {
  const Size s = draw_size();
  const int64_t pixels = s.n * s.h * s.w;
  const Array x = Array::random(dtype, pixels * c_in), grad = Array::random(dtype, pixels * c_out);
  const Array by_weight(dtype, c_out * c_in * 9), by_bias(dtype, c_out);
  cpu::WeightGrad p{.x = x.at(),
                    .grad = grad.at(),
                    .grad_weight = by_weight.at(),
                    .grad_bias = by_bias.at(),
                    .n = s.n,
                    .h = s.h,
                    .w = s.w,
                    .c_in = c_in,
                    .c_out = c_out,
                    .dtype = dtype};
  p.plan = kernels.wgrad_plan(p);
  const Memory parts(p.plan.parts * p.plan.part_sums * 8);
  p.parts = static_cast<double*>(parts.at());
  split(p.plan.parts, [&](int64_t begin, int64_t end) { kernels.wgrad_parts(p, begin, end); });
  split(p.plan.rows, [&](int64_t begin, int64_t end) { kernels.wgrad_sum(p, begin, end); });
  std::vector<double> weights(static_cast<size_t>(by_weight.count), 0.0), biases(static_cast<size_t>(c_out), 0.0);
  for (int64_t pixel = 0; pixel < pixels; ++pixel)
    for (int64_t co = 0; co < c_out; ++co) {
      const double g = grad[pixel * c_out + co];
      biases[static_cast<size_t>(co)] += g;
      for (int64_t tap = 0; tap < 9; ++tap) {
        const int64_t y = pixel / s.w % s.h + tap / 3 - 1, col = pixel % s.w + tap % 3 - 1;
        if (y < 0 || y >= s.h || col < 0 || col >= s.w) continue;
        const int64_t from = ((pixel / (s.h * s.w) * s.h + y) * s.w + col) * c_in;
        for (int64_t ci = 0; ci < c_in; ++ci)
          weights[static_cast<size_t>((co * c_in + ci) * 9 + tap)] += g * x[from + ci];
      }
    }
  const std::string what =
      "gradient by the weight " + name(dtype) + " " + std::to_string(c_in) + " -> " + std::to_string(c_out);
  compare(what, by_weight, weights);
  compare(what + ", bias", by_bias, biases);
}

// The two neighbours of one coordinate and the weight of the second.
struct Neighbours {
  int64_t first;
  double f;
  bool flat;
};

Neighbours neighbours(int64_t position, double d, int64_t size, bool nearest, bool border) {
  d = d > -1e9 ? std::min(d, 1e9) : -1e9;
  Neighbours a{position + static_cast<int64_t>(std::floor(d)), d - std::floor(d), false};
  if (nearest) a = {a.first + (a.f > 0.5 || (a.f == 0.5 && a.first % 2 != 0) ? 1 : 0), 0.0, false};
  if (border && (a.first < 0 || (a.first == 0 && a.f == 0.0))) return {0, 0.0, true};
  if (border && a.first >= size - 1) return {size - 1, 0.0, true};
  return a;
}

void check_warp(const cpu::Kernels& kernels, DType dtype, int64_t c) {
  const Size s = draw_size();
  const bool nearest = coin(), border = coin(), planar = draw(0, 3) == 0;
  const DType flow_dtype = one_of({DType::f32, dtype});
  const int64_t pixels = s.n * s.h * s.w, plane = s.h * s.w;
  const Array x = Array::random(dtype, pixels * c), flow = Array::random(flow_dtype, pixels * 2, 2.0);
  const Array out(dtype, pixels * c), grad = Array::random(dtype, pixels * c);
  for (float wild : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -3e4f})
    if (draw(0, 3) == 0) flow.set(draw(0, flow.count - 1), wild);
  const Strides last{plane * c, 1, s.w * c, c}, first{plane * c, plane, s.w, 1}, fs{2 * plane, plane, s.w, 1};
  const Strides xs = planar ? first : last;
  const FlowWarp p{.x = x.at(),
                   .flow = flow.at(),
                   .out = out.at(),
                   .n = s.n,
                   .c = c,
                   .h = s.h,
                   .w = s.w,
                   .xs = xs,
                   .fs = fs,
                   .os = xs,
                   .dtype = dtype,
                   .flow_dtype = flow_dtype,
                   .nearest = nearest,
                   .border = border};
  split(s.n * s.h, [&](int64_t begin, int64_t end) { kernels.flow_warp(p, begin, end); });

  const Array grad_x(DType::f32, pixels * c), grad_flow(flow_dtype, pixels * 2);
  std::memset(grad_x.at(), 0, static_cast<size_t>(grad_x.memory.bytes()));
  const FlowWarpBackward q{.grad = grad.at(),
                           .x = x.at(),
                           .flow = flow.at(),
                           .grad_x = grad_x.at(),
                           .grad_flow = grad_flow.at(),
                           .n = s.n,
                           .c = c,
                           .h = s.h,
                           .w = s.w,
                           .gs = last,
                           .xs = last,
                           .fs = fs,
                           .dtype = dtype,
                           .flow_dtype = flow_dtype,
                           .nearest = nearest,
                           .border = border};
  if (!planar) {
    split(s.n * cpu::grad_x_bands(s.h), [&](int64_t begin, int64_t end) { kernels.flow_warp_grad_x(q, begin, end); });
    split(s.n * s.h, [&](int64_t begin, int64_t end) { kernels.flow_warp_grad_flow(q, begin, end); });
  }

  std::vector<double> truth(static_cast<size_t>(pixels * c), 0.0), by_x = truth;
  std::vector<double> by_flow(static_cast<size_t>(pixels * 2), 0.0);
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t row = 0; row < s.h; ++row)
      for (int64_t col = 0; col < s.w; ++col) {
        const int64_t at = n * fs.n + row * s.w + col;
        const Neighbours nx = neighbours(col, flow[at], s.w, nearest, border);
        const Neighbours ny = neighbours(row, flow[at + plane], s.h, nearest, border);
        for (int64_t k = 0; k < 4; ++k) {
          const int64_t y = ny.first + k / 2, xx = nx.first + k % 2;
          if (y < 0 || y >= s.h || xx < 0 || xx >= s.w) continue;
          const double wy = k / 2 ? ny.f : 1 - ny.f, wx = k % 2 ? nx.f : 1 - nx.f;
          for (int64_t ch = 0; ch < c; ++ch) {
            const int64_t from = n * xs.n + y * xs.h + xx * xs.w + ch * xs.c;
            const int64_t to = n * xs.n + row * xs.h + col * xs.w + ch * xs.c;
            truth[static_cast<size_t>(to)] += wy * wx * x[from];
            if (planar) continue;
            by_x[static_cast<size_t>(from)] += wy * wx * grad[to];
            if (nearest) continue;
            if (!nx.flat) by_flow[static_cast<size_t>(at)] += (k % 2 ? 1 : -1) * wy * x[from] * grad[to];
            if (!ny.flat) by_flow[static_cast<size_t>(at + plane)] += (k / 2 ? 1 : -1) * wx * x[from] * grad[to];
          }
        }
      }
  const std::string what = "flow_warp " + name(dtype) + ", channels " + std::to_string(c);
  compare(what, out, truth);
  if (planar) return;
  compare(what + ", gradient by x", grad_x, by_x);
  compare(what + ", gradient by flow", grad_flow, by_flow);
}

template <class T>
void check_shuffle(const cpu::Kernels& kernels, int64_t r, int64_t c) {
  const Size s = draw_size();
  const int64_t count = s.n * s.h * s.w * c * r * r, channels = c * r * r;
  const Memory packed(count * static_cast<int64_t>(sizeof(T))), shuffled(packed.bytes()), back(packed.bytes());
  T* values = static_cast<T*>(packed.at());
  for (int64_t i = 0; i < count; ++i) values[i] = static_cast<T>(i * 2654435761u);
  const bool channels_last = coin();
  PixelShuffle p{.source = packed.at(),
                 .destination = shuffled.at(),
                 .n = s.n,
                 .c = c,
                 .h = s.h,
                 .w = s.w,
                 .r = r,
                 .element_size = sizeof(T),
                 .channels_last = channels_last,
                 .inverse = false};
  split(cpu::shuffle_units(p), [&](int64_t begin, int64_t end) { kernels.pixel_shuffle(p, begin, end); });
  p.source = shuffled.at(), p.destination = back.at(), p.inverse = true;
  split(cpu::shuffle_units(p), [&](int64_t begin, int64_t end) { kernels.pixel_shuffle(p, begin, end); });
  bool same = std::memcmp(packed.at(), back.at(), static_cast<size_t>(packed.bytes())) == 0;
  const T* moved = static_cast<const T*>(shuffled.at());
  for (int64_t i = 0; i < count; ++i) {  // i: place in the packed tensor
    const int64_t ch = channels_last ? i % channels : i / (s.h * s.w) % channels;
    const int64_t pixel = channels_last ? i / channels % (s.h * s.w) : i % (s.h * s.w);
    const int64_t y = pixel / s.w * r + ch / r % r, x = pixel % s.w * r + ch % r, n = i / (channels * s.h * s.w);
    const int64_t to = channels_last ? ((n * s.h * r + y) * s.w * r + x) * c + ch / (r * r)
                                     : ((n * c + ch / (r * r)) * s.h * r + y) * s.w * r + x;
    same = same && moved[to] == values[i];
  }
  if (same) return;
  std::fprintf(stderr, "pixel_shuffle: r %ld, channels %ld, %zu bytes: elements are out of place\n",
               static_cast<long>(r), static_cast<long>(c), sizeof(T));
  std::exit(1);
}

void check_epilogue_backward(const cpu::Kernels& kernels, DType dtype, int64_t c, int64_t r) {
  const Size s = draw_size();
  const auto activation = one_of({Activation::none, Activation::relu, Activation::leaky_relu, Activation::prelu});
  const int64_t slope_count = activation == Activation::prelu ? one_of<int64_t>({1, c}) : 0;
  const int64_t count = s.n * s.h * s.w * c, rows = s.n * s.h;
  const Array grad = Array::random(dtype, count), saved = Array::random(dtype, count), before(dtype, count);
  const Array slope = Array::random(dtype, slope_count);
  const Array parts(DType::f32, slope_count ? rows * c : 0);
  std::memset(parts.at(), 0, static_cast<size_t>(parts.memory.bytes()));
  const EpilogueBackward p{.grad = grad.at(),
                           .saved = saved.at(),
                           .slope = slope_count ? slope.at() : nullptr,
                           .before = before.at(),
                           .slope_parts = slope_count ? static_cast<float*>(parts.at()) : nullptr,
                           .n = s.n,
                           .h = s.h,
                           .w = s.w,
                           .c = c,
                           .r = r,
                           .slope_count = slope_count,
                           .number = 0.25f,
                           .scale = 0.5f,
                           .activation = activation,
                           .dtype = dtype};
  split(rows, [&](int64_t begin, int64_t end) { kernels.epilogue_backward(p, begin, end); });
  std::vector<double> truth(static_cast<size_t>(count)), sums(static_cast<size_t>(parts.count), 0.0);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t pixel = i / c, ch = i % c, line = pixel / s.w;
    const int64_t place = ((line * r + ch / r % r) * s.w + pixel % s.w) * r + ch % r;
    const int64_t from = place * (c / (r * r)) + ch / (r * r);
    const double g = 0.5 * grad[from], z = saved[from];
    const double factor = activation == Activation::leaky_relu ? 0.25
                          : slope_count == 0                   ? 0.0
                                                               : slope[slope_count > 1 ? ch : 0];
    truth[static_cast<size_t>(i)] = activation == Activation::none || z > 0 ? g : g * factor;
    if (slope_count && !(z > 0)) sums[static_cast<size_t>(line * c + ch)] += g * z;
  }
  compare("gradient before the epilogue " + name(dtype), before, truth);
  compare("gradient of the slope " + name(dtype), parts, sums);
}

void check_gather(DType dtype) {
  const int64_t c = draw(1, 20), kept = draw(1, 20), pixels = draw(1, 9);
  const Array x = Array::random(dtype, pixels * c), out(dtype, pixels * kept);
  const Memory list(kept * 8);
  for (int64_t k = 0; k < kept; ++k) static_cast<int64_t*>(list.at())[k] = draw(0, c - 1);
  const int64_t* channels = static_cast<const int64_t*>(list.at());
  const ChannelGather p{
      .x = x.at(), .out = out.at(), .channels = channels, .c = c, .kept = kept, .element_size = size_of(dtype)};
  split(pixels, [&](int64_t begin, int64_t end) { cpu::gather_channels(p, begin, end); });
  std::vector<double> truth;
  for (int64_t i = 0; i < pixels * kept; ++i) truth.push_back(x[i / kept * c + channels[i % kept]]);
  compare("gather_channels " + name(dtype), out, truth);
}

// Bytes of a quantized convolution are right to the last one, but for ties that float32 and float64 see apart.
void check_quantized(const cpu::Kernels& kernels, int64_t c_in, int64_t c_out) {
  const Size s = one_of<Size>({{1, 1, 1}, {2, 1, 9}, {1, 7, 1}, {2, 5, 14}, {1, 3, 43}, {1, 16, 15}, {3, 2, 28}});
  const int64_t pixels = s.n * s.h * s.w, zero = draw(0, 255), out_zero = draw(0, 255);
  const bool rounds = coin(), requantized = coin(), has_bias = coin(), has_base = coin();
  const int64_t r = !requantized && c_out % 4 == 0 ? 2 : 1, shuffled = c_out / (r * r);
  const DType dtype = one_of({DType::f32, DType::f16, DType::bf16}), x_dtype = one_of({DType::f32, DType::bf16});
  const auto activation = one_of({Activation::none, Activation::relu, Activation::leaky_relu, Activation::prelu});
  const int64_t slope_count = activation == Activation::prelu ? one_of<int64_t>({1, c_out}) : 0;
  const Array given = Array::random(x_dtype, pixels * c_in, 90.0);
  const Memory bytes(pixels * c_in), weight(c_out * c_in * 9);
  std::vector<double> q(static_cast<size_t>(pixels * c_in));
  for (int64_t i = 0; i < given.count; ++i) {
    static_cast<uint8_t*>(bytes.at())[i] = static_cast<uint8_t>(draw(0, 255));
    q[static_cast<size_t>(i)] = rounds ? std::clamp(std::nearbyint(given[i]) + static_cast<double>(zero), 0.0, 255.0)
                                       : static_cast<double>(static_cast<const uint8_t*>(bytes.at())[i]);
  }
  for (int64_t i = 0; i < weight.bytes(); ++i)
    static_cast<int8_t*>(weight.at())[i] = static_cast<int8_t>(draw(-128, 127));
  const Array scale = Array::random(DType::f32, c_out, 1.0 / (7000.0 * std::sqrt(static_cast<double>(c_in))));
  const Array bias = Array::random(DType::f32, c_out), slope = Array::random(DType::f32, slope_count, 0.3);
  const Array base = Array::random(dtype, pixels * shuffled), out(dtype, pixels * c_out);
  const Memory rounded(pixels * c_out), packed(cpu::quantized_layout(c_in, c_out).bytes);
  scale.set(0, scale.count > 0 ? static_cast<float>(scale[0] * 100.0) : 0.0f);  // beyond what bytes hold
  cpu::pack_quantized({.weight = static_cast<const int8_t*>(weight.at()),
                       .scale = static_cast<const float*>(scale.at()),
                       .bias = has_bias ? static_cast<const float*>(bias.at()) : nullptr,
                       .slope = static_cast<const float*>(slope.at()),
                       .ws = {c_in * 9, 9, 3, 1},
                       .c_in = c_in,
                       .c_out = c_out,
                       .r = r,
                       .slope_count = slope_count,
                       .zero_point = static_cast<int32_t>(zero),
                       .number = 0.25f,
                       .activation = activation},
                      packed.at());
  const cpu::QuantizedConv p{.x = rounds ? given.at() : bytes.at(),
                             .packed = packed.at(),
                             .base = has_base && !requantized ? base.at() : nullptr,
                             .c_in = c_in,
                             .zero_point = static_cast<int32_t>(zero),
                             .out_zero_point = static_cast<int32_t>(out_zero),
                             .rounds = rounds,
                             .requantized = requantized,
                             .x_dtype = x_dtype,
                             .tail = {.out = requantized ? rounded.at() : out.at(),
                                      .n = s.n,
                                      .h = s.h,
                                      .w = s.w,
                                      .c = c_out,
                                      .c_out = shuffled,
                                      .r = r,
                                      .scale = 1.0f,
                                      .dtype = dtype}};
  split(s.n * s.h, [&](int64_t begin, int64_t end) { kernels.quantized_conv3x3(p, begin, end); });

  std::vector<double> truth(static_cast<size_t>(pixels * c_out), 0.0);
  for (int64_t pixel = 0; pixel < pixels; ++pixel)
    for (int64_t co = 0; co < c_out; ++co) {
      double sum = 0.0;
      for (int64_t tap = 0; tap < 9; ++tap) {
        const int64_t y = pixel / s.w % s.h + tap / 3 - 1, col = pixel % s.w + tap % 3 - 1;
        if (y < 0 || y >= s.h || col < 0 || col >= s.w) continue;
        const int64_t from = ((pixel / (s.h * s.w) * s.h + y) * s.w + col) * c_in;
        for (int64_t ci = 0; ci < c_in; ++ci)
          sum += (q[static_cast<size_t>(from + ci)] - static_cast<double>(zero)) *
                 static_cast<const int8_t*>(weight.at())[(co * c_in + ci) * 9 + tap];
      }
      const double factor = activation == Activation::leaky_relu ? 0.25
                            : slope_count == 0                   ? 0.0
                                                                 : slope[slope_count > 1 ? co : 0];
      const double v = activate(activation, sum * scale[co] + (has_bias ? bias[co] : 0.0), factor);
      if (requantized) {
        const double got = static_cast<const uint8_t*>(rounded.at())[pixel * c_out + co];
        if (std::fabs(got - std::clamp(v + static_cast<double>(out_zero), 0.0, 255.0)) <= 0.5 + 1e-3) continue;
        std::fprintf(stderr, "quantized_conv3x3: element %ld of channel %ld is %g, expected %g rounded\n",
                     static_cast<long>(pixel), static_cast<long>(co), got, v + static_cast<double>(out_zero));
        std::exit(1);
      }
      const int64_t line = pixel / s.w, col = pixel % s.w, c = co / (r * r), i = co / r % r, j = co % r;
      const int64_t place = ((line * r + i) * s.w + col) * r + j;
      truth[static_cast<size_t>(place * shuffled + c)] = v + (p.base ? base[pixel * shuffled + c] : 0.0);
    }
  if (!requantized) compare("quantized_conv3x3 to " + name(dtype), out, truth);
}

void check_all(const cpu::Kernels& kernels) {
  struct Channels {
    int64_t in, out;
  };
  for (int64_t c_in : {1, 3, 5, 16, 17, 32, 64})
    for (int64_t c_out : {1, 3, 12, 16, 33, 48, 68})
      for (int i = 0; i < 2; ++i) check_quantized(kernels, c_in, c_out);
  for (const char* isa : {"avx512_vnni", "amx_int8"})
    if (std::strcmp(kernels.isa, isa) == 0) return;  // the rest is that of avx512, of amx_bf16
  for (DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    // Directly, by taps, by Winograd; on both sides of every vector, panel and chunk.
    for (const Channels c : {Channels{1, 1},
                             {3, 9},
                             {4, 37},
                             {3, 68},
                             {5, 1},
                             {17, 3},
                             {33, 4},
                             {5, 8},
                             {16, 16},
                             {17, 33},
                             {19, 27},
                             {31, 65},
                             {66, 100},
                             {7, 132}})
      for (int i = 0; i < 3; ++i) check_conv(kernels, dtype, c.in, c.out);
    for (const Channels c : {Channels{1, 1}, {8, 32}, {16, 2}, {17, 37}, {33, 66}})
      for (int i = 0; i < 4; ++i) check_conv7x7(kernels, dtype, c.in, c.out);
    for (const Channels c : {Channels{1, 1}, {3, 64}, {64, 3}, {5, 7}, {16, 17}, {33, 48}, {25, 66}, {70, 9}, {12, 24}})
      for (int i = 0; i < 3; ++i) check_wgrad(kernels, dtype, c.in, c.out);
    for (int64_t c : {1, 2, 3, 8, 15, 16, 17, 31, 32, 33, 37, 64, 71})
      for (int i = 0; i < 8; ++i) check_warp(kernels, dtype, c);
    for (int64_t r : {1, 2, 3})
      for (int64_t c : {1, 3, 16, 21})
        for (int i = 0; i < 2; ++i) check_epilogue_backward(kernels, dtype, c * r * r, r);
    for (int i = 0; i < 10; ++i) check_gather(dtype);
  }
  for (int64_t r : {1, 2, 3, 4, 5})
    for (int64_t c : {1, 3, 4, 7, 8, 15, 16, 17, 32, 33, 50}) {
      check_shuffle<uint16_t>(kernels, r, c);
      check_shuffle<uint32_t>(kernels, r, c);
      check_shuffle<uint64_t>(kernels, r, c);
    }
}

}  // namespace

int main() {
  const vsr::cpu::Kernels* kernels = nullptr;
  try {
    kernels = &vsr::cpu::kernels();
  } catch (const std::runtime_error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 77;
  }
  check_all(*kernels);
  std::printf("%s\n", kernels->isa);
  return 0;
}
