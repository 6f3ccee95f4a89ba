// Winograd F(2x2, 3x3): the transforms around the products. Included once per instruction set, inside its namespace and
// target pragma.
//
//   Y = A^T [ (G g G^T) * (B^T d B) ] A     d: 4x4 input pixels, Y: 2x2 sums
//   B^T = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1]    A^T = [1 1 1 0; 0 1 -1 -1]
//   (A. Lavin, S. Gray: Fast Algorithms for Convolutional Neural Networks, CVPR 2016, arXiv:1509.09308)
//
// Plan. A block of tiles, neighbours in raster order, goes through three buffers in the L2 cache: V[xi][tile][k] (the
// transformed input), M[xi][tile][column] (products of one chunk of columns), and the sums of its pixels. Tiles of one
// row share two of their four pixel columns: each pixel column is loaded and transformed once per group of tiles.
// Pixels outside the image are rows of zeros, so that no padded copy of the image exists.
//
// Error, as relative L2 error of the sums for values of zero mean. In float32 2.6e-7 at 64 channels; PyTorch's direct
// convolution has 2.2e-7 to 4.3e-7, depending on how the CPU lets it block its sums. With bfloat16 operands (AVX-512
// BF16) the transformed pixels and weights are rounded once each, which the direct method does not do: 3.9e-3, next to
// 1.7e-3 of rounding the output. It takes half the time of float32 operands, and BasicVSR x4 on a real clip comes out
// 57.2 dB from its float32 output, against 57.6 dB of PyTorch under bfloat16 autocast. F(4x4) with bfloat16 operands
// would be off by 1.6e-2 and more.
//
// A pixel takes part in no sums but its own nine, as in the direct method. Only what is not finite differs:
// infinity minus infinity, or an overflow of the transform, give NaN where the direct method gives infinity. Such
// pixels are worked out again by the direct method, so that NaN and infinity appear where PyTorch has them.

constexpr int kTileGroup = 8;  // tiles whose pixels stay in the L1 cache while all channels are walked

struct Column {  // of four pixels, or their transform
  Vec v[4];
};

inline Column transform_column(const Column& d) {
  return {{sub(d.v[0], d.v[2]), add(d.v[1], d.v[2]), sub(d.v[2], d.v[1]), sub(d.v[1], d.v[3])}};
}

// Rows of four pixels' lines; a line outside the image is the zeros, of which every column is the same.
template <class T>
struct TileLines {
  const T* line[4];
  int64_t step[4];
};

template <class T>
inline TileLines<T> tile_lines(const T* image, const T* zeros, int64_t ty, int64_t h, int64_t w, int64_t c) {
  TileLines<T> lines;
  for (int i = 0; i < 4; ++i) {
    const int64_t y = 2 * ty - 1 + i;
    const bool inside = y >= 0 && y < h;
    lines.line[i] = inside ? image + y * w * c : zeros;
    lines.step[i] = inside ? c : 0;
  }
  return lines;
}

// Column x of one vector of channels, transformed. Whole: the vector has all its channels, else `count` of them.
template <bool kWhole, class T>
inline Column load_column(const TileLines<T>& lines, int64_t x, int64_t w, int64_t c, int count) {
  if (x < 0 || x >= w) {
    const Vec zero = Vec::set(0.0f);
    return {{zero, zero, zero, zero}};
  }
  Column d;
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const T* at = lines.line[i] + x * lines.step[i] + c;
    d.v[i] = kWhole ? Vec::load(at) : load_some(at, count);
  }
  return transform_column(d);
}

// Asks for the two columns of a tile a group ahead; what lies outside the image is not touched by that.
template <class T>
inline void prefetch_columns(const TileLines<T>& lines, int64_t x, int64_t c) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const T* at = lines.line[i] + x * lines.step[i] + c;
    __builtin_prefetch(at);
    __builtin_prefetch(at + lines.step[i]);
  }
}

