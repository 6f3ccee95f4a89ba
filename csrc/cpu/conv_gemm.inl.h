// Products of small matrices, C = A B (+ start), with float32 sums. Included once per instruction set, inside its
// namespace and target pragma.
//
// Plan. The sums of R rows times a panel of up to kPanel vectors of columns stay in registers while k runs; a step
// loads one row of the packed panel and broadcasts one operand of each row. Sums are taken in the order of k, in slices
// of kSlice terms lest their rounding errors grow with k, whatever the row, R or the panel: no result depends on how
// rows are cut into blocks. Where half a vector holds the last columns, half a vector is multiplied: CPUs that pass 512
// bits in two halves (Zen 4) need half the time for it, and pruned networks have any number of columns.

// What one instruction multiplies. float32: one k; bfloat16: two, which lie next to each other in A and B.
template <class E>
struct Operand;

template <>
struct Operand<float> {
  static constexpr int kDepth = 1;
  using Wide = Vec;
  static Wide load(const float* b) { return Vec::load(b); }
  static Wide broadcast(const float* a) { return Vec::set(*a); }
  static Vec multiply_add(Wide a, Wide b, Vec sum) { return fma(a, b, sum); }
  using Half = HalfVec;
  static Half load_half(const float* b) { return HalfVec::load(b); }
  static HalfVec multiply_add_half(Wide a, Half b, HalfVec sum) { return fma(half_of(a), b, sum); }
};

#if defined(VSR_BF16_DOT)
template <>
struct Operand<bfloat16> {
  static constexpr int kDepth = 2;
  using Wide = BfloatPairs;
  static Wide load(const bfloat16* b) { return load_pairs(b); }
  static Wide broadcast(const bfloat16* a) { return broadcast_pair(a); }
  static Vec multiply_add(Wide a, Wide b, Vec sum) { return dot(a, b, sum); }
  using Half = HalfBfloatPairs;
  static Half load_half(const bfloat16* b) { return load_half_pairs(b); }
  static HalfVec multiply_add_half(Wide a, Half b, HalfVec sum) { return dot(half_of(a), b, sum); }
};
#endif

constexpr int kSlice = 64;        // terms that are added up in a row; rows of several pieces have fewer
constexpr int kChunk = 64;        // columns whose sums of all products a block holds at a time
constexpr int kRowMultiple = 24;  // rows of a block: a multiple of every R below

// Rows at a time: as many as sums fit into registers, at most twelve.
constexpr int rows_at_once(int vectors) {
  return Vec::kAccumulators / vectors < 12 ? Vec::kAccumulators / vectors : 12;
}

constexpr int64_t vectors_of(int64_t values) { return (values + Vec::kWidth - 1) / Vec::kWidth; }
constexpr int64_t whole_vectors(int64_t values) { return vectors_of(values) * Vec::kWidth; }

// Elements of packed columns of depth k before chunk `chunk`; within a chunk of `vectors` vectors before product `xi`;
// and within a product before the panel that begins at vector `vector`.
inline int64_t packed_chunk(const ConvPlan& p, int64_t chunk) { return chunk * kChunk * p.products * p.k; }
inline int64_t packed_product(const ConvPlan& p, int64_t vectors, int64_t xi) {
  return xi * vectors * Vec::kWidth * p.k;
}
inline int64_t packed_panel(int64_t k, int64_t vector) { return vector * Vec::kWidth * k; }

// Rows of A. A row is kPieces times k neighbouring elements, piece_step apart; rows may overlap.
template <class E, int kPieces = 1>
struct Rows {
  const E* first;
  int64_t count, step;
  int64_t k;
  int64_t piece_step = 0;
};

