// 3x3 convolutions of bfloat16 on AMX tiles, by the direct method. Included once, inside the namespace and target
// pragma of kernels_amx_bf16.cpp, after conv_tiles.inl.h, which says what a block is.
//
// Plan. Blocks as there, 32 values of a line to a step; a thread takes consecutive ones. Up to three input channels all
// nine taps fit into 32 values: they are gathered into rows of 64 bytes, zeros behind, and there is one multiplication
// per tile of sums.
//
//   Borders   A line above or below the image is a line of zeros. Where channels are gathered, all blocks are staged.
//   Epilogue  What has 16 columns next to each other in the output goes there directly; else (scattered channels,
//             shuffles of few channels) pixels are put together first.
//
// Reading 32 values at a time reads beyond the third tap where 3 C_in is no multiple of 32. The weights there are zero,
// but zero times infinity is NaN: sums that are not finite are then worked out again.
//
// Arithmetic: the products of a step are added up apart, pairs' first and second halves each, and then to the sum; in
// float32, subnormal numbers taken for zero. It does not depend on where a block begins.

// Whether the nine taps of a pixel fit into one row of A, and else the values of one line's three taps.
inline bool gathers_taps(int64_t c_in) { return 9 * c_in <= kTileDepth; }
inline int64_t tile_lines(int64_t c_in) { return gathers_taps(c_in) ? 1 : 3; }
inline int64_t tile_steps(int64_t c_in) { return gathers_taps(c_in) ? 1 : line_steps(c_in); }
inline int64_t tile_column_blocks(int64_t columns) { return (columns + kTileColumns - 1) / kTileColumns; }

ConvPlan tile_plan(const Conv& p) {
  const Epilogue& t = p.tail;
  ConvPlan plan{};
  plan.method = ConvMethod::direct;
  plan.halves = true;
  plan.products = 1;
  plan.columns = t.c;
  plan.k = 9 * p.c_in;
  plan.block_rows = kTileRows * kTileWidth;
  plan.blocks = t.n * ((t.h + kTileRows - 1) / kTileRows) * ((t.w + kTileWidth - 1) / kTileWidth);
  plan.pack_units = tile_column_blocks(t.c) * tile_steps(p.c_in);
  const int64_t weights = plan.pack_units * tile_lines(p.c_in) * kTileBytes;
  plan.packed_bytes = weights + 2 * packed_columns(plan) * 4;
  return plan;
}

// Units of 16 columns and one step. Order: [16 columns][step][ky][k / 2][column][k % 2]; behind, the bias and the
// slopes.
void pack_tiles(const Conv& p, void* packed, int64_t begin, int64_t end) {
  const int64_t steps = tile_steps(p.c_in), lines = tile_lines(p.c_in), values = 9 / lines * p.c_in;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit / steps * kTileColumns, k_first = unit % steps * kTileDepth;
    const bfloat16* at[kTileColumns];  // the taps of each column, null where it is padding
    for (int64_t j = 0; j < kTileColumns; ++j)
      at[j] = first + j < p.tail.c
                  ? static_cast<const bfloat16*>(p.weight) + shuffled_channel(first + j, p.tail.c, p.tail.r) * p.ws.n
                  : nullptr;
    bfloat16* to = static_cast<bfloat16*>(packed) + unit * lines * kTileDepth * kTileColumns;
    for (int64_t line = 0; line < lines; ++line, to += kTileDepth * kTileColumns) {
      for (int64_t i = 0; i < kTileDepth; ++i) {
        const int64_t k = k_first + i, tap = 3 * line + k / p.c_in;
        const int64_t from = k % p.c_in * p.ws.c + tap / 3 * p.ws.h + tap % 3 * p.ws.w;
        for (int64_t j = 0; j < kTileColumns; ++j)
          to[(i / 2 * kTileColumns + j) * 2 + i % 2] = at[j] && k < values ? at[j][from] : bfloat16{0};
      }
    }
  }
  if (begin > 0) return;
  float* bias = packed_bias(p, packed);
  float* slopes = packed_slopes(p, packed);
  for (int64_t j = 0; j < packed_columns(p.plan); ++j) {
    const int64_t channel = j < p.tail.c ? shuffled_channel(j, p.tail.c, p.tail.r) : -1;
    bias[j] = p.bias && channel >= 0 ? to_float(static_cast<const bfloat16*>(p.bias)[channel]) : 0.0f;
    slopes[j] = p.slope_count > 1 && channel >= 0 ? to_float(static_cast<const bfloat16*>(p.slope)[channel]) : 0.0f;
  }
}

