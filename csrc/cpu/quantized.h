// A 3x3 convolution of uint8 with int8 on the CPU: the call, and the order of its packed weights.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/epilogue.h"
#include "core/flow_warp.h"

namespace vsr::cpu {

// Output channels that one vector of sums holds, and vectors whose sums are held at the same time.
constexpr int kQuantizedLanes = 16, kQuantizedPanel = 2;

// Words of weights in a tile.
constexpr int64_t kQuantizedDepth = 16;

// Of input channels, so that sums stay within 32 bits: 9 * 255 * 127 each.
constexpr int64_t kMostQuantizedChannels = 7000;

// Words of a line's three taps, and those that a packing has room for.
constexpr int64_t quantized_words(int64_t c_in) { return (3 * c_in + 3) / 4; }
constexpr int64_t quantized_line_words(int64_t c_in) {
  return (quantized_words(c_in) + kQuantizedDepth - 1) / kQuantizedDepth * kQuantizedDepth;
}

// A packing: the weights, then four vectors with a value per column. Columns are the output channels in the order of
// memory after the shuffle (shuffled_channel), filled up with zeros to whole vectors. Order of the weights:
// [panel][ky][word][vector][lane][4]. A word is four neighbouring values of a line, which one instruction multiplies;
// the values of three neighbouring pixels are `words` of them, filled up with zeros to line_words, whole tiles. A tile
// is one vector of 16 words: all instruction sets read the same packing.
struct QuantizedLayout {
  int64_t words, line_words;
  int64_t columns;
  int64_t offset;  // bytes before the vectors: int32, what the sums begin with
  int64_t scale;   // float32, as all after it
  int64_t bias;
  int64_t slope;  // of every activation: 1 for none, 0 for relu
  int64_t bytes;
};

inline QuantizedLayout quantized_layout(int64_t c_in, int64_t c_out) {
  QuantizedLayout p{};
  p.words = quantized_words(c_in);
  p.line_words = quantized_line_words(c_in);
  p.columns = (c_out + kQuantizedLanes - 1) / kQuantizedLanes * kQuantizedLanes;
  p.offset = 3 * p.line_words * p.columns * 4;
  p.scale = p.offset + p.columns * 4;
  p.bias = p.scale + p.columns * 4;
  p.slope = p.bias + p.columns * 4;
  p.bytes = p.slope + p.columns * 4;
  return p;
}

// out = pixel_shuffle(act(scale * conv(q - zero_point, weight) + bias) + base, r), where q is x, or x rounded, plus
// zero_point, clamped to 0 ... 255, and base counts for all channels that become one pixel's. The padding of the
// convolution is zero_point. With `requantized`, out is uint8: the activated values rounded, plus out_zero_point,
// clamped likewise. The sums are exact, and what follows has one order on every instruction set: all of them give the
// same bits.
struct QuantizedConv {
  const void* x;       // (N, H, W, C_in), dense: uint8, or x_dtype
  const void* packed;  // 64-byte aligned
  const void* base;    // (N, H, W, C_out / r^2), dense, dtype of out; or null
  int64_t c_in;
  int32_t zero_point, out_zero_point;
  bool rounds;  // x is not uint8 yet
  bool requantized;
  DType x_dtype;
  Epilogue tail;  // C_out is tail.c; the activation is part of the packing. requantized: neither shuffle nor base
};

struct QuantizedPack {
  const int8_t* weight;  // (C_out, C_in, 3, 3), any strides
  const float* scale;    // C_out values
  const float* bias;     // C_out values, or null
  const float* slope;    // prelu: slope_count values
  Strides ws;
  int64_t c_in, c_out;
  int64_t r;
  int64_t slope_count;  // 0, 1 or C_out
  int32_t zero_point;
  float number;  // slope of leaky_relu
  Activation activation;
};

// Into quantized_layout().bytes bytes.
void pack_quantized(const QuantizedPack&, void* packed);

}  // namespace vsr::cpu
