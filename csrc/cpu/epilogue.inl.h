// What follows the sums of a 3x3 convolution. Included once per instruction set, inside its namespace and target
// pragma.
//
// Plan. The sums of a run of pixels of one image row arrive in float32, still in the cache, and are rounded once, when
// they are stored. They come in the order of memory after the pixel shuffle, so that each sub-row of a pixel is one
// piece of r * C_out neighbouring values; without a shuffle and with one slope for all channels the pieces of a run
// join, and there is one partial vector per run and not one per pixel.

template <Activation A>
inline Vec activate(Vec z, Vec slope) {
  if constexpr (A == Activation::none) return z;
  if constexpr (A == Activation::relu) return relu(z);
  return where_positive(z, z, mul(z, slope));
}

// Pixels [col, col + count) of row `row` of the N * H image rows; z is their first value.
struct PixelRun {
  const float* z;
  int64_t row, col, count;
};

template <class T, Activation A>
inline void epilogue_piece(const Epilogue& p, const float* z, const float* slopes, int64_t at, int64_t size) {
  const Vec slope = Vec::set(p.slope), factor = Vec::set(p.scale);
  const T* residual = p.residual ? static_cast<const T*>(p.residual) + at : nullptr;
  T* out = static_cast<T*>(p.out) + at;
  for (int64_t i = 0; i < size; i += Vec::kWidth) {
    const int rest = i + Vec::kWidth <= size ? Vec::kWidth : static_cast<int>(size - i);
    Vec v = activate<A>(load_some(z + i, rest), slopes ? load_some(slopes + i, rest) : slope);
    if (p.scale != 1.0f) v = mul(v, factor);
    if (residual) v = add(v, load_some(residual + i, rest));
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
      for (int64_t k = 0; k < run.count; ++k) f(run.z + k * p.c + i * piece, i * piece, first + k * piece, piece);
    }
  }
}

template <class T, Activation A>
void epilogue_scattered(const Epilogue& p, const PixelRun& run) {
  const Vec slope = Vec::set(p.slope), factor = Vec::set(p.scale);
  float* pixel = static_cast<float*>(scratch(0, p.c * static_cast<int64_t>(sizeof(float))));
  for (int64_t i = 0; i < run.count; ++i) {
    const int64_t at = (run.row * p.w + run.col + i) * p.c_out;
    for (int64_t c = 0; c < p.c; c += Vec::kWidth) {
      const int rest = c + Vec::kWidth <= p.c ? Vec::kWidth : static_cast<int>(p.c - c);
      const Vec v = activate<A>(load_some(run.z + i * p.c + c, rest), p.slopes ? load_some(p.slopes + c, rest) : slope);
      store_some(mul(v, factor), pixel + c, rest);
    }
    const T* residual = static_cast<const T*>(p.residual) + at;
    T* out = static_cast<T*>(p.out) + at;
    __builtin_memcpy(out, residual, p.c_out * sizeof(T));
    for (int64_t c = 0; c < p.c; ++c) {
      const int64_t to = p.scatter[c];
      out[to] = from_float<T>(to_float(residual[to]) + pixel[c]);
    }
  }
}

template <class T, Activation A>
void epilogue_activated(const Epilogue& p, const PixelRun& run) {
  if (p.scatter) return epilogue_scattered<T, A>(p, run);
  each_piece(p, run, p.r == 1 && !p.slopes, [&](const float* z, int64_t channel, int64_t at, int64_t size) {
    epilogue_piece<T, A>(p, z, p.slopes ? p.slopes + channel : nullptr, at, size);
  });
}

template <class T>
void epilogue(const Epilogue& p, const PixelRun& run) {
  if (p.kept)
    each_piece(p, run, p.r == 1, [&](const float* z, int64_t, int64_t at, int64_t size) {
      for (int64_t i = 0; i < size; i += Vec::kWidth) {
        const int rest = i + Vec::kWidth <= size ? Vec::kWidth : static_cast<int>(size - i);
        store_some(load_some(z + i, rest), static_cast<T*>(p.kept) + at + i, rest);
      }
    });
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