// What finishing needs besides.
struct Finishing {
  const Epilogue& tail;
  int64_t pixel_step;  // in the output, for the same column
  int64_t row_step;    // from a row of the block to the next one
  float* pixels;       // [row][pixel][C]: where pixels are put together
  const Pick<float>* scatter;
};

// All 16 columns are there and lie next to each other in the output, and nothing is rare: nothing kept, no factor.
template <Activation A, bool kResidual>
void finish_whole(const Finishing& f, WaitingSums& s, int count) {
  const Epilogue& t = f.tail;
  const Vec slope = t.slopes ? Vec::load(t.slopes + s.column) : Vec::set(t.slope);
  const int64_t step = f.pixel_step, ahead = kTileWidth * step;
  each_waiting_run(s, f.pixel_step, f.row_step, count, [&](int run) {
    const float* z = s.z;
    bfloat16* out = static_cast<bfloat16*>(t.out) + s.at;
    const bfloat16* residual = static_cast<const bfloat16*>(t.residual) + (kResidual ? s.at : 0);
    for (int i = 0; i < run; ++i, z += kTileColumns, out += step) {
      Vec v = activate(A, Vec::load(z), slope);
      if constexpr (kResidual) {
        v = add(v, Vec::load(residual));
        __builtin_prefetch(residual + ahead);
        residual += step;
      }
      v.store(out);
      __builtin_prefetch(out + ahead, 1);
    }
  });
}

// The columns lie next to each other in the output.
template <Activation A>
void finish_columns(const Finishing& f, WaitingSums& s, int count) {
  const Epilogue& t = f.tail;
  const int size = t.c - s.column < kTileColumns ? static_cast<int>(t.c - s.column) : kTileColumns;
  const Vec slope = t.slopes ? Vec::load(t.slopes + s.column) : Vec::set(t.slope), factor = Vec::set(t.scale);
  each_waiting_run(s, f.pixel_step, f.row_step, count, [&](int run) {
    for (int i = 0; i < run; ++i) {
      const Vec sums = Vec::load(s.z + i * kTileColumns);
      const int64_t at = s.at + i * f.pixel_step;
      if (t.kept) store_some(sums, static_cast<bfloat16*>(t.kept) + at, size);
      Vec v = mul(activate(A, sums, slope), factor);
      if (t.residual) v = add(v, load_some(static_cast<const bfloat16*>(t.residual) + at, size));
      store_some(v, static_cast<bfloat16*>(t.out) + at, size);
    }
  });
}

// Puts the columns of `run` pixels together; whether these are the last ones.
inline bool join_columns(const Finishing& f, const WaitingSums& s, int run) {
  const int64_t c = f.tail.c;
  const bool last = s.column + kTileColumns >= c;
  const int size = last ? static_cast<int>(c - s.column) : kTileColumns;
  for (int i = 0; i < run; ++i)
    store_some(Vec::load(s.z + i * kTileColumns), f.pixels + (s.pixel + i) * c + s.column, size);
  return last;
}

// Sub-rows of a shuffle of few channels: at most 16 values each, nothing kept, no factor.
template <Activation A>
void finish_sub_rows(const Finishing& f, WaitingSums& s, int count) {
  const Epilogue& t = f.tail;
  const int size = static_cast<int>(f.pixel_step);
  each_waiting_run(s, f.pixel_step, f.row_step, count, [&](int run) {
    if (!join_columns(f, s, run)) return;
    for (int64_t i = 0; i < t.r; ++i) {
      const float* z = f.pixels + s.pixel * t.c + i * size;
      const Vec slope = t.slopes ? Vec::load(t.slopes + i * size, size) : Vec::set(t.slope);
      const int64_t at = s.at + i * t.w * size;
      bfloat16* out = static_cast<bfloat16*>(t.out) + at;
      const bfloat16* residual = t.residual ? static_cast<const bfloat16*>(t.residual) + at : nullptr;
      for (int k = 0; k < run; ++k, z += t.c, out += size) {
        Vec v = activate(A, Vec::load(z, size), slope);
        if (residual) v = add(v, Vec::load(residual + k * size, size));
        v.store(out, size);
      }
    }
  });
}

