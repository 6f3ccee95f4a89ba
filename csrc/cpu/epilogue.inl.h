// What follows the sums of a 3x3 convolution. Included once per instruction set, inside its namespace and target
// pragma.
//
// Plan. Without a shuffle or scatter a row is one run of W * C values, so that there is one partial vector per row and
// not one per pixel (per-channel slopes need the pixel loop). With a shuffle the activated channels of a pixel are put
// into a small float buffer, from which every sub-row of r * C_out neighbouring output values is picked by a table
// worked out once per call. All arithmetic between load and store is float32, rounded once.

template <Activation A>
inline Vec activate(Vec z, Vec slope) {
  if constexpr (A == Activation::none) return z;
  if constexpr (A == Activation::relu) return relu(z);
  return where_positive(z, z, mul(z, slope));
}

template <class T, Activation A>
inline void epilogue_run(const T* z, const T* residual, T* out, int64_t count, Vec slope, const T* slopes,
                         float scale) {
  const Vec factor = Vec::set(scale);
  for (int64_t i = 0; i < count; i += Vec::kWidth) {
    const int rest = i + Vec::kWidth <= count ? Vec::kWidth : static_cast<int>(count - i);
    Vec v = activate<A>(load_some(z + i, rest), slopes ? load_some(slopes + i, rest) : slope);
    if (scale != 1.0f) v = mul(v, factor);
    if (residual) v = add(v, load_some(residual + i, rest));
    store_some(v, out + i, rest);
  }
}

template <class T, Activation A>
void epilogue_plain(const Epilogue& p, int64_t begin, int64_t end) {
  const T* slopes = static_cast<const T*>(p.slope);
  const bool per_channel = A == Activation::prelu && p.slope_count > 1;
  const Vec slope = Vec::set(A == Activation::prelu && !per_channel ? to_float(slopes[0]) : p.number);
  const int64_t row = p.w * p.c, run = per_channel ? p.c : row;
  for (int64_t at = begin * row; at < end * row; at += run) {
    const T* residual = p.residual ? static_cast<const T*>(p.residual) + at : nullptr;
    epilogue_run<T, A>(static_cast<const T*>(p.z) + at, residual, static_cast<T*>(p.out) + at, run, slope,
                       per_channel ? slopes : nullptr, p.scale);
  }
}

// The activated and scaled channels of one pixel, in float.
template <class T, Activation A>
inline void activate_pixel(const Epilogue& p, const T* z, float* to) {
  const T* slopes = static_cast<const T*>(p.slope);
  const bool per_channel = A == Activation::prelu && p.slope_count > 1;
  const Vec slope = Vec::set(A == Activation::prelu && !per_channel ? to_float(slopes[0]) : p.number);
  const Vec factor = Vec::set(p.scale);
  for (int64_t c = 0; c < p.c; c += Vec::kWidth) {
    const int rest = c + Vec::kWidth <= p.c ? Vec::kWidth : static_cast<int>(p.c - c);
    const Vec v = activate<A>(load_some(z + c, rest), per_channel ? load_some(slopes + c, rest) : slope);
    store_some(mul(v, factor), to + c, rest);
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

template <class T, Activation A>
void epilogue_shuffled(const Epilogue& p, int64_t begin, int64_t end) {
  const int32_t* table = shuffle_table(p.c_out, p.r);
  const int64_t sub_row = p.r * p.c_out;  // neighbouring output values of one pixel
  float* pixel = static_cast<float*>(scratch(0, (p.c + sub_row) * static_cast<int64_t>(sizeof(float))));
  float* picked = pixel + p.c;
  for (int64_t row = begin; row < end; ++row) {
    const T* z = static_cast<const T*>(p.z) + row * p.w * p.c;
    for (int64_t col = 0; col < p.w; ++col, z += p.c) {
      activate_pixel<T, A>(p, z, pixel);
      for (int64_t i = 0; i < p.r; ++i) {
        const int64_t at = ((row * p.r + i) * p.w + col) * sub_row;
        const int32_t* from = table + i * sub_row;
        for (int64_t k = 0; k < sub_row; ++k) picked[k] = pixel[from[k]];
        const T* residual = p.residual ? static_cast<const T*>(p.residual) + at : nullptr;
        for (int64_t k = 0; k < sub_row; k += Vec::kWidth) {
          const int rest = k + Vec::kWidth <= sub_row ? Vec::kWidth : static_cast<int>(sub_row - k);
          Vec v = load_some(picked + k, rest);
          if (residual) v = add(v, load_some(residual + k, rest));
          store_some(v, static_cast<T*>(p.out) + at + k, rest);
        }
      }
    }
  }
}

template <class T, Activation A>
void epilogue_scattered(const Epilogue& p, int64_t begin, int64_t end) {
  float* pixel = static_cast<float*>(scratch(0, p.c * static_cast<int64_t>(sizeof(float))));
  for (int64_t at = begin * p.w; at < end * p.w; ++at) {
    activate_pixel<T, A>(p, static_cast<const T*>(p.z) + at * p.c, pixel);
    const T* residual = static_cast<const T*>(p.residual) + at * p.c_out;
    T* out = static_cast<T*>(p.out) + at * p.c_out;
    __builtin_memcpy(out, residual, p.c_out * sizeof(T));
    for (int64_t c = 0; c < p.c; ++c) {
      const int64_t to = p.scatter[c];
      out[to] = from_float<T>(to_float(residual[to]) + pixel[c]);
    }
  }
}

template <class T, Activation A>
void epilogue_activated(const Epilogue& p, int64_t begin, int64_t end) {
  if (p.scatter) {
    epilogue_scattered<T, A>(p, begin, end);
  } else if (p.r > 1) {
    epilogue_shuffled<T, A>(p, begin, end);
  } else {
    epilogue_plain<T, A>(p, begin, end);
  }
}

template <class T>
void epilogue_typed(const Epilogue& p, int64_t begin, int64_t end) {
  switch (p.activation) {
    case Activation::none: return epilogue_activated<T, Activation::none>(p, begin, end);
    case Activation::relu: return epilogue_activated<T, Activation::relu>(p, begin, end);
    case Activation::leaky_relu: return epilogue_activated<T, Activation::leaky_relu>(p, begin, end);
    case Activation::prelu: return epilogue_activated<T, Activation::prelu>(p, begin, end);
  }
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
    float* slope_sums = p.slope_rows ? p.slope_rows + row * p.c : nullptr;
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
          if (p.activation != Activation::none && p.of_output) saved[to] = to_float(all_saved[from + k]);
        }
      }
      if (p.activation != Activation::none && !p.of_output)
        for (int64_t c = 0; c < p.c; ++c) saved[c] = to_float(all_saved[at + c]);
      backward_pixel(p, static_cast<const float*>(grad), static_cast<const float*>(saved), before, slope_sums);
    }
  }
}
