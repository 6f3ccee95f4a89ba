// 3x3 convolutions of uint8 with int8. Included once per instruction set, inside its namespace and target pragma, after
// quantized.inl.h.
//
// Plan. Rows of the image are taken one after the other. The three lines around a row lie in memory of the thread
// (QuantizedLines). Lines and weights are read from L1 and L2: with 320 pixels of 64 channels they are 62 and 36 KiB.
// Within a row the taps of a pixel are 3 C neighbouring bytes of each line, whatever C: they are read as words of four,
// and what the last word reads of the next pixel meets weights of zero.
//
// A tile is kQuantizedTile pixels times a panel of two vectors of output channels, whose sums stay in registers while
// all words pass: 28 of 32 registers, and a word of x serves two products. Where fewer pixels are left, the tile runs
// over the line's end and fewer are stored. Sums begin with minus the zero point times the sum of the weights.
//
// What becomes uint8 is finished in registers. Other results pass through float32 values of one tile, to which the base
// is added and which the epilogue of all convolutions shuffles and rounds.
//
// Measured on Zen 4, 160x96 pixels: 90 % of the rate at which the dot product instruction can be issued with 64
// channels, 86 % with 32; 5 % go into pixels beyond the line's end.

constexpr int kQuantizedTile = 14;

#if defined(VSR_INT8_DOT)

// Sums of a tile for N vectors of columns. C: the input channels, or 0 where only `c` tells them: where they are known,
// the pixels of a tile are offsets of one address.
template <int N, int C>
inline void quantized_sums(const uint8_t* const (&lines)[3], int64_t c, const int8_t* weights, const int32_t* offset,
                           __m512i (&sum)[kQuantizedTile][N]) {
  const int64_t step = C > 0 ? C : c, words = quantized_words(step), line = quantized_line_words(step);
#pragma GCC unroll 14
  for (int i = 0; i < kQuantizedTile; ++i)
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) sum[i][n] = _mm512_loadu_si512(offset + n * kQuantizedLanes);
  for (int ky = 0; ky < 3; ++ky, weights += (line - words) * N * kQuantizedLanes * 4) {
    const uint8_t* at = lines[ky];
    for (int64_t k = 0; k < words; ++k, at += 4, weights += N * kQuantizedLanes * 4) {
      __m512i b[N];
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) b[n] = _mm512_loadu_si512(weights + n * kQuantizedLanes * 4);
#pragma GCC unroll 14
      for (int i = 0; i < kQuantizedTile; ++i) {
        int word;
        __builtin_memcpy(&word, at + i * step, sizeof word);
        const __m512i a = _mm512_set1_epi32(word);
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) sum[i][n] = _mm512_dpbusd_epi32(sum[i][n], a, b[n]);
      }
    }
  }
}

// One panel of a tile: `count` of its pixels, to uint8 or to z, both of which are `to_step` elements to a pixel.
template <int N, bool kWhole, class To>
inline void finish_panel(const QuantizedConv& p, const QuantizedLayout& layout, int64_t column,
                         const __m512i (&sum)[kQuantizedTile][N], To* to, int64_t to_step, int count) {
  const char* packed = static_cast<const char*>(p.packed);
  const __m512i zero = _mm512_set1_epi32(p.out_zero_point);
#pragma GCC unroll 2
  for (int n = 0; n < N; ++n, to += kQuantizedLanes) {
    const int64_t first = column + n * kQuantizedLanes, left = p.tail.c - first;
    const int lanes = kWhole || left >= kQuantizedLanes ? kQuantizedLanes : static_cast<int>(left);
    const __m512 scale = _mm512_loadu_ps(reinterpret_cast<const float*>(packed + layout.scale) + first);
    const __m512 bias = _mm512_loadu_ps(reinterpret_cast<const float*>(packed + layout.bias) + first);
    const __m512 slope = _mm512_loadu_ps(reinterpret_cast<const float*>(packed + layout.slope) + first);
#pragma GCC unroll 14
    for (int i = 0; i < kQuantizedTile; ++i) {
      if (!kWhole && i >= count) continue;
      const Vec v = activated_sums(sum[i][n], scale, bias, slope);
      if constexpr (sizeof(To) == 1) {
        store_bytes(v.v, zero, to + i * to_step, lanes);
      } else {
        store_some(v, to + i * to_step, lanes);
      }
    }
  }
}

template <int N, class To>
inline void quantized_panel(const QuantizedConv& p, const QuantizedLayout& layout, const uint8_t* const (&lines)[3],
                            int64_t vector, To* to, int64_t to_step, int count) {
  const char* packed = static_cast<const char*>(p.packed);
  const int64_t column = vector * kQuantizedLanes;
  const int8_t* weights = reinterpret_cast<const int8_t*>(packed) + 3 * layout.line_words * column * 4;
  const int32_t* offset = reinterpret_cast<const int32_t*>(packed + layout.offset) + column;
  __m512i sum[kQuantizedTile][N];
  switch (p.c_in) {
    case 16: quantized_sums<N, 16>(lines, 16, weights, offset, sum); break;
    case 32: quantized_sums<N, 32>(lines, 32, weights, offset, sum); break;
    case 64: quantized_sums<N, 64>(lines, 64, weights, offset, sum); break;
    default: quantized_sums<N, 0>(lines, p.c_in, weights, offset, sum);
  }
  if (count == kQuantizedTile && column + N * kQuantizedLanes <= p.tail.c) {
    finish_panel<N, true>(p, layout, column, sum, to, to_step, count);
  } else {
    finish_panel<N, false>(p, layout, column, sum, to, to_step, count);
  }
}