// Whatever else: the last columns of a pixel finish it.
void finish_pixels(const Finishing& f, WaitingSums& s, int count) {
  each_waiting_run(s, f.pixel_step, f.row_step, count, [&](int run) {
    if (join_columns(f, s, run))
      epilogue<bfloat16>(f.tail, {f.pixels + s.pixel * f.tail.c, f.tail.c, s.row, s.end - s.left, run}, f.scatter);
  });
}

using Finish = decltype(WaitingSums::finish);

// For blocks of 16 columns, and for the rest.
struct Finishes {
  Finish whole, rest;
};

template <Activation A>
inline Finishes finishes_of(const Epilogue& t, bool columns) {
  const bool rare = t.kept || t.scale != 1.0f;
  if (columns && rare) return {finish_columns<A>, finish_columns<A>};
  if (columns) return {t.residual ? finish_whole<A, true> : finish_whole<A, false>, finish_columns<A>};
  const Finish pixels = !t.scatter && t.c / t.r <= kTileColumns && !rare ? finish_sub_rows<A> : finish_pixels;
  return {pixels, pixels};
}

inline Finishes finishes(const Epilogue& t, bool columns) {
  switch (t.activation) {
    case Activation::none: return finishes_of<Activation::none>(t, columns);
    case Activation::relu: return finishes_of<Activation::relu>(t, columns);
    case Activation::leaky_relu: return finishes_of<Activation::leaky_relu>(t, columns);
    case Activation::prelu: break;
  }
  return finishes_of<Activation::prelu>(t, columns);
}

// Rows of A from the nine taps, one after the other, of four rows of 16 pixels.
inline void gather_taps(const TileSource& from, int rows, int64_t c_in, bfloat16* to) {
  const int64_t values = 3 * c_in;
  __mmask32 mask[3];
  for (int ky = 0; ky < 3; ++ky) mask[ky] = ((1u << values) - 1u) << (ky * values);
  for (int r = 0; r < rows; ++r) {
    for (int64_t x = 0; x < kTileWidth; ++x, to += kTileDepth) {
      const auto taps = [&](int ky) {  // masked lanes are not read
        return _mm512_maskz_loadu_epi16(mask[ky], from.line[r + ky] + x * c_in - ky * values);
      };
      _mm512_store_si512(to, _mm512_or_si512(_mm512_or_si512(taps(0), taps(1)), taps(2)));
    }
  }
}

// Works out again what is not finite among the sums of a block, since zeros may have met infinity beyond the taps.
inline void repair_sums(const Conv& p, const WaitingSums& s, float* pixel) {
  constexpr int kNotFinite = 0x99;  // NaN of both kinds and infinity of both signs
  const int64_t left = p.tail.c - s.column;
  for (int r = 0; r < s.rows; ++r) {
    for (int x = 0; x < s.width; ++x) {
      float* z = s.z + (r * kTileWidth + x) * kTileColumns;
      if (!_mm512_fpclass_ps_mask(_mm512_loadu_ps(z), kNotFinite)) continue;
      for (int64_t j = 0; j < p.tail.c; ++j) pixel[j] = __builtin_nanf("");
      repair_pixels<bfloat16>(p, pixel, p.tail.c, s.row + r, s.end - s.width + x, 1);
      __builtin_memcpy(z, pixel + s.column, (left < kTileColumns ? left : kTileColumns) * sizeof(float));
    }
  }
}

struct TileBuffers {
  int64_t pixels;  // of a line that a block reads
  int64_t line;    // elements of a staged line
  int64_t sums_bytes, lines_bytes, rows_bytes, pixel_bytes, pixels_bytes;
};

inline TileBuffers tile_buffers(const Conv& p, bool columns) {
  TileBuffers b;
  const bool gather = gathers_taps(p.c_in);
  b.pixels = gather ? kTileWidth + 2 : block_pixels(p.c_in);
  b.line = round_up(b.pixels * p.c_in, kTileDepth);
  b.sums_bytes = kTileSums * 4;
  b.lines_bytes = (kMostLines + 1) * b.line * static_cast<int64_t>(sizeof(bfloat16));
  b.rows_bytes = gather ? kTileRows * kTileWidth * kTileRowBytes : 0;
  b.pixel_bytes = round_up(p.tail.c * 4, 64);
  b.pixels_bytes = columns ? 0 : kTileRows * kTileWidth * p.tail.c * 4;
  return b;
}

