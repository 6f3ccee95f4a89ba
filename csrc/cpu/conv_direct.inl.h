// 3x3 convolutions without a transform: for few input or few output channels, and for single pixels. Included once per
// instruction set, inside its namespace and target pragma.

// The epilogue with what packing has put into the order of the sums.
template <class T>
inline Epilogue resolved_tail(const Conv& p) {
  Epilogue tail = p.tail;
  if (p.slope_count > 1) tail.slopes = packed_slopes(p, const_cast<void*>(p.packed));
  if (p.slope_count == 1) tail.slope = to_float(*static_cast<const T*>(p.slope));
  return tail;
}

// Works out again every pixel of a run whose sums are not all finite.
template <class T>
void repair_pixels(const Conv& p, float* z, int64_t z_step, int64_t row, int64_t col, int64_t pixels) {
  const int64_t h = p.tail.h, w = p.tail.w, c_out = p.tail.c, size = p.size;
  const int64_t n = row / h, y = row % h;
  const float* bias = packed_bias(p, const_cast<void*>(p.packed));
  for (int64_t x = col; x < col + pixels; ++x, z += z_step) {
    float watch = 0.0f;
    for (int64_t j = 0; j < c_out; ++j) watch += z[j] * 0.0f;
    if (watch == 0.0f) continue;
    for (int64_t j = 0; j < c_out; ++j) {
      const T* weight = static_cast<const T*>(p.weight) + shuffled_channel(j, c_out, p.tail.r) * p.ws.n;
      double sum = bias[j];
      for (int64_t tap = 0; tap < size * size; ++tap) {
        const int64_t from_y = y + tap / size - size / 2, from_x = x + tap % size - size / 2;
        if (from_y < 0 || from_y >= h || from_x < 0 || from_x >= w) continue;
        const T* pixel = static_cast<const T*>(p.x) + ((n * h + from_y) * w + from_x) * p.c_x;
        const T* taps = weight + tap / size * p.ws.h + tap % size * p.ws.w;
        for (int64_t ci = 0; ci < p.c_in; ++ci)
          sum += static_cast<double>(to_float(pixel[p.channels ? p.channels[ci] : ci])) * to_float(taps[ci * p.ws.c]);
      }
      z[j] = static_cast<float>(sum);
    }
  }
}

// Converts `count` neighbouring elements.
template <class T>
inline void convert(const T* from, T* to, int64_t count) {
  __builtin_memcpy(to, from, count * sizeof(T));
}
template <class T>
inline void convert(const T* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; i += Vec::kWidth) {
    const int rest = i + Vec::kWidth <= count ? Vec::kWidth : static_cast<int>(count - i);
    store_some(load_some(from + i, rest), to + i, rest);
  }
}
inline void convert(const float* from, float* to, int64_t count) { __builtin_memcpy(to, from, count * sizeof(float)); }

template <class E>
inline void clear(E* to, int64_t count) {
  __builtin_memset(static_cast<void*>(to), 0, count * sizeof(E));
}

// For p.channels: which channels of x make up each vector of input channels, at the index of the vector; of a pair of
// vectors, at that of the first. In memory of this thread.
template <class T>
inline const Pick<T>* input_picks(const Conv& p, bool pairs) {
  if (!p.channels) return nullptr;
  Pick<T>* picks = static_cast<Pick<T>*>(scratch(3, vectors_of(p.c_in) * static_cast<int64_t>(sizeof(Pick<T>))));
  for (int64_t c = 0; c < p.c_in;) {
    const int64_t lanes = pairs && c + 2 * Vec::kWidth <= p.c_in ? 2 * Vec::kWidth : Vec::kWidth;
    const int64_t count = p.c_in - c < lanes ? p.c_in - c : lanes;
    picks[c / Vec::kWidth].set(p.channels + c, static_cast<int>(count), p.c_x);
    c += lanes;
  }
  return picks;
}

