// 7x7 convolutions, as in optical flow networks: four 4x4 ones in Winograd's domain. Included once per instruction set,
// inside its namespace and target pragma.
//
// Plan. A kernel of 8 x 8 taps, the last row and column of which are zeros, is four pieces of 4 x 4. Piece (a, b) sees
// the image 4 a pixels further down and 4 b further right, which is a whole number of tiles: M x M sums of F(M x M,
// 4 x 4) are those of the tile's own transformed pixels with one piece, plus those of the tile to the right, below, and
// below to the right with the others. So pixels are transformed once, at M = 4 to 49 products for 16 sums, and the
// products of all pieces are added up before the transform of the sums: 12.25 multiplications per sum and channel
// instead of 49, at M = 2 25.
//
// A block is a rectangle of tiles. V[xi][tile][k] holds its transformed pixels and those of 4 / M tiles more to the
// right and below, so that neighbouring blocks do some of that work twice; M[xi][tile][column] the products of one
// chunk of columns, for which the tiles are one long run: at the end of each row of tiles stand 4 / M that nobody
// reads. The rectangle is chosen by counting all that work.
//
// The points: 3/8, -3/8, 41/32, -41/32 and infinity for M = 2, which make errors half as large as 0, 1, -1, 2 and
// infinity; 0, 1, -1, 2, -2, 1/2 and infinity for M = 4. Relative L2 error of the sums for values of zero mean, 64
// channels: 2.6e-7 and 1.0e-6, where PyTorch's direct convolution has 3.5e-7. A block that a value which is not finite
// has reached is worked out again by the direct method.

constexpr int kPieces = 4;
// Of the buffers of a block, next to which weights pass through the L2 cache.
constexpr int64_t kPiecesBytes = 704 * 1024;

// A tile of K x K pixels under a piece: the sums, and how many tiles further the next piece sees.
template <int K>
using PieceTile = Tile<K, K - 3>;
template <int K>
constexpr int ahead_of() {
  return 4 / PieceTile<K>::M;
}

constexpr int64_t kSpareRows = 11;  // that registers hold beyond the last one, at most

struct PiecesBuffers {
  int64_t v_row, v_product, m_row, m_product;  // in elements
  int64_t v_bytes, m_bytes, zero_bytes;
};

template <int K>
inline PiecesBuffers pieces_buffers(int64_t c_in, int64_t c_out, int64_t high, int64_t wide) {
  const auto whole = [](int64_t bytes) { return (bytes + 63) / 64 * 64; };
  const int64_t columns = whole_vectors(c_out < kChunk ? c_out : kChunk);
  const int64_t pitch = wide + ahead_of<K>(), stored = (high + ahead_of<K>()) * pitch + kSpareRows;
  PiecesBuffers b;
  b.v_row = whole_vectors(c_in);
  b.v_product = stored * b.v_row + 16;
  b.m_row = columns;
  b.m_product = (high * pitch + kSpareRows) * columns + 16;
  b.v_bytes = whole(K * K * b.v_product * 4);
  b.m_bytes = whole(K * K * b.m_product * 4);
  b.zero_bytes = whole((4 * kTileGroup + PieceTile<K>::kOverlap) * c_in * 4);
  return b;
}

// Cycles of one block, roughly, if an instruction takes one.
template <int K>
inline double pieces_cost(int64_t c_in, int64_t c_out, int64_t high, int64_t wide) {
  constexpr int kInto = (PieceTile<K>::M + K) * 3 * K + K * K, kOut = (PieceTile<K>::M + K) * 2 * K + K * K;
  const int64_t pitch = wide + ahead_of<K>(), step = kSpareRows + 1;
  const int64_t rows = (high * pitch - ahead_of<K>() + step - 1) / step * step;
  const int64_t products = kPieces * K * K * c_in * vectors_of(c_out);
  return static_cast<double>(rows * products + products * Vec::kWidth / 2 +  // weights come by 8 bytes per cycle
                             (high + ahead_of<K>()) * pitch * vectors_of(c_in) * kInto +
                             high * wide * vectors_of(c_out) * kOut);
}

// The rectangle of tiles that takes the least time for an image of `down` x `across`.
template <int K>
void choose_rectangle(ConvPlan& plan, int64_t c_in, int64_t c_out, int64_t images, int64_t down, int64_t across) {
  constexpr int64_t kMost = 32, kLeast = 12;
  const int64_t share = images * down * across / 8, most = share < kLeast ? kLeast : share;  // work for several threads
  double best = 0.0;
  plan.high = plan.wide = 0;
  for (int64_t high = 1; high <= down && high <= kMost; ++high) {
    for (int64_t wide = 1; wide <= across && wide <= kMost; ++wide) {
      if (plan.high > 0) {
        const PiecesBuffers b = pieces_buffers<K>(c_in, c_out, high, wide);
        if (high * wide > most || b.v_bytes + b.m_bytes > kPiecesBytes) break;
      }
      const int64_t blocks = (down + high - 1) / high * ((across + wide - 1) / wide);
      const double cost = static_cast<double>(blocks) * pieces_cost<K>(c_in, c_out, high, wide);
      if (plan.high > 0 && cost >= best) continue;
      best = cost, plan.high = high, plan.wide = wide;
    }
  }
  plan.blocks = images * ((down + plan.high - 1) / plan.high) * ((across + plan.wide - 1) / plan.wide);
}

// One block in its buffers: tiles [ty, ty + high) x [tx, tx + wide) of image n.
template <class T, int K>
struct PiecesBlock {
  static constexpr int kM = PieceTile<K>::M, kAhead = ahead_of<K>();
  const Conv& p;
  const Epilogue& tail;
  PiecesBuffers b;
  float* v;  // [xi][tile][k]
  float* m;  // [xi][tile][column]
  const T* zeros;
  const float* bias;
  int64_t n, ty, tx, high, wide;