template <int kLines>
void tile_blocks(const Conv& p, int64_t begin, int64_t end) {
  const Epilogue tail = resolved_tail<bfloat16>(p);
  const int64_t h = tail.h, w = tail.w, c_in = p.c_in, steps = tile_steps(c_in), piece = tail.c / tail.r;
  const int64_t down = (h + kTileRows - 1) / kTileRows, across = (w + kTileWidth - 1) / kTileWidth;
  const bool columns = !tail.scatter && (tail.r == 1 || piece % kTileColumns == 0);
  const TileBuffers b = tile_buffers(p, columns);
  char* memory =
      static_cast<char*>(scratch(2, b.sums_bytes + b.lines_bytes + b.rows_bytes + b.pixel_bytes + b.pixels_bytes));
  float* sums = reinterpret_cast<float*>(memory);
  bfloat16* staged = reinterpret_cast<bfloat16*>(memory += b.sums_bytes);
  bfloat16* zeros = staged + kMostLines * b.line;
  bfloat16* gathered = reinterpret_cast<bfloat16*>(memory += b.lines_bytes);
  float* pixel = reinterpret_cast<float*>(memory += b.rows_bytes);
  float* pixels = reinterpret_cast<float*>(memory += b.pixel_bytes);
  __builtin_memset(static_cast<void*>(zeros), 0, b.line * sizeof(bfloat16));
  const Finishing finishing{.tail = tail,
                            .pixel_step = piece,
                            .row_step = tail.r * w * piece,
                            .pixels = pixels,
                            .scatter = scatter_picks(tail)};
  const Finishes finish = finishes(tail, columns);
  const Pick<bfloat16>* picks = input_picks<bfloat16>(p, false);
  const bool watch = kLines == 3 && 3 * c_in % kTileDepth != 0;
  const float* bias = packed_bias(p, const_cast<void*>(p.packed));
  const int64_t column_bytes = steps * kLines * kTileBytes;
  const int64_t ahead_bytes = bytes_ahead(c_in, tile_column_blocks(tail.c) * steps);

  configure_tiles(kWholeTiles);
  WaitingSums waiting{};
  for (int64_t block = begin; block < end; ++block) {
    const int64_t x = block % across * kTileWidth, y = block / across % down * kTileRows, n = block / (across * down);
    const int width = w - x < kTileWidth ? static_cast<int>(w - x) : kTileWidth;
    const int rows = h - y < kTileRows ? static_cast<int>(h - y) : kTileRows;
    const TileImage image{.values = static_cast<const bfloat16*>(p.x) + n * h * w * p.c_x,
                          .h = h,
                          .w = w,
                          .c = c_in,
                          .direct = !picks,
                          .pixels = b.pixels,
                          .line = b.line,
                          .copies = staged,
                          .outside = zeros};
    keep_order();
    TileSource a = block_lines(image, y, x, rows, [&](int64_t line, bfloat16* to) {
      copy_pixels(p, picks, image.values, line, x - 1, b.pixels, c_in, to);
    });
    if constexpr (kLines == 1) {
      gather_taps(a, rows, c_in, gathered);
      for (int r = 0; r < rows; ++r) a.line[r] = gathered + r * kTileWidth * kTileDepth;
      a.step = kTileDepth;
      a.in_place = false;
    }
    keep_order();
    for (int64_t column = 0; column < tail.c; column += kTileColumns) {
      const int64_t index = column / kTileColumns;
      const int64_t sub_row = columns ? column / piece : 0;
      const TileWork work{.weights = static_cast<const char*>(p.packed) + index * column_bytes,
                          .weight_row = kTileRowBytes,
                          .weight_line = kTileBytes,
                          .weight_step = kLines * kTileBytes,
                          .first = bias + column,
                          .steps = static_cast<int>(steps),
                          .rows = rows,
                          .z = sums,
                          .ahead = (kTileWidth + 2) * c_in * 2 + index * steps * ahead_bytes,
                          .ahead_bytes = a.in_place ? ahead_bytes : 0};
      multiply_block<kLines>(a, work, finishing, waiting);
      const int64_t row = n * h + y, in_piece = columns ? column - sub_row * piece : 0;
      waiting = {.finish = column + kTileColumns <= tail.c ? finish.whole : finish.rest,
                 .z = sums,
                 .at = ((row * tail.r + sub_row) * w + x) * piece + in_piece,
                 .row = row,
                 .column = column,
                 .end = static_cast<int>(x) + width,
                 .width = width,
                 .left = width,
                 .rows = rows,
                 .pixel = 0};
      if (watch) repair_sums(p, waiting, pixel);
    }
  }
  if (begin < end) waiting.finish(finishing, waiting, kTileRows * kTileWidth);
  release_tiles();
}
