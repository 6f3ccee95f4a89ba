// Packing of the weights of a convolution, once per call. Included once per instruction set, inside its namespace
// and target pragma.
//
// Plan. A unit packs one vector of columns for some input channels, in float64 over the lanes, rounded once. Order of
// the elements: [chunk][product][panel][k / depth][vector][lane][k % depth], depth being that of an instruction. Behind
// the weights: the bias and the slopes as float32, in the order of the columns.

constexpr int64_t kPackDepth = 16;  // input channels per unit

template <int K>
struct Size {
  static constexpr int value = K;
};

inline int64_t packed_columns(const ConvPlan& p) { return (p.columns + kChunk - 1) / kChunk * kChunk; }

inline float* packed_bias(const Conv& p, void* packed) {
  return reinterpret_cast<float*>(static_cast<char*>(packed) + p.plan.packed_bytes) - 2 * packed_columns(p.plan);
}
inline float* packed_slopes(const Conv& p, void* packed) { return packed_bias(p, packed) + packed_columns(p.plan); }

// The points of tiles of five pixels (conv_winograd.inl.h) but infinity, the last but one, and what divides the
// polynomial of the taps there.
constexpr double kPoints5[] = {0.375, -0.375, 1.28125, 0, -1.28125};
constexpr double kFactors5[] = {-1.125732421875, 1.125732421875, 3.84625244140625, 1, -3.84625244140625};

// One row or column of U = G g G^T: three taps to five or six values.
inline void winograd3_weights(const double (*g)[Vec::kWidth], int step, double (*u)[Vec::kWidth], int u_step) {
  constexpr double kA = 1 / kFactors5[1], kA2 = kPoints5[0] * kPoints5[0] * kA;
  constexpr double kB = 1 / kFactors5[2], kB2 = kPoints5[2] * kPoints5[2] * kB, kOdd = kPoints5[0] * kA;
  static_assert(kOdd - kPoints5[2] * kB < 1e-15 && kPoints5[2] * kB - kOdd < 1e-15);
  for (int l = 0; l < Vec::kWidth; ++l) {
    const double g0 = g[0][l], odd = kOdd * g[step][l], g2 = g[2 * step][l];
    const double even_a = kA * g0 + kA2 * g2, even_b = kB * g0 + kB2 * g2;
    u[0][l] = -even_a - odd;
    u[u_step][l] = even_a - odd;
    u[2 * u_step][l] = even_b + odd;
    u[3 * u_step][l] = g2;
    u[4 * u_step][l] = odd - even_b;
  }
}
inline void winograd4_weights(const double (*g)[Vec::kWidth], int step, double (*u)[Vec::kWidth], int u_step) {
  for (int l = 0; l < Vec::kWidth; ++l) {
    const double g0 = g[0][l], g1 = g[step][l], g2 = g[2 * step][l];
    u[0][l] = g0 / 4;
    u[u_step][l] = -(g0 + g2 + g1) / 6;
    u[2 * u_step][l] = -(g0 + g2 - g1) / 6;
    u[3 * u_step][l] = (g0 + 4 * g2 + 2 * g1) / 24;
    u[4 * u_step][l] = (g0 + 4 * g2 - 2 * g1) / 24;
    u[5 * u_step][l] = g2;
  }
}

// The same of the four taps of a piece, to K values, the last but one of which is at infinity.
template <int K>
inline void piece_weights(const double (*g)[Vec::kWidth], int step, double (*u)[Vec::kWidth], int u_step) {
  constexpr double kPoints7[] = {0, 1, -1, 2, -2, 0, 0.5}, kFactors7[] = {-2, -3, 9, 36, -60, 1, 1.40625};
  for (int i = 0; i < K; ++i) {
    const double x = K == 5 ? kPoints5[i] : kPoints7[i], factor = K == 5 ? kFactors5[i] : kFactors7[i];
    for (int l = 0; l < Vec::kWidth; ++l) {
      const double value = ((g[3 * step][l] * x + g[2 * step][l]) * x + g[step][l]) * x + g[0][l];
      u[i * u_step][l] = i == K - 2 ? g[3 * step][l] : value / factor;
    }
  }
}

