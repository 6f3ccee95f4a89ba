// Winograd F(3x3, 3x3) and F(4x4, 3x3): the transforms around the products. Included once per instruction set, inside
// its namespace and target pragma.
//
//   Y = A^T [ (G g G^T) * (B^T d B) ] A     d: K x K input pixels, Y: M x M sums, K = M + 2
//   M = 3: the points 3/8, -3/8, 41/32, -41/32 and infinity
//   M = 4: the points 0, 1, -1, 2, -2 and infinity
//   (A. Lavin, S. Gray: Fast Algorithms for Convolutional Neural Networks, CVPR 2016, arXiv:1509.09308)
//
// The points of M = 3 are those, in steps of 1/32, that let the least of the rounding of operands through: 2.6 times as
// much as the direct method, where 0, 1, -1, 2 and infinity have 6, and F(2x2, 3x3) has 1.7 for 1.44 times as many
// products.
//
// Plan. A block of tiles, neighbours in raster order, goes through two buffers in the L2 cache: V[xi][tile][k] (the
// transformed input) and M[xi][tile][column] (products of one chunk of columns). The sums of a tile are finished in
// registers and stored where they belong. Sums that are no whole vectors there, because channels are scattered or
// shuffled in odd numbers, go through a third buffer. Tiles of one row share two of their pixel columns: each pixel
// column is loaded and transformed once per group of tiles, picked channels included, so that no gathered copy of the
// image exists; nor does a padded one, since pixels outside the image are zeros.
//
// Error, as relative L2 error of the sums for values of zero mean. F(3x3) in float32: 4.0e-7 at 64 channels and 4.1e-7
// at 300 (4.3e-7 and 4.4e-7 where a multiplication rounds before its sum does, as in portable code on x86), where
// PyTorch's direct convolution has 2.1e-7 to 9e-7, depending on how the CPU lets it block its sums.
// F(4x4): 1.7e-6 at 64 as at 300 channels; the largest error is 4e-6 to 7e-6 of the largest sum, some six times that of
// the direct convolution at 64 channels. Tests hold it to 4e-6 and 1e-5. With bfloat16 operands (AVX-512 BF16) the
// transformed pixels and weights are rounded once each, which the direct method does not do: 5.5e-3, next to 1.7e-3 of
// rounding the output; weights are rounded together (conv_pack.inl.h), else it would be 6.2e-3. It takes half the time
// of float32 operands, and BasicVSR x4 on a real clip comes out 55.2 dB from its float32 output, against 55.9 dB of
// PyTorch under the same autocast. F(4x4) with bfloat16 operands would be off by 1.1e-2 with the best points there are.
//
// A pixel takes part in all sums of its tile, where it cancels but for rounding: beside a pixel a million times as
// large, small ones are lost. What is not finite differs: infinity minus infinity, or an overflow of the transform,
// give NaN where the direct method gives infinity, or has nothing to do with it. Such pixels are worked out again by
// the direct method, so that NaN and infinity appear where PyTorch has them.

constexpr int kTileGroup = 8;  // tiles whose pixels stay in the L1 cache while all channels are walked

// K values of a one-dimensional transform.
template <class V, int K>
struct Line {
  V v[K];
};

// A tile of K x K pixels, from which M x M sums come: columns shared with the next tile, columns before the first sum
// of a 3x3 kernel or of a 4x4 piece of a 7x7 one (conv_pieces.inl.h).
template <int kPixels, int kOfSums>
struct Tile {
  static constexpr int K = kPixels, M = kOfSums;
  static constexpr int kProducts = K * K, kOverlap = K - M, kMargin = kOverlap == 2 ? 1 : 3;
};