  int64_t pitch() const { return wide + kAhead; }

  void transform_pixels() const {
    const T* image = static_cast<const T*>(p.x) + n * tail.h * tail.w * p.c_in;
    const int64_t stored = (high + kAhead) * pitch();
    for (int64_t y = 0; y < high + kAhead; ++y) {
      const TileLines<T, K> lines = tile_lines<K>(image, kM * (ty + y) - PieceTile<K>::kMargin, tail.h, tail.w, p.c_in);
      transform_tiles<PieceTile<K>>(lines, zeros, static_cast<const Pick<T>*>(nullptr), tx, pitch(), tail.w, p.c_in,
                                    p.c_in, v + y * pitch() * b.v_row, b.v_row, b.v_product);
    }
    for (int xi = 0; xi < K * K; ++xi)  // what registers hold beyond the last tile
      clear(v + xi * b.v_product + stored * b.v_row, kSpareRows * b.v_row);
  }

  void multiply_chunk(int64_t chunk, int64_t columns) const {
    const int64_t vectors = vectors_of(columns), rows = high * pitch() - kAhead;
    const float* weights = static_cast<const float*>(p.packed) + packed_chunk(p.plan, chunk);
    for (int xi = 0; xi < K * K; ++xi) {
      for (int piece = 0; piece < kPieces; ++piece) {
        const float* first = v + xi * b.v_product + kAhead * (piece / 2 * pitch() + piece % 2) * b.v_row;
        multiply(Rows<float>{first, rows, b.v_row, p.plan.k},
                 weights + packed_product(p.plan, vectors, xi * kPieces + piece), m + xi * b.m_product, b.m_row,
                 columns, nullptr, piece > 0);
      }
    }
  }

  // NaN if a sum is not finite.
  Vec finish_chunk(int64_t chunk, int64_t columns) const {
    const Epilogue to = tail;
    const float *products = m, *biases = bias + chunk * kChunk;
    const int64_t m_row = b.m_row, m_product = b.m_product, line = to.w * to.c, across = pitch();
    Vec watch = Vec::set(0.0f);
    for (int64_t i = 0; i < high; ++i) {
      for (int64_t j = 0; j < wide; ++j) {
        const int64_t y = kM * (ty + i), x = kM * (tx + j), pixel = (n * to.h + y) * line + x * to.c;
        for (int64_t c = 0; c < columns; c += Vec::kWidth) {
          const int lanes = columns - c < Vec::kWidth ? static_cast<int>(columns - c) : Vec::kWidth;
          const int64_t column = chunk * kChunk + c;
          Line<Vec, kM> sums[kM];
          transform_products<PieceTile<K>>(products + (i * across + j) * m_row + c, m_product, lanes,
                                           Vec::load(biases + c), sums);
          watch = fma(sum_of<kM>(sums), Vec::set(0.0f), watch);
          finish_tile<T, kM>(to, sums, column, pixel + column, line, to.c, lanes, to.h - y, to.w - x);
        }
      }
    }
    return watch;
  }

  // All of the block by the direct method.
  void repair() const {
    const int64_t col = kM * tx, end = col + kM * wide, pixels = (end < tail.w ? end : tail.w) - col;
    float* z = static_cast<float*>(scratch(3, pixels * tail.c * 4));
    for (int64_t y = kM * ty; y < kM * (ty + high) && y < tail.h; ++y) {
      for (int64_t i = 0; i < pixels * tail.c; ++i) z[i] = __builtin_nanf("");
      repair_pixels<T>(p, z, tail.c, n * tail.h + y, col, pixels);
      epilogue<T>(tail, {z, tail.c, n * tail.h + y, col, pixels}, nullptr);
    }
  }

  void run() const {
    transform_pixels();
    Vec watch = Vec::set(0.0f);
    for (int64_t chunk = 0; chunk * kChunk < tail.c; ++chunk) {
      const int64_t left = tail.c - chunk * kChunk, columns = left < kChunk ? left : kChunk;
      multiply_chunk(chunk, columns);
      watch = add(watch, finish_chunk(chunk, columns));
    }
    if (watch.sum() != 0.0f) repair();
  }
};

template <class T, int K>
void pieces_blocks(const Conv& p, int64_t begin, int64_t end) {
  constexpr int kM = PieceTile<K>::M;
  const Epilogue tail = resolved_tail<T>(p);
  const ConvPlan& plan = p.plan;
  const PiecesBuffers b = pieces_buffers<K>(p.c_in, tail.c, plan.high, plan.wide);
  char* memory = static_cast<char*>(scratch(2, b.v_bytes + b.m_bytes + b.zero_bytes));
  char *m = memory + b.v_bytes, *zeros = m + b.m_bytes;
  clear(zeros, b.zero_bytes);
  const int64_t down = (tail.h + kM - 1) / kM, across = (tail.w + kM - 1) / kM;
  const int64_t bands = (down + plan.high - 1) / plan.high, strips = (across + plan.wide - 1) / plan.wide;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t ty = i / strips % bands * plan.high, tx = i % strips * plan.wide;
    PiecesBlock<T, K>{p,
                      tail,
                      b,
                      reinterpret_cast<float*>(memory),
                      reinterpret_cast<float*>(m),
                      reinterpret_cast<const T*>(zeros),
                      packed_bias(p, const_cast<void*>(p.packed)),
                      i / strips / bands,
                      ty,
                      tx,
                      down - ty < plan.high ? down - ty : plan.high,
                      across - tx < plan.wide ? across - tx : plan.wide}
        .run();
  }
}