// Rounds 5 x 5 transformed weights to bfloat16 one after another, each of those that follow taking up what it can of
// the error. Of the sums, whose error is what counts, pixels of no correlation make the quadratic form of the rounding
// errors that is the square of Q = (A A^T) * (B^T B) in both directions, A^T and B^T of F(3, 3); the shares are the
// rows of the upper Cholesky factor of Q^-1 over their first value. That takes a quarter off the error of weights. (E.
// Frantar et al., GPTQ, ICLR 2023, arXiv:2210.17323, for the same on whole layers)
inline void round_together(const double (*u)[Vec::kWidth], bfloat16 (*rounded)[Vec::kWidth]) {
  constexpr double kShare[5][5] = {{1, -0.64925, -0.27562, -0.36561, 0.17877},
                                   {0, 1, -0.0003, 0.22168, -0.27581},
                                   {0, 0, 1, 1.07584, -0.19219},
                                   {0, 0, 0, 1, -0.26551},
                                   {0, 0, 0, 0, 1}};
  Vec left[25];
  float values[Vec::kWidth];
  for (int i = 0; i < 25; ++i) {
    for (int l = 0; l < Vec::kWidth; ++l) values[l] = static_cast<float>(u[i][l]);
    left[i] = Vec::load(values);
  }
#pragma GCC unroll 25
  for (int i = 0; i < 25; ++i) {
    left[i].store(rounded[i]);
    const Vec error = sub(Vec::load(rounded[i]), left[i]);
#pragma GCC unroll 25
    for (int j = i + 1; j < 25; ++j)
      left[j] = fma(error, Vec::set(static_cast<float>(kShare[i / 5][j / 5] * kShare[i % 5][j % 5])), left[j]);
  }
}

// Where input channel ci stands in the rows of A: the transform stores whole pairs of vectors the even channels first.
inline int64_t row_place([[maybe_unused]] const ConvPlan& p, [[maybe_unused]] int64_t c_in, int64_t ci) {
#if defined(VSR_BF16_DOT)
  if (p.halves && p.sums > 0 && ci / VecPair::kWidth < c_in / VecPair::kWidth)
    return ci / VecPair::kWidth * VecPair::kWidth + ci % 2 * Vec::kWidth + ci % VecPair::kWidth / 2;
#endif
  return ci;
}

template <class E>
inline E as_operand(double value) {
  return from_float<E>(static_cast<float>(value));
}
template <class E>
inline E as_operand(E value) {
  return value;
}