// The points 3/8, -3/8, 41/32, infinity and -41/32.
template <class V>
inline Line<V, 5> transform_input(const Line<V, 5>& d) {
  const V a = V::set(0.375f), minus_a2 = V::set(-0.140625f), b = V::set(1.28125f), minus_b2 = V::set(-1.6416015625f);
  const V even_a = fma(minus_b2, d.v[0], d.v[2]), odd_a = fma(minus_b2, d.v[1], d.v[3]);
  const V even_b = fma(minus_a2, d.v[0], d.v[2]), odd_b = fma(minus_a2, d.v[1], d.v[3]);
  const V infinity = fma(minus_b2, even_b, fma(minus_a2, d.v[2], d.v[4]));
  return {
      {fma(a, even_a, odd_a), sub(odd_a, mul(a, even_a)), fma(b, even_b, odd_b), infinity, sub(odd_b, mul(b, even_b))}};
}
inline Line<Vec, 6> transform_input(const Line<Vec, 6>& d) {
  const Vec two = Vec::set(2.0f), minus_two = Vec::set(-2.0f), four = Vec::set(4.0f), minus_four = Vec::set(-4.0f);
  const Vec a = fma(minus_four, d.v[2], d.v[4]), b = fma(minus_four, d.v[1], d.v[3]);
  const Vec e = sub(d.v[4], d.v[2]), o = sub(d.v[3], d.v[1]);
  return {{fma(four, sub(d.v[0], d.v[2]), e), add(a, b), sub(a, b), fma(two, o, e), fma(minus_two, o, e),
           fma(minus_four, o, sub(d.v[5], d.v[3]))}};
}
// The points of six pixels, and 1/2 at the end. Its row is the polynomial that is zero at all others; theirs are those
// without it times x - 1/2.
inline Line<Vec, 7> transform_input(const Line<Vec, 7>& d) {
  Line<Vec, 6> e;
#pragma GCC unroll 8
  for (int i = 0; i < 6; ++i) e.v[i] = fma(Vec::set(-0.5f), d.v[i], d.v[i + 1]);
  const Line<Vec, 6> t = transform_input(e);
  const Vec half = fma(Vec::set(-4.0f), sub(d.v[3], d.v[1]), sub(d.v[5], d.v[3]));
  return {{t.v[0], t.v[1], t.v[2], t.v[3], t.v[4], t.v[5], half}};
}

inline void transform_sums(const Line<Vec, 5>& m, Line<Vec, 2>& y) {
  const Vec sum = add(add(m.v[0], m.v[1]), add(m.v[2], m.v[4]));
  y = {{sum, fma(Vec::set(1.28125f), sub(m.v[2], m.v[4]), fma(Vec::set(0.375f), sub(m.v[0], m.v[1]), m.v[3]))}};
}
inline void transform_sums(const Line<Vec, 5>& m, Line<Vec, 3>& y) {
  const Vec s1 = add(m.v[0], m.v[1]), d1 = sub(m.v[0], m.v[1]), s2 = add(m.v[2], m.v[4]), d2 = sub(m.v[2], m.v[4]);
  y = {{add(s1, s2), fma(Vec::set(1.28125f), d2, mul(Vec::set(0.375f), d1)),
        fma(Vec::set(1.6416015625f), s2, fma(Vec::set(0.140625f), s1, m.v[3]))}};
}
inline void transform_sums(const Line<Vec, 6>& m, Line<Vec, 4>& y) {
  const Vec s1 = add(m.v[1], m.v[2]), d1 = sub(m.v[1], m.v[2]), s2 = add(m.v[3], m.v[4]), d2 = sub(m.v[3], m.v[4]);
  y = {{add(add(m.v[0], s1), s2), fma(Vec::set(2.0f), d2, d1), fma(Vec::set(4.0f), s2, s1),
        add(fma(Vec::set(8.0f), d2, d1), m.v[5])}};
}
inline void transform_sums(const Line<Vec, 7>& m, Line<Vec, 4>& y) {
  transform_sums(Line<Vec, 6>{{m.v[0], m.v[1], m.v[2], m.v[3], m.v[4], m.v[5]}}, y);
  y = {{add(y.v[0], m.v[6]), fma(Vec::set(0.5f), m.v[6], y.v[1]), fma(Vec::set(0.25f), m.v[6], y.v[2]),
        fma(Vec::set(0.125f), m.v[6], y.v[3])}};
}