// One vector of channels of `tiles` neighbouring tiles, the first of which begins at column x.
template <bool kWhole, class T, class E>
inline void transform_group(const TileLines<T>& lines, int64_t x, int64_t tiles, int64_t w, int64_t c, int count, E* to,
                            int64_t v_row, int64_t v_product) {
  Column d0 = load_column<kWhole>(lines, x, w, c, count), d1 = load_column<kWhole>(lines, x + 1, w, c, count);
  for (int64_t t = 0; t < tiles; ++t, x += 2, to += v_row) {
    if (c * sizeof(T) % 64 == 0) prefetch_columns(lines, x + 2 + 2 * kTileGroup, c);
    const Column d2 = load_column<kWhole>(lines, x + 2, w, c, count);
    const Column d3 = load_column<kWhole>(lines, x + 3, w, c, count);
    E* product = to;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i, product += 4 * v_product) {
      Operand<E>::store(sub(d0.v[i], d2.v[i]), product);
      Operand<E>::store(add(d1.v[i], d2.v[i]), product + v_product);
      Operand<E>::store(sub(d2.v[i], d1.v[i]), product + 2 * v_product);
      Operand<E>::store(sub(d1.v[i], d3.v[i]), product + 3 * v_product);
    }
    d0 = d2;
    d1 = d3;
  }
}

// Tiles [tx, tx + tiles) of one row of tiles to v, the place of the first.
template <class T, class E>
void transform_tiles(const TileLines<T>& lines, int64_t tx, int64_t tiles, int64_t w, int64_t c_in, E* v, int64_t v_row,
                     int64_t v_product) {
  for (int64_t group = 0; group < tiles; group += kTileGroup) {
    const int64_t size = tiles - group < kTileGroup ? tiles - group : kTileGroup, x = 2 * (tx + group) - 1;
    E* to = v + group * v_row;
    int64_t c = 0;
    for (; c + Vec::kWidth <= c_in; c += Vec::kWidth)
      transform_group<true>(lines, x, size, w, c, Vec::kWidth, to + c, v_row, v_product);
    if (c < c_in) transform_group<false>(lines, x, size, w, c, static_cast<int>(c_in - c), to + c, v_row, v_product);
  }
}

// One vector of columns of one tile: 16 products to 2x2 sums. The bias joins product (1, 1), which all four contain.
inline void transform_products(const float* m, int64_t m_product, Vec bias, Vec sums[4]) {
  Vec upper[4], lower[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const Vec m0 = Vec::load(m + j * m_product);
    Vec m1 = Vec::load(m + (4 + j) * m_product);
    const Vec m2 = Vec::load(m + (8 + j) * m_product), m3 = Vec::load(m + (12 + j) * m_product);
    if (j == 1) m1 = add(m1, bias);
    upper[j] = add(add(m0, m1), m2);
    lower[j] = sub(sub(m1, m2), m3);
  }
  sums[0] = add(add(upper[0], upper[1]), upper[2]);
  sums[1] = sub(sub(upper[1], upper[2]), upper[3]);
  sums[2] = add(add(lower[0], lower[1]), lower[2]);
  sums[3] = sub(sub(lower[1], lower[2]), lower[3]);
}

struct WinogradBuffers {
  int64_t v_row, v_product, m_row, m_product;  // in elements
  int64_t v_bytes, m_bytes, z_bytes, zero_bytes;
};

// The distance between products is no multiple of a power of two, so that they do not share the same sets of a cache.
inline WinogradBuffers winograd_buffers(const Conv& p, int64_t operand_bytes, int64_t element_bytes) {
  WinogradBuffers b;
  const auto whole = [](int64_t bytes) { return (bytes + 63) / 64 * 64; };
  b.v_row = vectors_of(p.c_in) * Vec::kWidth;
  b.v_product = p.plan.block_rows * b.v_row + 64 / operand_bytes;
  b.m_row = vectors_of(p.tail.c < kChunk ? p.tail.c : kChunk) * Vec::kWidth;
  b.m_product = p.plan.block_rows * b.m_row + 16;
  b.v_bytes = whole(16 * b.v_product * operand_bytes);
  b.m_bytes = whole(16 * b.m_product * 4);
  b.z_bytes = whole(4 * p.plan.block_rows * p.tail.c * 4);
  b.zero_bytes = whole(p.c_in * element_bytes);
  return b;
}

// f(n, ty, tx, tiles, index in the block) for every piece of a tile row in tiles [begin, end) of the batch.
template <class F>
inline void each_tile_run(const Conv& p, int64_t begin, int64_t end, F f) {
  const int64_t down = (p.tail.h + 1) / 2, across = (p.tail.w + 1) / 2;
  for (int64_t tile = begin; tile < end;) {
    const int64_t row = tile / across, tx = tile % across;
    const int64_t tiles = across - tx < end - tile ? across - tx : end - tile;
    f(row / down, row % down, tx, tiles, tile - begin);
    tile += tiles;
  }
}

