// 3x3 convolutions of uint8 with int8 on AMX tiles. Included once, inside the namespace and target pragma of
// kernels_amx_int8.cpp, after conv_tiles.inl.h, which says what a block is.
//
// Plan. Blocks as there, 64 values of a line to a step; a band is consecutive rows, four to a block, fewer where an
// image or the band ends. Weights are read as they are packed for vectors: a tile of them is one vector of 16 words,
// those of a panel interleaved line by line of the cache.
//
//   Borders   A line above or below the image is a line of the zero point. Where x is not uint8 yet, its lines are
//             rounded once into memory of the thread (QuantizedLines), with a pixel of the zero point on either side:
//             no block needs a copy then.
//   Epilogue  Bytes go to the output directly, 16 columns at a time. Other results are put together per pixel: the last
//             columns add the base, shuffle and round.
//
// Values beyond the third tap meet weights of zero. Sums are exact: what is read there changes nothing, and neither do
// bands and the order of products.

// What finishing needs besides.
struct Finishing {
  const QuantizedConv& p;
  const float *scale, *bias, *slope;  // per column
  int64_t pixel_step, row_step;       // in the output: to the next pixel, to the next row of the block
  float* pixels;                      // [row][pixel][C]: where pixels are put together
  const int32_t* from;                // base_channels(p)
};

// f(values, pixel) for up to `count` pixels, then done(pixels) for those of a row.
template <class F, class Done>
inline void each_finished(const Finishing& f, WaitingSums& s, int count, F each, Done done) {
  const __m512 scale = _mm512_loadu_ps(f.scale + s.column), bias = _mm512_loadu_ps(f.bias + s.column);
  const __m512 slope = _mm512_loadu_ps(f.slope + s.column);
  each_waiting_run(s, f.pixel_step, f.row_step, count, [&](int run) {
    for (int i = 0; i < run; ++i)
      each(activated_sums(_mm512_loadu_si512(s.z + i * kTileColumns), scale, bias, slope), i);
    done(run);
  });
}

inline int columns_left(const Finishing& f, const WaitingSums& s) {
  const int64_t left = f.p.tail.c - s.column;
  return left < kTileColumns ? static_cast<int>(left) : kTileColumns;
}

void finish_bytes(const Finishing& f, WaitingSums& s, int count) {
  const __m512i zero_point = _mm512_set1_epi32(f.p.out_zero_point);
  const int size = columns_left(f, s);
  const int64_t step = f.pixel_step;
  each_finished(
      f, s, count,
      [&](Vec v, int i) {
        uint8_t* out = static_cast<uint8_t*>(f.p.tail.out) + s.at + i * step;
        store_bytes(v.v, zero_point, out, size);
        __builtin_prefetch(out + kTileWidth * step, 1);
      },
      [](int) {});
}

template <class T>
void finish_pixels(const Finishing& f, WaitingSums& s, int count) {
  const int64_t c = f.p.tail.c;
  const int size = columns_left(f, s);
  each_finished(
      f, s, count, [&](Vec v, int i) { store_some(v, f.pixels + (s.pixel + i) * c + s.column, size); },
      [&](int run) {
        if (s.column + size == c) finish_floats<T>(f.p, f.from, f.pixels + s.pixel * c, s.row, s.end - s.left, run);
      });
}

inline decltype(WaitingSums::finish) finish_of(const QuantizedConv& p) {
  if (p.requantized) return finish_bytes;
  switch (p.tail.dtype) {
    case DType::f32: return finish_pixels<float>;
    case DType::f16: return finish_pixels<float16>;
    case DType::bf16: break;
  }
  return finish_pixels<bfloat16>;
}

// Pixels [x, x + count) of a line of x, those beyond its ends being the zero point.
inline void copy_bytes(const QuantizedConv& p, const uint8_t* line, int64_t x, int64_t count, uint8_t* to) {
  const int64_t before = x < 0 ? -x : 0, end = x + count < p.tail.w ? count : p.tail.w - x;
  __builtin_memset(to, p.zero_point, before * p.c_in);
  __builtin_memcpy(to + before * p.c_in, line + (x + before) * p.c_in, (end - before) * p.c_in);
  __builtin_memset(to + end * p.c_in, p.zero_point, (count - end) * p.c_in);
}