// Lines of pixels that K rows of tiles' pixels lie in, null where they lie outside the image.
template <class T, int K>
struct TileLines {
  const T* line[K];
};

template <int K, class T>
inline TileLines<T, K> tile_lines(const T* image, int64_t top, int64_t h, int64_t w, int64_t c) {
  TileLines<T, K> lines;
  for (int i = 0; i < K; ++i) lines.line[i] = top + i >= 0 && top + i < h ? image + (top + i) * w * c : nullptr;
  return lines;
}

// How the channels of a vector are loaded from a pixel: all of a vector, the first few, or picked ones; and where that
// begins.
template <class V, class T>
struct LoadWhole {
  int64_t channel;
  V operator()(const T* pixel) const { return V::load(pixel + channel); }
  const T* place(const T* pixel) const { return pixel + channel; }
};
template <class T>
struct LoadSome {
  int64_t channel;
  int count;
  Vec operator()(const T* pixel) const { return Vec::load(pixel + channel, count); }
  const T* place(const T* pixel) const { return pixel + channel; }
};
template <class V, class T>
struct LoadPicked {
  const Pick<T>* pick;
  int64_t about;  // where numbers that rise evenly would begin
  V operator()(const T* pixel) const { return V::load(*pick, pixel); }
  const T* place(const T* pixel) const { return pixel + about; }
};

// A column of one vector of channels, transformed; at: its pixels.
template <int K, class V, class T, class Load>
inline Line<V, K> load_column(const T* const at[K], int64_t offset, bool inside, const Load& load) {
  Line<V, K> d;
  if (!inside) {
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i) d.v[i] = V::set(0.0f);
    return d;
  }
#pragma GCC unroll 8
  for (int i = 0; i < K; ++i) d.v[i] = load(at[i] + offset);
  return transform_input(d);
}

// One vector of channels of up to kTileGroup neighbouring tiles, the first of which begins at column x. What the loop
// reads besides pixels is copied to variables of its own, which stores of vectors cannot change.
template <class Tile, class V, class T, class E, class Load>
inline void transform_group(const TileLines<T, Tile::K>& lines, const T* zeros, int64_t x, int64_t tiles, int64_t w,
                            int64_t c, const Load given, bool prefetch, E* to, int64_t v_row, int64_t v_product) {
  constexpr int K = Tile::K, kM = Tile::M, kOverlap = Tile::kOverlap;
  const Load load = given;
  const T* at[K];
#pragma GCC unroll 8
  for (int i = 0; i < K; ++i) at[i] = lines.line[i] ? lines.line[i] + x * c : zeros;
  Line<V, K> d[K];
#pragma GCC unroll 4
  for (int j = 0; j < kOverlap; ++j) d[j] = load_column<K, V>(at, j * c, x + j >= 0 && x + j < w, load);
  for (int64_t t = 0; t < tiles; ++t, x += kM, to += v_row) {
#pragma GCC unroll 4
    for (int j = kOverlap; j < K; ++j) {
      if (prefetch) {  // the same tile of the next group; what lies outside the image is not touched by that
#pragma GCC unroll 8
        for (int i = 0; i < K; ++i) __builtin_prefetch(load.place(at[i] + (j + kM * kTileGroup) * c));
      }
      d[j] = load_column<K, V>(at, j * c, x + j < w, load);
    }
    E* product = to;
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i) {
      Line<V, K> row;
#pragma GCC unroll 8
      for (int j = 0; j < K; ++j) row.v[j] = d[j].v[i];
      row = transform_input(row);
#pragma GCC unroll 8
      for (int j = 0; j < K; ++j, product += v_product) row.v[j].store(product);
    }
#pragma GCC unroll 4
    for (int j = 0; j < kOverlap; ++j) d[j] = d[kM + j];
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i) at[i] += kM * c;
  }
}