// Pixels [x, x + count) of line y to `to`, `step` elements apart, which are C_in or one more; zeros where they lie
// outside the image and beyond the channels.
template <class T, class E>
inline void copy_pixels(const Conv& p, const Pick<T>* picks, const T* image, int64_t y, int64_t x, int64_t count,
                        int64_t step, E* to) {
  const int64_t h = p.tail.h, w = p.tail.w, c = p.c_in;
  if (y < 0 || y >= h || c == 0) return clear(to, count * step);
  const int64_t before = x < 0 ? -x : 0, after = x + count > w ? x + count - w : 0, inside = count - before - after;
  const T* from = image + (y * w + x + before) * p.c_x;
  clear(to, before * step);
  clear(to + (count - after) * step, after * step);
  to += before * step;
  if (step == c && !picks) return convert(from, to, inside * c);
  for (int64_t i = 0; i < inside; ++i, from += p.c_x, to += step) {
    if (picks) {
      for (int64_t k = 0; k < c; k += Vec::kWidth)
        store_some(picks[k / Vec::kWidth].load(from), to + k,
                   c - k < Vec::kWidth ? static_cast<int>(c - k) : Vec::kWidth);
    } else {
      convert(from, to, c);
    }
    if (step > c) to[c] = {};
  }
}

// Pieces of image rows. Their pixels and those around them are three lines, in which the rows of A of neighbouring
// pixels overlap: row x is columns x - 1, x and x + 1 of each line. In bfloat16, of which two are multiplied at once,
// the nine taps of a pixel are laid out in a row of their own: of three channels that takes 28 products, where lines of
// an even number of elements would take 30 and pixels of an even number 36.
constexpr int64_t kPiece = 2 * kRowMultiple;
constexpr int64_t kRun = 16;  // elements that are copied at once: three pixels of up to four channels are fewer

template <class E>
struct DirectBuffers {
  int64_t line, row, a_bytes;  // line and row in elements
};

template <class E>
inline DirectBuffers<E> direct_buffers(const Conv& p) {
  const int64_t line = (kPiece + 2) * p.c_in + kRun;
  const int64_t row = sizeof(E) == 2 ? 6 * p.c_in + kRun : 0;
  return {line, row, (static_cast<int64_t>(sizeof(E)) * (3 * line + kPiece * row) + 63) / 64 * 64};
}

inline Rows<float, 3> direct_rows(const Conv& p, float* lines, int64_t pixels) {
  return {lines, pixels, p.c_in, 3 * p.c_in, direct_buffers<float>(p).line};
}
#if defined(VSR_BF16_DOT)
inline Rows<bfloat16> direct_rows(const Conv& p, bfloat16* lines, int64_t pixels) {
  const DirectBuffers<bfloat16> b = direct_buffers<bfloat16>(p);
  bfloat16* rows = lines + 3 * b.line;
  for (int64_t x = 0; x < pixels; ++x) {
    bfloat16* to = rows + x * b.row;
    for (int64_t ky = 0; ky < 3; ++ky)  // what is too much is overwritten, or lies beyond the last product
      __builtin_memcpy(to + ky * 3 * p.c_in, lines + ky * b.line + x * p.c_in, kRun * sizeof(bfloat16));
    if (p.plan.k > 9 * p.c_in) to[9 * p.c_in] = {};
  }
  return {rows, pixels, b.row, p.plan.k};
}
#endif

template <class T, class E>
void direct_blocks(const Conv& p, int64_t begin, int64_t end) {
  const Epilogue tail = resolved_tail<T>(p);
  const ConvPlan& plan = p.plan;
  const DirectBuffers<E> b = direct_buffers<E>(p);
  const Pick<T>* picks = input_picks<T>(p, false);
  const Pick<float>* scatter = scatter_picks(tail);
  const int64_t h = tail.h, w = tail.w, across = (w + kPiece - 1) / kPiece, z_step = whole_vectors(tail.c);
  char* memory = static_cast<char*>(scratch(2, b.a_bytes + kPiece * z_step * 4));
  E* lines = reinterpret_cast<E*>(memory);
  float* z = reinterpret_cast<float*>(memory + b.a_bytes);
  const float* bias = packed_bias(p, const_cast<void*>(p.packed));
  for (int64_t block = begin; block < end; ++block) {
    const int64_t row = block / across, col = block % across * kPiece;
    const int64_t pixels = w - col < kPiece ? w - col : kPiece;
    const T* image = static_cast<const T*>(p.x) + row / h * h * w * p.c_x;
    for (int ky = 0; ky < 3; ++ky) {
      E* to = lines + ky * b.line;
      copy_pixels(p, picks, image, row % h + ky - 1, col - 1, pixels + 2, p.c_in, to);
      clear(to + (pixels + 2) * p.c_in, b.line - (pixels + 2) * p.c_in);
    }
    const auto rows = direct_rows(p, lines, pixels);
    for (int64_t chunk = 0; chunk * kChunk < tail.c; ++chunk) {
      const int64_t left = tail.c - chunk * kChunk, columns = left < kChunk ? left : kChunk;
      multiply(rows, static_cast<const E*>(p.packed) + packed_chunk(plan, chunk), z + chunk * kChunk, z_step, columns,
               bias + chunk * kChunk);
    }
    epilogue<T>(tail, {z, z_step, row, col, pixels}, scatter);
  }
}