#else

// One panel of a tile: `count` of its pixels, to uint8 or to z, both of which are `to_step` elements to a pixel.
template <int N, class To>
inline void quantized_panel(const QuantizedConv& p, const QuantizedLayout& layout, const uint8_t* const (&lines)[3],
                            int64_t vector, To* to, int64_t to_step, int count) {
  const char* packed = static_cast<const char*>(p.packed);
  const int64_t column = vector * kQuantizedLanes;
  const int8_t* weights = reinterpret_cast<const int8_t*>(packed) + 3 * layout.line_words * column * 4;
  const int32_t* offset = reinterpret_cast<const int32_t*>(packed + layout.offset) + column;
  const float* scale = reinterpret_cast<const float*>(packed + layout.scale) + column;
  const float* bias = reinterpret_cast<const float*>(packed + layout.bias) + column;
  const float* slope = reinterpret_cast<const float*>(packed + layout.slope) + column;
  const int64_t left = p.tail.c - column;
  const int lanes = left < N * kQuantizedLanes ? static_cast<int>(left) : N * kQuantizedLanes;
  for (int i = 0; i < count; ++i, to += to_step) {
    int32_t sum[N * kQuantizedLanes];
    __builtin_memcpy(sum, offset, sizeof sum);
    for (int ky = 0; ky < 3; ++ky) {
      const uint8_t* a = lines[ky] + i * p.c_in;
      const int8_t* b = weights + ky * layout.line_words * static_cast<int64_t>(sizeof sum);
      for (int64_t k = 0; k < layout.words; ++k, a += 4, b += sizeof sum) {
        const int32_t x0 = a[0], x1 = a[1], x2 = a[2], x3 = a[3];
        for (int j = 0; j < N * kQuantizedLanes; ++j)
          sum[j] += x0 * b[4 * j] + x1 * b[4 * j + 1] + x2 * b[4 * j + 2] + x3 * b[4 * j + 3];
      }
    }
    for (int j = 0; j < lanes; ++j) {
      const float z = __builtin_fmaf(static_cast<float>(sum[j]), scale[j], bias[j]), v = z > 0.0f ? z : z * slope[j];
      if constexpr (sizeof(To) == 1) {
        to[j] = to_byte(v, p.out_zero_point);
      } else {
        to[j] = v;
      }
    }
  }
}

#endif

// All panels of a tile.
template <class To>
inline void quantized_tile(const QuantizedConv& p, const QuantizedLayout& layout, const uint8_t* const (&lines)[3],
                           To* to, int64_t to_step, int count) {
  const int64_t vectors = layout.columns / kQuantizedLanes;
  for (int64_t v = 0; v < vectors; v += kQuantizedPanel, to += kQuantizedPanel * kQuantizedLanes) {
    if (v + 1 < vectors) {
      quantized_panel<2>(p, layout, lines, v, to, to_step, count);
    } else {
      quantized_panel<1>(p, layout, lines, v, to, to_step, count);
    }
  }
}

void quantized_conv3x3(const QuantizedConv& p, int64_t begin, int64_t end) {
  const QuantizedLayout layout = quantized_layout(p.c_in, p.tail.c);
  const Epilogue& tail = p.tail;
  const int64_t tiles = (tail.w + kQuantizedTile - 1) / kQuantizedTile;
  const auto memory = quantized_lines<3>(p, (tiles * kQuantizedTile + 2) * p.c_in + 3);
  const int32_t* from = base_channels(p);
  float* z = static_cast<float*>(scratch(2, p.requantized ? 0 : kQuantizedTile * tail.c * 4));
  for (int64_t row = begin; row < end; ++row) {
    const int64_t image = row / tail.h, y = row % tail.h;
    fetch_quantized_lines(p, memory, image, row == begin || y == 0 ? y - 1 : y + 1, y + 1);
    for (int64_t col = 0; col < tail.w; col += kQuantizedTile) {
      const int64_t at = col * p.c_in, left = tail.w - col;
      const uint8_t* const lines[3] = {memory.at(y - 1) + at, memory.at(y) + at, memory.at(y + 1) + at};
      const int count = left < kQuantizedTile ? static_cast<int>(left) : kQuantizedTile;
      if (p.requantized) {
        quantized_tile(p, layout, lines, static_cast<uint8_t*>(tail.out) + (row * tail.w + col) * tail.c, tail.c,
                       count);
      } else {
        quantized_tile(p, layout, lines, z, tail.c, count);
        with_type(tail.dtype, [&](auto element) { finish_floats<decltype(element)>(p, from, z, row, col, count); });
      }
    }
  }
}
