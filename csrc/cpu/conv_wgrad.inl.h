// Gradient of a 3x3 convolution by its weight and bias, by Winograd F(2x2, 3x3) run backwards. Included once per
// instruction set, inside its namespace and target pragma.
//
//   dg = G^T [ sum over tiles of (B^T d B) * (A e A^T) ] G     d: 4x4 input pixels, e: 2x2 pixels of the gradient
//
// with the G, B and A of conv_winograd.inl.h, of whose formula this is the derivative: 16 products per four pixels
// instead of 36, and the transforms are of input and gradient.
//
// Plan. A part, the unit of work, is a run of tiles in raster order, with its own sums M[xi][row][column] of the 16
// products: parts follow from the shapes alone, so that no sum depends on threads. A block of tiles is transformed
// into V[xi][tile][input channel] and Z[xi][tile][output channel] in the L2 cache; then, product by product, the sums
// of R rows times a panel of columns stay in registers while the tiles of the block run, and are added to M. The side
// with the better filled vectors is the columns. At last parts are added up in their order and M becomes 3x3 taps. The
// sum of a tile of the gradient is Z of product (1, 1), which gives the bias.
//
// Against PyTorch's (benchmarks/conv3x3_gradients.py; Zen 4 with AVX-512 BF16, one thread, CPU time, medians of seven
// interleaved rounds on a busy machine), gradients by weight and bias take, as its time over ours: float32 1.5 to 1.65
// at 64 -> 64, 1.6 at 64 -> 48, 1.0 at 3 -> 64, 1.8 at 64 -> 3; bfloat16 0.9 to 1.1, 0.95, 0.65 and 2.1; float16 more
// than ten. There is one method all the same: with the gradient by the input, all of these shapes are ahead (1.1
// to 1.7), sums are the same whatever the threads, and PyTorch's bfloat16 kernel can wait for threads that never come.
//
// Operands are float32 whatever the dtype. What is not finite in a pixel of the input or gradient spreads to all nine
// taps of its channels, as infinity or NaN.

constexpr int64_t kGradTiles = 48;  // of a block, at most; fewer where that leaves few blocks
constexpr int64_t kLeastTiles = 16;
constexpr int64_t kGradGroup = 8;        // tiles whose pixels stay in the L1 cache while all channels are walked
constexpr int64_t kMostParts = 16;       // threads that can share the work
constexpr int64_t kPartBytes = 1 << 26;  // of all parts together
constexpr int64_t kGradRows = 24;        // a multiple of every R

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Rows at a time under `vectors` of columns: as many as the registers hold, or eight where that computes fewer rows
// that nobody has.
constexpr int kFewerRows = 8;
inline bool takes_fewer_rows(int64_t rows, int vectors) {
  return rows_at_once(vectors) > kFewerRows && round_up(rows, kFewerRows) < round_up(rows, rows_at_once(vectors));
}

// Multiplications of vectors per tile.
inline int64_t wgrad_cost(int64_t rows, int64_t columns) {
  int64_t cost = 0;
  for (int64_t left = vectors_of(columns); left > 0; left -= Vec::kPanel) {
    const int vectors = static_cast<int>(left < Vec::kPanel ? left : Vec::kPanel);
    cost += vectors * round_up(rows, takes_fewer_rows(rows, vectors) ? kFewerRows : rows_at_once(vectors));
  }
  return cost;
}

WeightGradPlan wgrad_plan(const WeightGrad& p) {
  WeightGradPlan plan{};
  plan.swapped = wgrad_cost(p.c_out, p.c_in) < wgrad_cost(p.c_in, p.c_out);
  plan.rows = plan.swapped ? p.c_out : p.c_in;
  plan.columns = plan.swapped ? p.c_in : p.c_out;
  plan.row_step = vectors_of(plan.columns) * Vec::kWidth;
  plan.product = round_up(plan.rows, kGradRows) * plan.row_step + 16;  // products do not share the same sets of a cache
  plan.part_sums = 16 * plan.product + vectors_of(p.c_out) * Vec::kWidth;
  const int64_t tiles = p.n * ((p.h + 1) / 2) * ((p.w + 1) / 2), shared = tiles / 64;
  plan.block_tiles = shared < kLeastTiles ? kLeastTiles : shared < kGradTiles ? shared : kGradTiles;
  const int64_t blocks = (tiles + plan.block_tiles - 1) / plan.block_tiles;
  const int64_t room = kPartBytes / (plan.part_sums * 8), most = room < kMostParts ? room : kMostParts;
  const int64_t wanted = blocks / 8 < most ? blocks / 8 : most, parts = wanted < 1 ? 1 : wanted;
  const int64_t part_blocks = (blocks + parts - 1) / parts;
  plan.part_tiles = part_blocks * plan.block_tiles;
  plan.parts = (blocks + part_blocks - 1) / part_blocks;
  return plan;
}