// Products[pixel][tap][column] of a rectangle with a ring of one pixel around it, then the sums of nine neighbours.
constexpr int64_t kTapsHeight = 14, kTapsWidth = 40;  // 16 * 42 pixels with the ring: a multiple of kRowMultiple

template <class T, class E>
void taps_blocks(const Conv& p, int64_t begin, int64_t end) {
  const Epilogue tail = resolved_tail<T>(p);
  const ConvPlan& plan = p.plan;
  const Pick<T>* picks = input_picks<T>(p, false);
  const Pick<float>* scatter = scatter_picks(tail);
  const int64_t h = tail.h, w = tail.w, c_out = tail.c, rows = plan.block_rows, wide = kTapsWidth + 2;
  const int64_t down = (h + kTapsHeight - 1) / kTapsHeight, across = (w + kTapsWidth - 1) / kTapsWidth;
  const int64_t y_row = whole_vectors(plan.columns);
  const int64_t a_bytes = (rows * plan.k * static_cast<int64_t>(sizeof(E)) + 63) / 64 * 64;
  const int64_t y_bytes = (rows * y_row + Vec::kWidth) * 4;  // sums load whole vectors from the last tap on
  char* memory = static_cast<char*>(scratch(2, a_bytes + y_bytes + kTapsWidth * c_out * 4));
  E* a = reinterpret_cast<E*>(memory);
  float* products = reinterpret_cast<float*>(memory + a_bytes);
  float* z = reinterpret_cast<float*>(memory + a_bytes + y_bytes);
  const Vec bias = Vec::load(packed_bias(p, const_cast<void*>(p.packed)));
  for (int64_t block = begin; block < end; ++block) {
    const int64_t n = block / (down * across), top = block / across % down * kTapsHeight;
    const int64_t left = block % across * kTapsWidth;
    const int64_t height = h - top < kTapsHeight ? h - top : kTapsHeight;
    const int64_t width = w - left < kTapsWidth ? w - left : kTapsWidth;
    const T* image = static_cast<const T*>(p.x) + n * h * w * p.c_x;
    for (int64_t y = 0; y < height + 2; ++y) {
      E* line = a + y * wide * plan.k;
      copy_pixels(p, picks, image, top + y - 1, left - 1, width + 2, plan.k, line);
      clear(line + (width + 2) * plan.k, (wide - width - 2) * plan.k);
    }
    const int64_t used = (height + 2) * wide;
    clear(a + used * plan.k, (used + kRowMultiple < rows ? kRowMultiple : rows - used) * plan.k);
    for (int64_t chunk = 0; chunk * kChunk < plan.columns; ++chunk) {
      const int64_t rest = plan.columns - chunk * kChunk, columns = rest < kChunk ? rest : kChunk;
      multiply(Rows<E>{a, used, plan.k, plan.k}, static_cast<const E*>(p.packed) + packed_chunk(plan, chunk),
               products + chunk * kChunk, y_row, columns, nullptr);
    }
    for (int64_t y = 0; y < height; ++y) {
      for (int64_t x = 0; x < width; ++x) {
        Vec sum = bias;
        for (int tap = 0; tap < 9; ++tap)
          sum = add(sum, Vec::load(products + ((y + tap / 3) * wide + x + tap % 3) * y_row + tap * c_out));
        sum.store(z + x * c_out, static_cast<int>(c_out));
      }
      epilogue<T>(tail, {z, c_out, n * h + top + y, left, width}, scatter);
    }
  }
}
