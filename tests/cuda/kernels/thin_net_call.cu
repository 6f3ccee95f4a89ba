// The launchers of the chain of thin convolutions, and the host functions behind them, as C functions of plain numbers.
#include "core/conv_chain.h"
#include "cuda/conv3x3_pack.cu"
#include "cuda/thin_net.cu"
#include "cuda/thin_net_bf16.cu"
#include "cuda/thin_net_f16.cu"

using namespace vsr;

namespace {

ThinShape shape_of(int layers, int64_t c_in, const int64_t* c_out, int64_t r) {
  ThinShape shape{};
  shape.layers = layers, shape.c_in = c_in, shape.r = r;
  for (int layer = 0; layer < layers && layer < kThinLayers; ++layer) shape.c_out[layer] = c_out[layer];
  return shape;
}

}  // namespace

extern "C" int64_t chain_packed_bytes(int layers, int64_t c_in, const int64_t* c_out, int64_t r, int layer, int dtype) {
  return packed_bytes(thin_layout(shape_of(layers, c_in, c_out, r), layer, static_cast<DType>(dtype)));
}

extern "C" int chain_pack(const void* weight, const void* bias, const void* slope, void* packed, int layers,
                          int64_t c_in, const int64_t* c_out, int64_t r, int layer, int64_t slope_count, float number,
                          int activation, int dtype) {
  Conv3x3Pack p{};
  p.weight = weight, p.bias = bias, p.slope = slope, p.packed = packed;
  p.dtype = static_cast<DType>(dtype);
  p.layout = thin_layout(shape_of(layers, c_in, c_out, r), layer, p.dtype);
  p.strides = {9 * p.layout.c_in, 9, 3, 1};
  p.slope_count = slope_count, p.number = number;
  p.activation = static_cast<Activation>(activation);
  return cuda::launch_conv3x3_pack(p, nullptr);
}

// packed is all layers one after the other, each from a multiple of 16 bytes; rows 0: chosen for the device.
extern "C" int conv_chain(const void* x, const void* residual, void* out, void* kept, const void* packed, int layers,
                          int64_t c_in, const int64_t* c_out, int64_t r, const int* activations, int64_t n, int64_t h,
                          int64_t w, int64_t stride_n, int64_t stride_c, int64_t stride_h, int64_t stride_w,
                          float scale, int dtype, int before, int rows) {
  ConvChain p{};
  p.x = x, p.residual = residual, p.out = out, p.kept = kept;
  p.shape = shape_of(layers, c_in, c_out, r);
  p.dtype = static_cast<DType>(dtype);
  const char* at = static_cast<const char*>(packed);
  for (int layer = 0; layer < layers && layer < kThinLayers; ++layer) {
    p.packed[layer] = at, p.activation[layer] = static_cast<Activation>(activations[layer]);
    at += ceil_div(packed_bytes(thin_layout(p.shape, layer, p.dtype)), 16) * 16;
  }
  p.shape.layers = layers;
  p.xs = {stride_n, stride_c, stride_h, stride_w};
  p.n = n, p.h = h, p.w = w, p.scale = scale, p.kept_before_activation = before != 0;
  return rows == 0 ? cuda::launch_conv_chain(p, nullptr) : cuda::launch_conv_chain(p, rows, nullptr);
}

// How many layers each launch of a network has; returns the number of launches.
extern "C" int chain_cut(const int64_t* channels, int layers, int64_t r, int64_t n, int64_t h, int64_t w, int dtype,
                         int capability, int multiprocessors, int shared_per_block, int shared_per_multiprocessor,
                         int64_t l2_bytes, int* counts) {
  const Gpu gpu{capability, multiprocessors, shared_per_block, shared_per_multiprocessor, l2_bytes};
  const ChainShape chain{{channels, channels + layers + 1}, r};
  const std::vector<int> cut = cut_chain(chain, n, h, w, static_cast<DType>(dtype), false, gpu);
  for (size_t i = 0; i < cut.size(); ++i) counts[i] = cut[i];
  return static_cast<int>(cut.size());
}

// Six numbers per layer: where it is packed for a launch of its own and for thin convolutions, and the columns and
// bytes of both. Returns the bytes of all.
extern "C" int64_t chain_packing(const int64_t* channels, int layers, int64_t r, int dtype, int64_t* numbers) {
  int64_t bytes = 0;
  for (const ChainPacking& p :
       chain_packings({{channels, channels + layers + 1}, r}, static_cast<DType>(dtype), false, bytes)) {
    const int64_t found[] = {p.alone_at, p.alone.columns, packed_bytes(p.alone),
                             p.thin_at,  p.thin.columns,  p.thin_at < 0 ? 0 : packed_bytes(p.thin)};
    for (const int64_t number : found) *numbers++ = number;
  }
  return bytes;
}

extern "C" int chain_rows(int layers, int64_t c_in, const int64_t* c_out, int64_t r, int64_t n, int64_t h, int64_t w,
                          int capability, int multiprocessors, int shared_per_block, int shared_per_multiprocessor,
                          int64_t l2_bytes) {
  const Gpu gpu{capability, multiprocessors, shared_per_block, shared_per_multiprocessor, l2_bytes};
  return thin_tile(shape_of(layers, c_in, c_out, r), n, h, w, gpu).rows;
}