// Buffers of a block. Rows are as long as the side that they are for needs.
struct WeightGradBuffers {
  float *v, *z;
  int64_t v_row, v_product, z_row, z_product;  // in elements
};

// A line of pixels; one outside the image is zeros, all at the same place.
template <class T>
struct PixelLine {
  const T* first;
  int64_t step;
};

template <class T>
inline PixelLine<T> pixel_line(const T* image, const T* zeros, int64_t y, int64_t h, int64_t w, int64_t c) {
  return y >= 0 && y < h ? PixelLine<T>{image + y * w * c, c} : PixelLine<T>{zeros, 0};
}

template <bool kWhole, class T>
inline Vec load_pixel(const PixelLine<T>& line, int64_t x, int64_t w, int64_t c, int count) {
  if (x < 0 || x >= w) return Vec::set(0.0f);
  const T* at = line.first + x * line.step + c;
  return kWhole ? Vec::load(at) : Vec::load(at, count);
}

struct FourVecs {
  Vec v[4];
};

// Column x of four lines: B^T d.
template <bool kWhole, class T>
inline FourVecs input_column(const PixelLine<T> lines[4], int64_t x, int64_t w, int64_t c, int count) {
  Vec d[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) d[i] = load_pixel<kWhole>(lines[i], x, w, c, count);
  return {{sub(d[0], d[2]), add(d[1], d[2]), sub(d[2], d[1]), sub(d[1], d[3])}};
}

// V of `tiles` neighbouring tiles, one vector of channels; x: first column of the first.
template <bool kWhole, class T>
inline void transform_inputs(const PixelLine<T> lines[4], int64_t x, int64_t tiles, int64_t w, int64_t c, int count,
                             float* to, int64_t v_row, int64_t v_product) {
  FourVecs d0 = input_column<kWhole>(lines, x, w, c, count), d1 = input_column<kWhole>(lines, x + 1, w, c, count);
  for (int64_t t = 0; t < tiles; ++t, x += 2, to += v_row) {
    const FourVecs d2 = input_column<kWhole>(lines, x + 2, w, c, count);
    const FourVecs d3 = input_column<kWhole>(lines, x + 3, w, c, count);
    float* product = to;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i, product += 4 * v_product) {
      sub(d0.v[i], d2.v[i]).store(product);
      add(d1.v[i], d2.v[i]).store(product + v_product);
      sub(d2.v[i], d1.v[i]).store(product + 2 * v_product);
      sub(d1.v[i], d3.v[i]).store(product + 3 * v_product);
    }
    d0 = d2;
    d1 = d3;
  }
}

// Column x of two lines: A e.
template <bool kWhole, class T>
inline FourVecs gradient_column(const PixelLine<T> lines[2], int64_t x, int64_t w, int64_t c, int count) {
  const Vec upper = load_pixel<kWhole>(lines[0], x, w, c, count), lower = load_pixel<kWhole>(lines[1], x, w, c, count);
  return {{upper, add(upper, lower), sub(upper, lower), sub(Vec::set(0.0f), lower)}};
}

// Z of `tiles` neighbouring tiles, and the sum of their pixels.
template <bool kWhole, class T>
inline Vec transform_gradients(const PixelLine<T> lines[2], int64_t x, int64_t tiles, int64_t w, int64_t c, int count,
                               float* to, int64_t z_row, int64_t z_product) {
  const Vec zero = Vec::set(0.0f);
  Vec all = zero;
  for (int64_t t = 0; t < tiles; ++t, x += 2, to += z_row) {
    const FourVecs left = gradient_column<kWhole>(lines, x, w, c, count);
    const FourVecs right = gradient_column<kWhole>(lines, x + 1, w, c, count);
    float* product = to;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i, product += 4 * z_product) {
      const Vec sum = add(left.v[i], right.v[i]);
      if (i == 1) all = add(all, sum);
      left.v[i].store(product);
      sum.store(product + z_product);
      sub(left.v[i], right.v[i]).store(product + 2 * z_product);
      sub(zero, right.v[i]).store(product + 3 * z_product);
    }
  }
  return all;
}

