// What follows the sums of a 3x3 convolution. Included once per instruction set, inside its namespace and target
// pragma.
//
// Plan. The sums of a run of pixels of one image row arrive in float32, still in the cache, and are rounded once, when
// they are stored. They come in the order of memory after the pixel shuffle, so that each sub-row of a pixel is one
// piece of r * C_out neighbouring values; without a shuffle and with one slope for all channels the pieces of a run
// join, and there is one partial vector per run and not one per pixel.

inline Vec activate(Activation a, Vec z, Vec slope) {
  if (a == Activation::none) return z;
  if (a == Activation::relu) return relu(z);
  return where_positive(z, z, mul(z, slope));
}

// What a vector of sums becomes before it is rounded.
template <class T>
inline Vec finished(const Epilogue& p, Activation a, Vec z, Vec slope, const T* residual, int count) {
  Vec v = activate(a, z, slope);
  if (p.scale != 1.0f) v = mul(v, Vec::set(p.scale));
  return residual ? add(v, load_some(residual, count)) : v;
}

// Pixels [col, col + count) of row `row` of the N * H image rows; z is their first value, `step` apart.
struct PixelRun {
  const float* z;
  int64_t step;
  int64_t row, col, count;
};

// For p.scatter: which value of z goes to each channel of the output. A vector of them per vector of the output, in
// memory of this thread.
inline const Pick<float>* scatter_picks(const Epilogue& p) {
  if (!p.scatter) return nullptr;
  const int64_t vectors = (p.c_out + Vec::kWidth - 1) / Vec::kWidth;
  const int64_t from_bytes = vectors * Vec::kWidth * static_cast<int64_t>(sizeof(int64_t));
  char* memory = static_cast<char*>(scratch(1, from_bytes + vectors * static_cast<int64_t>(sizeof(Pick<float>))));
  int64_t* from = reinterpret_cast<int64_t*>(memory);
  Pick<float>* picks = reinterpret_cast<Pick<float>*>(memory + from_bytes);
  for (int64_t c = 0; c < vectors * Vec::kWidth; ++c) from[c] = -1;
  for (int64_t c = 0; c < p.c; ++c) from[p.scatter[c]] = c;
  for (int64_t v = 0; v < vectors; ++v) picks[v].set(from + v * Vec::kWidth, Vec::kWidth, p.c);
  return picks;
}

template <class T, Activation A>
inline void epilogue_piece(const Epilogue& p, const float* z, const float* slopes, int64_t at, int64_t size) {
  const Vec slope = Vec::set(p.slope);
  const T* residual = p.residual ? static_cast<const T*>(p.residual) + at : nullptr;
  T* out = static_cast<T*>(p.out) + at;
  for (int64_t i = 0; i < size; i += Vec::kWidth) {
    const int rest = i + Vec::kWidth <= size ? Vec::kWidth : static_cast<int>(size - i);
    const Vec v = finished(p, A, load_some(z + i, rest), slopes ? load_some(slopes + i, rest) : slope,
                           residual ? residual + i : nullptr, rest);
    store_some(v, out + i, rest);
  }
}

// f(z, offset into a pixel's C values, offset into the output, size) for every piece of a run. Pieces are those of one
// pixel, or joined.
template <class F>
inline void each_piece(const Epilogue& p, const PixelRun& run, bool join, F f) {
  const int64_t piece = p.c / p.r;
  for (int64_t i = 0; i < p.r; ++i) {
    const int64_t first = ((run.row * p.r + i) * p.w + run.col) * piece;
    if (join) {
      f(run.z, 0, first, run.count * piece);
    } else {
      for (int64_t k = 0; k < run.count; ++k) f(run.z + k * run.step + i * piece, i * piece, first + k * piece, piece);
    }
  }
}

template <class T>
void epilogue_scattered(const Epilogue& p, const PixelRun& run, const Pick<float>* picks) {
  const Vec slope = Vec::set(p.slope);
  float* pixel = static_cast<float*>(scratch(0, p.c * static_cast<int64_t>(sizeof(float))));
  for (int64_t i = 0; i < run.count; ++i) {
    const float* z = run.z + i * run.step;
    if (p.activation != Activation::none || p.scale != 1.0f) {
      for (int64_t c = 0; c < p.c; c += Vec::kWidth) {
        const int rest = c + Vec::kWidth <= p.c ? Vec::kWidth : static_cast<int>(p.c - c);
        const Vec v = load_some(z + c, rest);
        const Vec s = p.slopes ? load_some(p.slopes + c, rest) : slope;
        store_some(finished<T>(p, p.activation, v, s, nullptr, 0), pixel + c, rest);
      }
      z = pixel;
    }
    const int64_t at = (run.row * p.w + run.col + i) * p.c_out;
    const T* residual = static_cast<const T*>(p.residual) + at;
    T* out = static_cast<T*>(p.out) + at;
    const Pick<float>* pick = picks;
    for (int64_t c = 0; c < p.c_out; c += Vec::kWidth, ++pick) {
      const int rest = c + Vec::kWidth <= p.c_out ? Vec::kWidth : static_cast<int>(p.c_out - c);
      pick->store(add(load_some(residual + c, rest), pick->load(z)), residual + c, out + c, rest);
    }
  }
}