template <class T, class E>
void pack_columns(const Conv& p, E* packed, int64_t vector, int64_t ci_begin, int64_t ci_end) {
  constexpr int kDepth = Operand<E>::kDepth;
  const ConvPlan& plan = p.plan;
  const int64_t chunk = vector * Vec::kWidth / kChunk, in_chunk = vector - chunk * (kChunk / Vec::kWidth);
  const int64_t left = plan.columns - chunk * kChunk;
  const int64_t vectors = vectors_of(left < kChunk ? left : kChunk);
  const int64_t panel = in_chunk / Vec::kPanel * Vec::kPanel;
  const int64_t panel_vectors = vectors - panel < Vec::kPanel ? vectors - panel : Vec::kPanel;
  E* base =
      packed + packed_chunk(plan, chunk) + packed_panel(plan.k, panel) + (in_chunk - panel) * Vec::kWidth * kDepth;
  const auto put = [&](int64_t product, int64_t k, const auto* lanes) {
    E* to =
        base + packed_product(plan, vectors, product) + k / kDepth * panel_vectors * Vec::kWidth * kDepth + k % kDepth;
    for (int l = 0; l < Vec::kWidth; ++l) to[l * kDepth] = as_operand<E>(lanes[l]);
  };

  // Where each lane finds its taps; without `at`, the lane is padding.
  const T* at[Vec::kWidth];
  int64_t tap[Vec::kWidth];
  for (int l = 0; l < Vec::kWidth; ++l) {
    const int64_t column = vector * Vec::kWidth + l;
    tap[l] = plan.method == ConvMethod::taps ? column / p.tail.c : 0;
    const int64_t channel = shuffled_channel(column % p.tail.c, p.tail.c, p.tail.r);
    at[l] = column < plan.columns ? static_cast<const T*>(p.weight) + channel * p.ws.n : nullptr;
  }
  const auto weight = [&](int l, int64_t ci, int64_t t) {
    return at[l] ? to_float(at[l][ci * p.ws.c + t / p.size * p.ws.h + t % p.size * p.ws.w]) : 0.0f;
  };
  double lanes[9][Vec::kWidth], half[18][Vec::kWidth], whole[36][Vec::kWidth];
  const double zeros[Vec::kWidth] = {};
  const auto put_pieces = [&](auto size, int64_t ci) {
    constexpr int K = decltype(size)::value;
    double taps[16][Vec::kWidth], some[4 * K][Vec::kWidth], all[K * K][Vec::kWidth];
    for (int piece = 0; piece < 4; ++piece) {
      for (int t = 0; t < 16; ++t) {
        const int y = piece / 2 * 4 + t / 4, x = piece % 2 * 4 + t % 4;
        for (int l = 0; l < Vec::kWidth; ++l) taps[t][l] = y < 7 && x < 7 ? weight(l, ci, 7 * y + x) : 0.0f;
      }
      for (int j = 0; j < 4; ++j) piece_weights<K>(taps + j, 4, some + j, 4);
      for (int i = 0; i < K; ++i) piece_weights<K>(some + 4 * i, 1, all + K * i, 1);
      for (int xi = 0; xi < K * K; ++xi) put(4 * xi + piece, ci, all[xi]);
    }
  };
  for (int64_t ci = ci_begin; ci < ci_end; ++ci) {
    if (p.size == 7) {
      plan.method == ConvMethod::pieces ? put_pieces(Size<5>{}, ci) : put_pieces(Size<7>{}, ci);
      continue;
    }
    if (plan.method == ConvMethod::taps) {
      for (int l = 0; l < Vec::kWidth; ++l) lanes[0][l] = weight(l, ci, tap[l]);
      put(0, ci, lanes[0]);
      continue;
    }
    for (int t = 0; t < 9; ++t)
      for (int l = 0; l < Vec::kWidth; ++l) lanes[t][l] = weight(l, ci, t);
    if (plan.method == ConvMethod::direct) {
      for (int t = 0; t < 9; ++t) put(0, t * p.c_in + ci, lanes[t]);
      continue;
    }
    if (plan.method == ConvMethod::winograd4) {
      for (int j = 0; j < 3; ++j) winograd4_weights(lanes + j, 3, half + j, 3);          // columns: 3 x 3 to 6 x 3
      for (int i = 0; i < 6; ++i) winograd4_weights(half + 3 * i, 1, whole + 6 * i, 1);  // rows: to 6 x 6
    } else {
      for (int j = 0; j < 3; ++j) winograd3_weights(lanes + j, 3, half + j, 3);
      for (int i = 0; i < 5; ++i) winograd3_weights(half + 3 * i, 1, whole + 5 * i, 1);
      if constexpr (sizeof(E) == 2) {
        bfloat16 rounded[25][Vec::kWidth];
        round_together(whole, rounded);
        for (int xi = 0; xi < 25; ++xi) put(xi, row_place(plan, p.c_in, ci), rounded[xi]);
        continue;
      }
    }
    for (int64_t xi = 0; xi < plan.products; ++xi) put(xi, row_place(plan, p.c_in, ci), whole[xi]);
  }
  const int64_t used = plan.method == ConvMethod::direct ? 9 * p.c_in : p.c_in;
  if (ci_end == p.c_in && plan.k > used)
    for (int64_t product = 0; product < plan.products; ++product) put(product, used, zeros);
}

template <class T, class E>
void pack_units(const Conv& p, void* packed, int64_t begin, int64_t end) {
  const int64_t depths = p.c_in == 0 ? 1 : (p.c_in + kPackDepth - 1) / kPackDepth;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t vector = unit / depths, ci = unit % depths * kPackDepth;
    pack_columns<T>(p, static_cast<E*>(packed), vector, ci, ci + kPackDepth < p.c_in ? ci + kPackDepth : p.c_in);
  }
  if (begin > 0) return;
  float* bias = packed_bias(p, packed);
  float* slopes = packed_slopes(p, packed);
  for (int64_t j = 0; j < packed_columns(p.plan); ++j) {
    const int64_t channel = j < p.tail.c ? shuffled_channel(j, p.tail.c, p.tail.r) : -1;
    bias[j] = p.bias && channel >= 0 ? to_float(static_cast<const T*>(p.bias)[channel]) : 0.0f;
    slopes[j] = p.slope_count > 1 && channel >= 0 ? to_float(static_cast<const T*>(p.slope)[channel]) : 0.0f;
  }
}
