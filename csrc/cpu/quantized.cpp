// Packing of the weights of a quantized convolution: moves and sums of integers, the same for all instruction sets.

#include "cpu/quantized.h"

#include <cstring>

namespace vsr::cpu {
namespace {

float slope_of(const QuantizedPack& p, int64_t channel) {
  switch (p.activation) {
    case Activation::none: return 1.0f;
    case Activation::relu: return 0.0f;
    case Activation::leaky_relu: return p.number;
    case Activation::prelu: return p.slope[p.slope_count > 1 ? channel : 0];
  }
  return 1.0f;
}

}  // namespace

void pack_quantized(const QuantizedPack& p, void* packed) {
  const QuantizedLayout layout = quantized_layout(p.c_in, p.c_out);
  char* bytes = static_cast<char*>(packed);
  std::memset(bytes, 0, static_cast<size_t>(layout.bytes));
  int8_t* weights = reinterpret_cast<int8_t*>(bytes);
  int32_t* offset = reinterpret_cast<int32_t*>(bytes + layout.offset);
  float* scale = reinterpret_cast<float*>(bytes + layout.scale);
  float* bias = reinterpret_cast<float*>(bytes + layout.bias);
  float* slope = reinterpret_cast<float*>(bytes + layout.slope);
  const int64_t vectors = layout.columns / kQuantizedLanes;
  for (int64_t column = 0; column < p.c_out; ++column) {
    const int64_t channel = shuffled_channel(column, p.c_out, p.r), vector = column / kQuantizedLanes;
    const int64_t first = vector / kQuantizedPanel * kQuantizedPanel;
    const int64_t panel = vectors - first < kQuantizedPanel ? vectors - first : kQuantizedPanel;
    int8_t* base = weights + first * 3 * layout.line_words * kQuantizedLanes * 4 +
                   ((vector - first) * kQuantizedLanes + column % kQuantizedLanes) * 4;
    int32_t sum = 0;
    for (int64_t ky = 0; ky < 3; ++ky) {
      for (int64_t k = 0; k < 3 * p.c_in; ++k) {
        const int8_t value = p.weight[channel * p.ws.n + k % p.c_in * p.ws.c + ky * p.ws.h + k / p.c_in * p.ws.w];
        base[(ky * layout.line_words + k / 4) * panel * kQuantizedLanes * 4 + k % 4] = value;
        sum += value;
      }
    }
    offset[column] = -p.zero_point * sum;
    scale[column] = p.scale[channel];
    bias[column] = p.bias ? p.bias[channel] : 0.0f;
    slope[column] = slope_of(p, channel);
  }
}

}  // namespace vsr::cpu