template <class T, Activation A>
void epilogue_activated(const Epilogue& p, const PixelRun& run) {
  each_piece(p, run, p.r == 1 && !p.slopes && run.step == p.c,
             [&](const float* z, int64_t channel, int64_t at, int64_t size) {
               epilogue_piece<T, A>(p, z, p.slopes ? p.slopes + channel : nullptr, at, size);
             });
}

// picks: scatter_picks(p).
template <class T>
void epilogue(const Epilogue& p, const PixelRun& run, const Pick<float>* picks) {
  if (p.kept)
    each_piece(p, run, p.r == 1 && run.step == p.c, [&](const float* z, int64_t, int64_t at, int64_t size) {
      for (int64_t i = 0; i < size; i += Vec::kWidth) {
        const int rest = i + Vec::kWidth <= size ? Vec::kWidth : static_cast<int>(size - i);
        store_some(load_some(z + i, rest), static_cast<T*>(p.kept) + at + i, rest);
      }
    });
  if (p.scatter) return epilogue_scattered<T>(p, run, picks);
  switch (p.activation) {
    case Activation::none: return epilogue_activated<T, Activation::none>(p, run);
    case Activation::relu: return epilogue_activated<T, Activation::relu>(p, run);
    case Activation::leaky_relu: return epilogue_activated<T, Activation::leaky_relu>(p, run);
    case Activation::prelu: return epilogue_activated<T, Activation::prelu>(p, run);
  }
}

// table[i * r * C_out + j * C_out + c] = channel of sub-pixel (i, j), channel c, before the shuffle.
inline const int32_t* shuffle_table(int64_t c_out, int64_t r) {
  int32_t* table = static_cast<int32_t*>(scratch(1, c_out * r * r * static_cast<int64_t>(sizeof(int32_t))));
  int32_t* to = table;
  for (int64_t i = 0; i < r; ++i)
    for (int64_t j = 0; j < r; ++j)
      for (int64_t c = 0; c < c_out; ++c) *to++ = static_cast<int32_t>((c * r + i) * r + j);
  return table;
}

// One pixel of the gradient: C values of grad and of what was saved, contiguous, to C values before the epilogue.
template <class G, class T>
inline void backward_pixel(const EpilogueBackward& p, const G* grad, const G* saved, T* before, float* slope_sums) {
  const T* slopes = static_cast<const T*>(p.slope);
  const bool per_channel = p.slope && p.slope_count > 1;
  const float number = p.activation == Activation::leaky_relu              ? p.number
                       : p.activation == Activation::prelu && !per_channel ? to_float(slopes[0])
                                                                           : 0.0f;
  const Vec one = Vec::set(1.0f), zero = Vec::set(0.0f), uniform = Vec::set(number), factor = Vec::set(p.scale);
  for (int64_t c = 0; c < p.c; c += Vec::kWidth) {
    const int rest = c + Vec::kWidth <= p.c ? Vec::kWidth : static_cast<int>(p.c - c);
    Vec g = mul(load_some(grad + c, rest), factor);
    if (p.activation != Activation::none) {
      const Vec s = load_some(saved + c, rest);
      if (slope_sums) {
        const Vec part = where_positive(s, zero, mul(g, s));
        store_some(add(load_some(slope_sums + c, rest), part), slope_sums + c, rest);
      }
      g = mul(g, where_positive(s, one, per_channel ? load_some(slopes + c, rest) : uniform));
    }
    store_some(g, before + c, rest);
  }
}

template <class T>
void epilogue_backward_typed(const EpilogueBackward& p, int64_t begin, int64_t end) {
  const int64_t c_out = p.c / (p.r * p.r), sub_row = p.r * c_out;
  const int32_t* table = shuffle_table(c_out, p.r);
  float* grad = static_cast<float*>(scratch(0, 2 * p.c * static_cast<int64_t>(sizeof(float))));
  float* saved = grad + p.c;
  for (int64_t row = begin; row < end; ++row) {
    float* slope_sums = p.slope_parts ? p.slope_parts + row * p.c : nullptr;
    for (int64_t col = 0; col < p.w; ++col) {
      const int64_t at = (row * p.w + col) * p.c;
      T* before = static_cast<T*>(p.before) + at;
      const T* all_grad = static_cast<const T*>(p.grad);
      const T* all_saved = static_cast<const T*>(p.saved);
      if (p.r == 1) {
        backward_pixel(p, all_grad + at, all_saved + at, before, slope_sums);
        continue;
      }
      for (int64_t i = 0; i < p.r; ++i) {
        const int64_t from = ((row * p.r + i) * p.w + col) * sub_row;
        for (int64_t k = 0; k < sub_row; ++k) {
          const int32_t to = table[i * sub_row + k];
          grad[to] = to_float(all_grad[from + k]);
          if (p.activation != Activation::none) saved[to] = to_float(all_saved[from + k]);
        }
      }
      backward_pixel(p, static_cast<const float*>(grad), static_cast<const float*>(saved), before, slope_sums);
    }
  }
}