// Tiles [tile, tile + count), all of one row of tiles, to place `at` of the buffers; adds to the sums of the bias.
template <class T>
void transform_run(const WeightGrad& p, const T* zeros, int64_t tile, int64_t count, int64_t at,
                   const WeightGradBuffers& b, double* bias) {
  const int64_t down = (p.h + 1) / 2, across = (p.w + 1) / 2;
  const int64_t row = tile / across, n = row / down, y = 2 * (row % down), x = 2 * (tile % across);
  const T* image = static_cast<const T*>(p.x) + n * p.h * p.w * p.c_in;
  const T* grads = static_cast<const T*>(p.grad) + n * p.h * p.w * p.c_out;
  PixelLine<T> above[4], lines[2];
  for (int i = 0; i < 4; ++i) above[i] = pixel_line(image, zeros, y - 1 + i, p.h, p.w, p.c_in);
  for (int i = 0; i < 2; ++i) lines[i] = pixel_line(grads, zeros, y + i, p.h, p.w, p.c_out);
  for (int64_t t = 0; t < count; t += kGradGroup) {
    const int64_t size = count - t < kGradGroup ? count - t : kGradGroup, col = x + 2 * t;
    float* v = b.v + (at + t) * b.v_row;
    float* z = b.z + (at + t) * b.z_row;
    for (int64_t c = 0; c < p.c_in; c += Vec::kWidth) {
      if (c + Vec::kWidth <= p.c_in)
        transform_inputs<true>(above, col - 1, size, p.w, c, Vec::kWidth, v + c, b.v_row, b.v_product);
      else
        transform_inputs<false>(above, col - 1, size, p.w, c, static_cast<int>(p.c_in - c), v + c, b.v_row,
                                b.v_product);
    }
    for (int64_t c = 0; c < p.c_out; c += Vec::kWidth) {
      const int left = static_cast<int>(p.c_out - c);
      const Vec sum = c + Vec::kWidth <= p.c_out
                          ? transform_gradients<true>(lines, col, size, p.w, c, left, z + c, b.z_row, b.z_product)
                          : transform_gradients<false>(lines, col, size, p.w, c, left, z + c, b.z_row, b.z_product);
      add_to(bias + c, sum);
    }
  }
}