void quantized_conv3x3(const QuantizedConv& p, int64_t begin, int64_t end) {
  if (p.c_in == 0) return kernels_avx512_vnni().quantized_conv3x3(p, begin, end);
  const Epilogue& tail = p.tail;
  const QuantizedLayout layout = quantized_layout(p.c_in, tail.c);
  const int64_t h = tail.h, w = tail.w, c_in = p.c_in, steps = line_steps(c_in), line_bytes = steps * kTileDepth;
  const int64_t across = (w + kTileWidth - 1) / kTileWidth, vectors = layout.columns / kQuantizedLanes;
  const char* packed = static_cast<const char*>(p.packed);
  const int64_t pixels = block_pixels(c_in), copy = round_up(pixels * c_in, 64);
  const int64_t sums_bytes = kTileSums * 4, copies_bytes = p.rounds ? 0 : (kMostLines + 1) * copy;
  const int64_t pixels_bytes = p.requantized ? 0 : kTileRows * kTileWidth * tail.c * 4;
  char* memory = static_cast<char*>(scratch(2, sums_bytes + copies_bytes + pixels_bytes));
  int32_t* sums = reinterpret_cast<int32_t*>(memory);
  uint8_t* copies = reinterpret_cast<uint8_t*>(memory + sums_bytes);
  uint8_t* outside = copies + kMostLines * copy;
  const auto rounded = quantized_lines<kMostLines>(p, p.rounds ? (across * kTileWidth - 1) * c_in + line_bytes : 0);
  if (!p.rounds) __builtin_memset(outside, p.zero_point, copy);
  const Finishing finishing{.p = p,
                            .scale = reinterpret_cast<const float*>(packed + layout.scale),
                            .bias = reinterpret_cast<const float*>(packed + layout.bias),
                            .slope = reinterpret_cast<const float*>(packed + layout.slope),
                            .pixel_step = tail.c,
                            .row_step = w * tail.c,
                            .pixels = reinterpret_cast<float*>(memory + sums_bytes + copies_bytes),
                            .from = base_channels(p)};
  const auto finish = finish_of(p);
  const int64_t ahead_bytes = bytes_ahead(c_in, vectors * steps);

  configure_tiles(kWholeTiles);
  WaitingSums waiting{};
  int rows = 0;
  for (int64_t row = begin; row < end; row += rows) {
    const int64_t n = row / h, y = row % h, most = h - y < end - row ? h - y : end - row;
    rows = most < kTileRows ? static_cast<int>(most) : kTileRows;
    const TileImage image{.values = static_cast<const uint8_t*>(p.x) + n * h * w * c_in,
                          .h = h,
                          .w = w,
                          .c = c_in,
                          .direct = true,
                          .pixels = pixels,
                          .line = copy,
                          .copies = copies,
                          .outside = outside};
    keep_order();  // with the tile loads of the rows before
    if (p.rounds) fetch_quantized_lines(p, rounded, n, row == begin || y == 0 ? y - 1 : y + 1, y + rows);
    for (int64_t x = 0; x < w; x += kTileWidth) {
      const int width = w - x < kTileWidth ? static_cast<int>(w - x) : kTileWidth;
      TileSource a{.step = c_in, .in_place = x + kTileWidth < w};
      keep_order();
      if (p.rounds) {
        for (int i = 0; i < rows + 2; ++i) a.line[i] = rounded.at(y - 1 + i) + x * c_in;
      } else {
        a = block_lines(image, y, x, rows, [&](int64_t line, uint8_t* to) {
          copy_bytes(p, image.values + line * w * c_in, x - 1, pixels, to);
        });
      }
      keep_order();
      for (int64_t vector = 0; vector < vectors; ++vector) {
        const int64_t column = vector * kTileColumns, first = vector / kQuantizedPanel * kQuantizedPanel;
        const int64_t panel = vectors - first < kQuantizedPanel ? vectors - first : kQuantizedPanel;
        const int64_t word = panel * kTileRowBytes;
        const int64_t tile = first * 3 * layout.line_words + vector - first;  // rows of tiles before its first one
        const TileWork work{.weights = packed + tile * kTileRowBytes,
                            .weight_row = word,
                            .weight_line = layout.line_words * word,
                            .weight_step = kQuantizedDepth * word,
                            .first = reinterpret_cast<const int32_t*>(packed + layout.offset) + column,
                            .steps = static_cast<int>(steps),
                            .rows = rows,
                            .z = sums,
                            .ahead = (kTileWidth + 2) * c_in + vector * steps * ahead_bytes,
                            .ahead_bytes = a.in_place ? ahead_bytes : 0};
        multiply_block<3>(a, work, finishing, waiting);
        waiting = {.finish = finish,
                   .z = sums,
                   .at = (row * w + x) * tail.c + column,
                   .row = row,
                   .column = column,
                   .end = static_cast<int>(x) + width,
                   .width = width,
                   .left = width,
                   .rows = rows,
                   .pixel = 0};
      }
    }
  }
  if (begin < end) waiting.finish(finishing, waiting, kTileRows * kTileWidth);
  release_tiles();
}