// NV vectors, the last of which is a half one if kHalf.
template <class E, int kPieces, int R, int NV, bool kHalf>
inline void multiply_rows(const Rows<E, kPieces>& a, const E* first, const E* b, float* c, int64_t c_row,
                          const float* start, bool more) {
  using Op = Operand<E>;
  constexpr int kFull = NV - kHalf, kStep = Vec::kWidth * Op::kDepth;
  Vec sum[R][kFull > 0 ? kFull : 1];
  HalfVec half[kHalf ? R : 1];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kFull; ++v) sum[r][v] = start ? Vec::load(start + v * Vec::kWidth) : Vec::set(0.0f);
    if constexpr (kHalf) half[r] = start ? HalfVec::load(start + kFull * Vec::kWidth) : HalfVec::set(0.0f);
  }
  for (int piece = 0; piece < kPieces; ++piece, first += a.piece_step) {
    for (int64_t i = 0; i < a.k; i += Op::kDepth) {
      typename Op::Wide column[kFull > 0 ? kFull : 1];
      typename Op::Half last;
#pragma GCC unroll 4
      for (int v = 0; v < kFull; ++v) column[v] = Op::load(b + v * kStep);
      if constexpr (kHalf) last = Op::load_half(b + kFull * kStep);
      b += NV * kStep;
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const typename Op::Wide row = Op::broadcast(first + r * a.step + i);
#pragma GCC unroll 4
        for (int v = 0; v < kFull; ++v) sum[r][v] = Op::multiply_add(row, column[v], sum[r][v]);
        if constexpr (kHalf) half[r] = Op::multiply_add_half(row, last, half[r]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kFull; ++v) {
      float* to = c + r * c_row + v * Vec::kWidth;
      if (more) sum[r][v] = add(Vec::load(to), sum[r][v]);
      sum[r][v].store(to);
    }
    if constexpr (kHalf) {
      float* to = c + r * c_row + kFull * Vec::kWidth;
      if (more) half[r] = add(HalfVec::load(to), half[r]);
      half[r].store(to);
    }
  }
}

template <int NV, bool kHalf, class E, int kPieces>
void multiply_panel(const Rows<E, kPieces>& a, const E* b, float* c, int64_t c_row, const float* start, bool more) {
  constexpr int R = rows_at_once(NV);
  Rows<E, kPieces> slice = a;
  for (int64_t k = 0; k < a.k || k == 0; k += kSlice, slice.first += kSlice, b += kSlice * NV * Vec::kWidth) {
    slice.k = a.k - k < kSlice ? a.k - k : kSlice;
    const float* from = k == 0 ? start : nullptr;
    for (int64_t r = 0; r < a.count; r += R)
      multiply_rows<E, kPieces, R, NV, kHalf>(slice, slice.first + r * a.step, b, c + r * c_row, c_row, from,
                                              more || k > 0);
  }
}

template <int NV, class E, int kPieces>
inline void multiply_columns(const Rows<E, kPieces>& a, const E* b, float* c, int64_t c_row, const float* start,
                             bool more, bool half) {
  if constexpr (HalfVec::kWidth < Vec::kWidth) {
    if (half) return multiply_panel<NV, true>(a, b, c, c_row, start, more);
  }
  multiply_panel<NV, false>(a, b, c, c_row, start, more);
}

// c[row][column] = start[column] + the product of row and column, or, with more, that product added to it; b is one
// product of a packed chunk. The number of rows is rounded up to what the registers hold: a and c have that many, which
// is a divisor of kRowMultiple. The lanes of the last vector beyond `columns` are padding of c, of which any part is
// written.
template <class E, int kPieces>
void multiply(const Rows<E, kPieces>& a, const E* b, float* c, int64_t c_row, int64_t columns, const float* start,
              bool more = false) {
  const int64_t vectors = vectors_of(columns), depth = kPieces * a.k;
  for (int64_t v = 0; v < vectors; v += Vec::kPanel) {
    const int64_t wide = vectors - v < Vec::kPanel ? vectors - v : Vec::kPanel;
    const bool half = columns - (v + wide - 1) * Vec::kWidth <= HalfVec::kWidth;
    const float* from = start ? start + v * Vec::kWidth : nullptr;
    float* to = c + v * Vec::kWidth;
    const E* panel = b + packed_panel(depth, v);
    if (wide == 1) {
      multiply_columns<1>(a, panel, to, c_row, from, more, half);
    } else if (wide == 2) {
      multiply_columns<2>(a, panel, to, c_row, from, more, half);
    } else if constexpr (Vec::kPanel > 2) {
      wide == 3 ? multiply_columns<3>(a, panel, to, c_row, from, more, half)
                : multiply_columns<4>(a, panel, to, c_row, from, more, half);
    }
  }
}