// m[r][v] += sum over tiles of rows[tile][r] * columns[tile][v]
template <int R, int NV>
inline void add_tiles(const float* rows, int64_t row_step, const float* columns, int64_t column_step, int64_t tiles,
                      double* m, int64_t m_row) {
  Vec sum[R][NV];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) sum[r][v] = Vec::set(0.0f);
  for (int64_t t = 0; t < tiles; ++t, rows += row_step, columns += column_step) {
    Vec column[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) column[v] = Vec::load(columns + v * Vec::kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec row = Vec::set(rows[r]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) sum[r][v] = fma(row, column[v], sum[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) add_to(m + r * m_row + v * Vec::kWidth, sum[r][v]);
}

template <int R, int NV>
void add_rows(const float* rows, int64_t row_step, const float* columns, int64_t column_step, int64_t tiles,
              int64_t count, double* m, int64_t m_row) {
  static_assert(kGradRows % R == 0);
  for (int64_t r = 0; r < count; r += R)
    add_tiles<R, NV>(rows + r, row_step, columns, column_step, tiles, m + r * m_row, m_row);
}

template <int NV>
void add_panel(const float* rows, int64_t row_step, const float* columns, int64_t column_step, int64_t tiles,
               int64_t count, double* m, int64_t m_row) {
  constexpr int R = rows_at_once(NV);
  if constexpr (R > kFewerRows) {
    if (takes_fewer_rows(count, NV))
      return add_rows<kFewerRows, NV>(rows, row_step, columns, column_step, tiles, count, m, m_row);
  }
  add_rows<R, NV>(rows, row_step, columns, column_step, tiles, count, m, m_row);
}

// One product of a block onto m.
inline void add_product(const WeightGradPlan& plan, const float* rows, int64_t row_step, const float* columns,
                        int64_t column_step, int64_t tiles, double* m) {
  const int64_t vectors = vectors_of(plan.columns);
  for (int64_t v = 0; v < vectors; v += Vec::kPanel) {
    const int64_t wide = vectors - v < Vec::kPanel ? vectors - v : Vec::kPanel, at = v * Vec::kWidth;
    const auto panel = [&](auto add_vectors) {
      add_vectors(rows, row_step, columns + at, column_step, tiles, plan.rows, m + at, plan.row_step);
    };
    if (wide == 1) {
      panel(add_panel<1>);
    } else if (wide == 2) {
      panel(add_panel<2>);
    } else if constexpr (Vec::kPanel > 2) {
      panel(wide == 3 ? add_panel<3> : add_panel<4>);
    }
  }
}

template <class T>
void wgrad_parts_typed(const WeightGrad& p, int64_t begin, int64_t end) {
  const WeightGradPlan& plan = p.plan;
  const int64_t across = (p.w + 1) / 2, all = p.n * ((p.h + 1) / 2) * across;
  const int64_t channels = p.c_in > p.c_out ? p.c_in : p.c_out;
  WeightGradBuffers b;
  b.v_row = round_up(p.c_in, Vec::kWidth);
  b.z_row = round_up(p.c_out, Vec::kWidth);
  b.v_product = kGradTiles * b.v_row + 16;  // the last R rows may begin before the end and read beyond it
  b.z_product = kGradTiles * b.z_row + 16;
  const int64_t v_floats = 16 * b.v_product, z_floats = 16 * b.z_product;
  const int64_t bytes = (v_floats + z_floats) * 4 + channels * static_cast<int64_t>(sizeof(T));
  b.v = static_cast<float*>(scratch(2, bytes));
  b.z = b.v + v_floats;
  T* zeros = reinterpret_cast<T*>(b.z + z_floats);
  __builtin_memset(static_cast<void*>(zeros), 0, channels * sizeof(T));
  for (int64_t part = begin; part < end; ++part) {
    double* m = p.parts + part * plan.part_sums;
    __builtin_memset(m, 0, plan.part_sums * sizeof(double));
    const int64_t first = part * plan.part_tiles, last = first + plan.part_tiles < all ? first + plan.part_tiles : all;
    for (int64_t block = first; block < last; block += plan.block_tiles) {
      const int64_t tiles = last - block < plan.block_tiles ? last - block : plan.block_tiles;
      for (int64_t t = 0; t < tiles;) {
        const int64_t left = across - (block + t) % across, run = left < tiles - t ? left : tiles - t;
        transform_run<T>(p, zeros, block + t, run, t, b, m + 16 * plan.product);
        t += run;
      }
      for (int xi = 0; xi < 16; ++xi) {
        const float *v = b.v + xi * b.v_product, *z = b.z + xi * b.z_product;
        plan.swapped ? add_product(plan, z, b.z_row, v, b.v_row, tiles, m + xi * plan.product)
                     : add_product(plan, v, b.v_row, z, b.z_row, tiles, m + xi * plan.product);
      }
    }
  }
}

// One row or column of G^T m G.
inline void tap_sums(const double (*m)[Vec::kWidth], int step, double (*taps)[Vec::kWidth], int tap_step) {
  for (int l = 0; l < Vec::kWidth; ++l) {
    const double sum = 0.5 * (m[step][l] + m[2 * step][l]);
    taps[0][l] = m[0][l] + sum;
    taps[tap_step][l] = 0.5 * (m[step][l] - m[2 * step][l]);
    taps[2 * tap_step][l] = sum + m[3 * step][l];
  }
}

template <class T>
void wgrad_sum_typed(const WeightGrad& p, int64_t begin, int64_t end) {
  const WeightGradPlan& plan = p.plan;
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t column = 0; column < plan.columns; column += Vec::kWidth) {
      double m[16][Vec::kWidth] = {}, half[12][Vec::kWidth], taps[9][Vec::kWidth];
      for (int xi = 0; xi < 16; ++xi) {
        const double* from = p.parts + xi * plan.product + row * plan.row_step + column;
        for (int64_t part = 0; part < plan.parts; ++part, from += plan.part_sums)
          for (int l = 0; l < Vec::kWidth; ++l) m[xi][l] += from[l];
      }
      for (int j = 0; j < 4; ++j) tap_sums(m + j, 4, half + j, 4);             // columns: 4 x 4 to 3 x 4
      for (int i = 0; i < 3; ++i) tap_sums(half + 4 * i, 1, taps + 3 * i, 1);  // rows: to 3 x 3
      for (int64_t l = 0; l < Vec::kWidth && column + l < plan.columns; ++l) {
        const int64_t co = plan.swapped ? row : column + l, ci = plan.swapped ? column + l : row;
        T* to = static_cast<T*>(p.grad_weight) + (co * p.c_in + ci) * 9;
        for (int tap = 0; tap < 9; ++tap) to[tap] = from_float<T>(static_cast<float>(taps[tap][l]));
      }
    }
  }
  if (begin > 0) return;
  for (int64_t co = 0; co < p.c_out; ++co) {
    double sum = 0.0;
    for (int64_t part = 0; part < plan.parts; ++part) sum += p.parts[part * plan.part_sums + 16 * plan.product + co];
    static_cast<T*>(p.grad_bias)[co] = from_float<T>(static_cast<float>(sum));
  }
}

void wgrad_parts(const WeightGrad& p, int64_t begin, int64_t end) {
  with_type(p.dtype, [&](auto element) { wgrad_parts_typed<decltype(element)>(p, begin, end); });
}

void wgrad_sum(const WeightGrad& p, int64_t begin, int64_t end) {
  with_type(p.dtype, [&](auto element) { wgrad_sum_typed<decltype(element)>(p, begin, end); });
}