// Tiles [tx, tx + tiles) of one row of tiles to v, the place of the first.
template <class Tile, class T, class E>
void transform_tiles(const TileLines<T, Tile::K>& lines, const T* zeros, const Pick<T>* picks, int64_t tx,
                     int64_t tiles, int64_t w, int64_t c_x, int64_t c_in, E* v, int64_t v_row, int64_t v_product) {
  for (int64_t group = 0; group < tiles; group += kTileGroup) {
    const int64_t size = tiles - group < kTileGroup ? tiles - group : kTileGroup;
    const int64_t x = Tile::M * (tx + group) - Tile::kMargin;
    E* to = v + group * v_row;
    int64_t c = 0;
#if defined(VSR_BF16_DOT)
    if constexpr (sizeof(E) == 2) {
      for (; c + VecPair::kWidth <= c_in; c += VecPair::kWidth) {
        if (picks) {
          const LoadPicked<VecPair, T> load{picks + c / Vec::kWidth, c * c_x / c_in};
          transform_group<Tile, VecPair>(lines, zeros, x, size, w, c_x, load, true, to + c, v_row, v_product);
        } else {
          const LoadWhole<VecPair, T> load{c};
          transform_group<Tile, VecPair>(lines, zeros, x, size, w, c_x, load, true, to + c, v_row, v_product);
        }
      }
    }
#endif
    for (; c < c_in; c += Vec::kWidth) {
      if (picks) {
        const LoadPicked<Vec, T> load{picks + c / Vec::kWidth, c * c_x / c_in};
        transform_group<Tile, Vec>(lines, zeros, x, size, w, c_x, load, true, to + c, v_row, v_product);
      } else if (c + Vec::kWidth <= c_in) {
        const bool prefetch = c * sizeof(T) % 64 == 0;
        transform_group<Tile, Vec>(lines, zeros, x, size, w, c_x, LoadWhole<Vec, T>{c}, prefetch, to + c, v_row,
                                   v_product);
      } else {
        const LoadSome<T> load{c, static_cast<int>(c_in - c)};
        transform_group<Tile, Vec>(lines, zeros, x, size, w, c_x, load, false, to + c, v_row, v_product);
      }
    }
  }
}

// One vector of columns of one tile: K x K products to M x M sums. The bias joins product (1, 1), which every sum
// contains once where 1 is the second point.
template <class Tile>
inline void transform_products(const float* m, int64_t m_product, int count, Vec bias,
                               Line<Vec, Tile::M> sums[Tile::M]) {
  constexpr int K = Tile::K, kM = Tile::M;
  Line<Vec, kM> half[K];
#pragma GCC unroll 8
  for (int j = 0; j < K; ++j) {
    Line<Vec, K> column;
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i) column.v[i] = load_some(m + (i * K + j) * m_product, count);
    if (K != 5 && j == 1) column.v[1] = add(column.v[1], bias);
    transform_sums(column, half[j]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kM; ++i) {
    Line<Vec, K> row;
#pragma GCC unroll 8
    for (int j = 0; j < K; ++j) row.v[j] = half[j].v[i];
    transform_sums(row, sums[i]);
    if constexpr (K == 5) {
#pragma GCC unroll 4
      for (int j = 0; j < kM; ++j) sums[i].v[j] = add(sums[i].v[j], bias);
    }
  }
}

template <int kM>
inline Vec sum_of(const Line<Vec, kM> sums[kM]) {
  Vec all[kM];
#pragma GCC unroll 4
  for (int i = 0; i < kM; ++i) {
    all[i] = add(sums[i].v[0], sums[i].v[1]);
    if constexpr (kM == 3) all[i] = add(all[i], sums[i].v[2]);
    if constexpr (kM == 4) all[i] = add(all[i], add(sums[i].v[2], sums[i].v[3]));
  }
  if constexpr (kM == 2) return add(all[0], all[1]);
  if constexpr (kM == 3) return add(add(all[0], all[1]), all[2]);
  if constexpr (kM == 4) return add(add(all[0], all[1]), add(all[2], all[3]));
}