template <class T, class E>
void winograd_blocks(const Conv& p, int64_t begin, int64_t end) {
  const Epilogue tail = resolved_tail<T>(p);
  const ConvPlan& plan = p.plan;
  const WinogradBuffers b = winograd_buffers(p, sizeof(E), sizeof(T));
  const int64_t h = tail.h, w = tail.w, all = tail.n * ((h + 1) / 2) * ((w + 1) / 2), rows = plan.block_rows;
  char* memory = static_cast<char*>(scratch(2, b.v_bytes + b.m_bytes + b.z_bytes + b.zero_bytes));
  E* v = reinterpret_cast<E*>(memory);
  float* m = reinterpret_cast<float*>(memory + b.v_bytes);
  float* z = reinterpret_cast<float*>(memory + b.v_bytes + b.m_bytes);  // [sub-row][tile][sub-column][channel]
  T* zeros = reinterpret_cast<T*>(memory + b.v_bytes + b.m_bytes + b.z_bytes);
  __builtin_memset(static_cast<void*>(zeros), 0, b.zero_bytes);
  const int64_t z_tile = 2 * tail.c, z_line = rows * z_tile;
  const float* bias = packed_bias(p, const_cast<void*>(p.packed));

  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * rows, tiles = all - first < rows ? all - first : rows;
    each_tile_run(p, first, first + tiles, [&](int64_t n, int64_t ty, int64_t tx, int64_t count, int64_t at) {
      const T* image = static_cast<const T*>(p.x) + n * h * w * p.c_in;
      transform_tiles<T>(tile_lines(image, zeros, ty, h, w, p.c_in), tx, count, w, p.c_in, v + at * b.v_row, b.v_row,
                         b.v_product);
    });
    for (int64_t t = tiles; t < rows && t < (tiles + 11) / 12 * 12; ++t)  // what registers hold beyond the last tile
      for (int xi = 0; xi < 16; ++xi)
        __builtin_memset(static_cast<void*>(v + xi * b.v_product + t * b.v_row), 0, b.v_row * sizeof(E));

    Vec watch = Vec::set(0.0f);  // NaN as soon as a sum is not finite
    for (int64_t chunk = 0; chunk * kChunk < tail.c; ++chunk) {
      const int64_t left = tail.c - chunk * kChunk, columns = left < kChunk ? left : kChunk;
      const int64_t vectors = vectors_of(columns);
      const E* weights = static_cast<const E*>(p.packed) + packed_chunk(plan, chunk);
      for (int xi = 0; xi < 16; ++xi)
        multiply(Rows<E>{v + xi * b.v_product, tiles, b.v_row, plan.k}, weights + packed_product(plan, vectors, xi),
                 m + xi * b.m_product, b.m_row, vectors * Vec::kWidth, nullptr);
      for (int64_t t = 0; t < tiles; ++t) {
        for (int64_t c = 0; c < columns; c += Vec::kWidth) {
          const int count = c + Vec::kWidth <= columns ? Vec::kWidth : static_cast<int>(columns - c);
          Vec sums[4];
          transform_products(m + t * b.m_row + c, b.m_product, Vec::load(bias + chunk * kChunk + c), sums);
          float* to = z + t * z_tile + chunk * kChunk + c;
          float* const places[4] = {to, to + tail.c, to + z_line, to + z_line + tail.c};
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) {
            watch = fma(sums[i], Vec::set(0.0f), watch);
            store_some(sums[i], places[i], count);
          }
        }
      }
    }

    const bool finite = watch.sum() == 0.0f;
    each_tile_run(p, first, first + tiles, [&](int64_t n, int64_t ty, int64_t tx, int64_t count, int64_t at) {
      const int64_t col = 2 * tx, pixels = col + 2 * count <= w ? 2 * count : w - col;
      for (int64_t i = 0; i < 2 && 2 * ty + i < h; ++i) {
        float* sums = z + i * z_line + at * z_tile;
        const int64_t row = n * h + 2 * ty + i;
        if (!finite) repair_pixels<T>(p, sums, row, col, pixels);
        epilogue<T>(tail, {sums, row, col, pixels});
      }
    });
  }
}