// The sums of a tile, of which `high` x `wide` pixels lie in the image.
template <class T, bool kWhole, int kM>
inline void finish_pixels(const Epilogue& to, const Line<Vec, kM> sums[kM], int64_t column, int64_t place, int64_t line,
                          int64_t piece, int lanes, int64_t high, int64_t wide) {
  if constexpr (kWhole) lanes = Vec::kWidth;
  const Vec slope = to.slopes ? load_some(to.slopes + column, lanes) : Vec::set(to.slope);
  const T* residual = static_cast<const T*>(to.residual) + place;
  T* out = static_cast<T*>(to.out) + place;
  if (to.residual) {  // that of the next tile is asked for, which at the end of a row is any place but the right one
#pragma GCC unroll 4
    for (int i = 0; i < kM; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < kM; ++j) __builtin_prefetch(residual + i * line + (kM + j) * piece);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kM; ++i) {
    if (!kWhole && i >= high) break;
#pragma GCC unroll 4
    for (int j = 0; j < kM; ++j) {
      if (!kWhole && j >= wide) break;
      const int64_t at = i * line + j * piece;
      if (to.kept) store_some(sums[i].v[j], static_cast<T*>(to.kept) + place + at, lanes);
      store_some(finished(to, to.activation, sums[i].v[j], slope, to.residual ? residual + at : nullptr, lanes),
                 out + at, lanes);
    }
  }
}

template <class T, int kM>
inline void finish_tile(const Epilogue& to, const Line<Vec, kM> sums[kM], int64_t column, int64_t place, int64_t line,
                        int64_t piece, int lanes, int64_t high, int64_t wide) {
  if (lanes == Vec::kWidth && high >= kM && wide >= kM) {
    finish_pixels<T, true, kM>(to, sums, column, place, line, piece, lanes, high, wide);
  } else {
    finish_pixels<T, false, kM>(to, sums, column, place, line, piece, lanes, high, wide);
  }
}

struct WinogradBuffers {
  int64_t v_row, v_product, m_row, m_product, z_step;  // in elements
  int64_t v_bytes, m_bytes, z_bytes, zero_bytes;
};

// The distance between products is no multiple of a power of two, so that they do not share the same sets of a cache.
inline WinogradBuffers winograd_buffers(const Conv& p, int64_t operand_bytes, int64_t element_bytes) {
  WinogradBuffers b;
  const auto whole = [](int64_t bytes) { return (bytes + 63) / 64 * 64; };
  const int64_t products = p.plan.products, pixels = p.plan.sums * p.plan.sums;
  const int64_t rows = (p.plan.block_rows + kRowMultiple - 1) / kRowMultiple * kRowMultiple;
  b.v_row = whole_vectors(p.c_in);
  b.v_product = rows * b.v_row + 64 / operand_bytes;
  b.m_row = whole_vectors(p.tail.c < kChunk ? p.tail.c : kChunk);
  b.m_product = rows * b.m_row + 16;
  b.z_step = whole_vectors(p.tail.c);
  b.v_bytes = whole(products * b.v_product * operand_bytes);
  b.m_bytes = whole(products * b.m_product * 4);
  b.z_bytes = whole(pixels * p.plan.block_rows * b.z_step * 4);
  b.zero_bytes = whole((p.plan.sums * kTileGroup + 2) * p.c_x * element_bytes);  // of a line of a group of tiles
  return b;
}

// A block of tiles in its buffers.
template <class T, class E, int kM>
struct WinogradBlock {
  using Cut = Tile<kM + 2, kM>;
  const Conv& p;
  const Epilogue& tail;
  const Pick<T>* picks;
  WinogradBuffers b;
  E* v;      // [xi][tile][k]
  float* m;  // [xi][tile][column]
  float* z;  // [sub-row][tile][sub-column][column]
  const T* zeros;
  const float* bias;
  int64_t first, tiles;

  // f(n, ty, tx, tiles, index in the block) for every piece of a tile row.
  template <class F>
  void each_run(F f) const {
    const int64_t down = (tail.h + kM - 1) / kM, across = (tail.w + kM - 1) / kM;
    for (int64_t at = 0; at < tiles;) {
      const int64_t row = (first + at) / across, tx = (first + at) % across;
      const int64_t count = across - tx < tiles - at ? across - tx : tiles - at;
      f(row / down, row % down, tx, count, at);
      at += count;
    }
  }

  void transform_pixels() const {
    each_run([&](int64_t n, int64_t ty, int64_t tx, int64_t count, int64_t at) {
      const T* image = static_cast<const T*>(p.x) + n * tail.h * tail.w * p.c_x;
      const TileLines<T, Cut::K> lines = tile_lines<Cut::K>(image, kM * ty - 1, tail.h, tail.w, p.c_x);
      transform_tiles<Cut>(lines, zeros, picks, tx, count, tail.w, p.c_x, p.c_in, v + at * b.v_row, b.v_row,
                           b.v_product);
    });
    for (int64_t t = tiles; t % 8 != 0 || t % 12 != 0; ++t)  // what registers hold beyond the last tile
      for (int xi = 0; xi < Cut::kProducts; ++xi)
        __builtin_memset(static_cast<void*>(v + xi * b.v_product + t * b.v_row), 0, b.v_row * sizeof(E));
  }

  int64_t columns_of(int64_t chunk) const {
    const int64_t left = tail.c - chunk * kChunk;
    return left < kChunk ? left : kChunk;
  }

  void multiply_chunk(int64_t chunk) const {
    const int64_t columns = columns_of(chunk), vectors = vectors_of(columns);
    const E* weights = static_cast<const E*>(p.packed) + packed_chunk(p.plan, chunk);
    for (int xi = 0; xi < Cut::kProducts; ++xi)
      multiply(Rows<E>{v + xi * b.v_product, tiles, b.v_row, p.plan.k}, weights + packed_product(p.plan, vectors, xi),
               m + xi * b.m_product, b.m_row, columns, nullptr);
  }

  // Sums of a chunk go straight to the output if it has whole vectors of them next to each other. NaN if one of them is
  // not finite. What the loops read besides sums is copied to variables of their own, which stores cannot change.
  Vec finish_chunk(int64_t chunk) const {
    const Epilogue to = tail;
    const float* products = m;
    const float* biases = bias + chunk * kChunk;
    const int64_t m_row = b.m_row, m_product = b.m_product, columns = columns_of(chunk), first_column = chunk * kChunk;
    const int64_t piece = to.c / to.r, line = to.w * to.c;
    Vec watch = Vec::set(0.0f);
    each_run([&](int64_t n, int64_t ty, int64_t tx, int64_t count, int64_t at) {
      for (int64_t t = 0; t < count; ++t) {
        const int64_t y = kM * ty, x = kM * (tx + t), high = to.h - y, wide = to.w - x;
        const int64_t pixel = (n * to.h + y) * line + x * piece;
        for (int64_t c = 0; c < columns; c += Vec::kWidth) {
          const int lanes = columns - c < Vec::kWidth ? static_cast<int>(columns - c) : Vec::kWidth;
          const int64_t column = first_column + c;
          Line<Vec, kM> sums[kM];
          transform_products<Cut>(products + (at + t) * m_row + c, m_product, lanes, Vec::load(biases + c), sums);
          watch = fma(sum_of<kM>(sums), Vec::set(0.0f), watch);
          const int64_t place = pixel + column + column / piece * piece * (to.w - 1);
          finish_tile<T, kM>(to, sums, column, place, line, piece, lanes, high, wide);
        }
      }
    });
    return watch;
  }

  // Sums of a chunk to z. NaN if one of them is not finite.
  Vec collect_chunk(int64_t chunk) const {
    const int64_t z_tile = kM * b.z_step, z_line = p.plan.block_rows * z_tile, z_step = b.z_step,
                  columns = columns_of(chunk);
    const int64_t m_row = b.m_row, m_product = b.m_product;
    const float *products = m, *biases = bias + chunk * kChunk;
    float* tile = z + chunk * kChunk;
    Vec watch = Vec::set(0.0f);
    for (int64_t t = 0; t < tiles; ++t, tile += z_tile) {
      for (int64_t c = 0; c < columns; c += Vec::kWidth) {
        const int count = c + Vec::kWidth <= columns ? Vec::kWidth : static_cast<int>(columns - c);
        Line<Vec, kM> sums[kM];
        transform_products<Cut>(products + t * m_row + c, m_product, count, Vec::load(biases + c), sums);
        float* to = tile + c;
#pragma GCC unroll 4
        for (int i = 0; i < kM; ++i)
#pragma GCC unroll 4
          for (int j = 0; j < kM; ++j) sums[i].v[j].store(to + i * z_line + j * z_step);
        watch = fma(sum_of<kM>(sums), Vec::set(0.0f), watch);
      }
    }
    return watch;
  }

  void finish_z(bool finite, const Pick<float>* scatter) const {
    each_run([&](int64_t n, int64_t ty, int64_t tx, int64_t count, int64_t at) {
      const int64_t col = kM * tx, pixels = col + kM * count <= tail.w ? kM * count : tail.w - col;
      for (int64_t i = 0; i < kM && kM * ty + i < tail.h; ++i) {
        float* sums = z + (i * p.plan.block_rows + at) * kM * b.z_step;
        const int64_t row = n * tail.h + kM * ty + i;
        if (!finite) repair_pixels<T>(p, sums, b.z_step, row, col, pixels);
        epilogue<T>(tail, {sums, b.z_step, row, col, pixels}, scatter);
      }
    });
  }
};

template <class T, class E, int kM>
void winograd_blocks(const Conv& p, int64_t begin, int64_t end) {
  const Epilogue tail = resolved_tail<T>(p);
  const ConvPlan& plan = p.plan;
  const WinogradBuffers b = winograd_buffers(p, sizeof(E), sizeof(T));
  const int64_t all = tail.n * ((tail.h + kM - 1) / kM) * ((tail.w + kM - 1) / kM);
  char* memory = static_cast<char*>(scratch(2, b.v_bytes + b.m_bytes + b.z_bytes + b.zero_bytes));
  char *m = memory + b.v_bytes, *z = m + b.m_bytes, *zeros = z + b.z_bytes;
  __builtin_memset(zeros, 0, b.zero_bytes);
  const Pick<float>* scatter = scatter_picks(tail);
  // In an image of one line most of a tile is nothing, whose rounding would be too much for the sums of so few
  // products: they are found by the direct method.
  const bool one_line = tail.h == 1 || tail.w == 1;
  const bool straight = !one_line && !scatter && (tail.r == 1 || tail.c / tail.r % Vec::kWidth == 0);
  WinogradBlock<T, E, kM> block{p,
                                tail,
                                input_picks<T>(p, sizeof(E) == 2),
                                b,
                                reinterpret_cast<E*>(memory),
                                reinterpret_cast<float*>(m),
                                reinterpret_cast<float*>(z),
                                reinterpret_cast<const T*>(zeros),
                                packed_bias(p, const_cast<void*>(p.packed)),
                                0,
                                0};
  for (int64_t i = begin; i < end; ++i) {
    block.first = i * plan.block_rows;
    block.tiles = all - block.first < plan.block_rows ? all - block.first : plan.block_rows;
    block.transform_pixels();
    if (straight) {
      Vec watch = Vec::set(0.0f);
      for (int64_t chunk = 0; chunk * kChunk < tail.c; ++chunk) {
        block.multiply_chunk(chunk);
        watch = add(watch, block.finish_chunk(chunk));
      }
      if (watch.sum() == 0.0f) continue;  // else once more, by way of z
    }
    Vec watch = Vec::set(0.0f);
    for (int64_t chunk = 0; chunk * kChunk < tail.c; ++chunk) {
      block.multiply_chunk(chunk);
      watch = add(watch, block.collect_chunk(chunk));
    }
    if (one_line) {
      for (int64_t i = 0; i < b.z_bytes / 4; ++i) block.z[i] = __builtin_nanf("");
    }
    block.finish_z(!one_line && watch.sum() == 0.0f, scatter);
  }
}
