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
void repair_pixels(const Conv& p, float* z, int64_t row, int64_t col, int64_t pixels) {
  const int64_t h = p.tail.h, w = p.tail.w, c_out = p.tail.c;
  const int64_t n = row / h, y = row % h;
  const float* bias = packed_bias(p, const_cast<void*>(p.packed));
  for (int64_t x = col; x < col + pixels; ++x, z += c_out) {
    float watch = 0.0f;
    for (int64_t j = 0; j < c_out; ++j) watch += z[j] * 0.0f;
    if (watch == 0.0f) continue;
    for (int64_t j = 0; j < c_out; ++j) {
      const T* weight = static_cast<const T*>(p.weight) + shuffled_channel(j, c_out, p.tail.r) * p.ws.n;
      float sum = bias[j];
      for (int64_t tap = 0; tap < 9; ++tap) {
        const int64_t from_y = y + tap / 3 - 1, from_x = x + tap % 3 - 1;
        if (from_y < 0 || from_y >= h || from_x < 0 || from_x >= w) continue;
        const T* pixel = static_cast<const T*>(p.x) + ((n * h + from_y) * w + from_x) * p.c_in;
        const T* taps = weight + tap / 3 * p.ws.h + tap % 3 * p.ws.w;
        for (int64_t ci = 0; ci < p.c_in; ++ci) sum += to_float(pixel[ci]) * to_float(taps[ci * p.ws.c]);
      }
      z[j] = sum;
    }
  }
}

// Operands are of the type of the tensors, or float32.
template <class T>
inline T as_operand(T value, T) {
  return value;
}
template <class T>
inline float as_operand(T value, float) {
  return to_float(value);
}
inline float as_operand(float value, float) { return value; }

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

// Pixels [x, x + count) of line y to `to`, `depth` elements each; zeros where they lie outside the image and beyond the
// channels.
template <class T, class E>
inline void copy_pixels(const Conv& p, const T* image, int64_t y, int64_t x, int64_t count, E* to) {
  const int64_t h = p.tail.h, w = p.tail.w, c = p.c_in, depth = p.plan.depth;
  if (y < 0 || y >= h || c == 0) return clear(to, count * depth);
  const int64_t before = x < 0 ? -x : 0, after = x + count > w ? x + count - w : 0, inside = count - before - after;
  const T* from = image + (y * w + x + before) * c;
  clear(to, before * depth);
  clear(to + (count - after) * depth, after * depth);
  to += before * depth;
  if (depth == c) return convert(from, to, inside * c);
  for (int64_t i = 0; i < inside; ++i, from += c, to += depth) {
    for (int64_t k = 0; k < c; ++k) to[k] = as_operand(from[k], E{});
    to[c] = {};
  }
}

// Pieces of image rows. Their pixels and those around them are three lines of A, in which the rows of neighbouring
// pixels overlap: row x is columns x - 1, x and x + 1 of each line.
constexpr int64_t kPiece = 4 * kRowMultiple;

template <class T, class E>
void direct_blocks(const Conv& p, int64_t begin, int64_t end) {
  const Epilogue tail = resolved_tail<T>(p);
  const ConvPlan& plan = p.plan;
  const int64_t h = tail.h, w = tail.w, across = (w + kPiece - 1) / kPiece, line = (kPiece + 2) * plan.depth;
  const int64_t a_bytes = (3 * line * static_cast<int64_t>(sizeof(E)) + 63) / 64 * 64;
  char* memory = static_cast<char*>(scratch(2, a_bytes + kPiece * tail.c * 4));
  E* a = reinterpret_cast<E*>(memory);
  float* z = reinterpret_cast<float*>(memory + a_bytes);
  const float* bias = packed_bias(p, const_cast<void*>(p.packed));
  for (int64_t block = begin; block < end; ++block) {
    const int64_t row = block / across, col = block % across * kPiece;
    const int64_t pixels = w - col < kPiece ? w - col : kPiece;
    const int64_t rounded = (pixels + kRowMultiple - 1) / kRowMultiple * kRowMultiple;
    const T* image = static_cast<const T*>(p.x) + row / h * h * w * p.c_in;
    for (int ky = 0; ky < 3; ++ky) {
      E* to = a + ky * line;
      copy_pixels(p, image, row % h + ky - 1, col - 1, pixels + 2, to);
      clear(to + (pixels + 2) * plan.depth, (rounded - pixels) * plan.depth);
    }
    const Rows<E, 3> rows{a, pixels, plan.depth, 3 * plan.depth, line};
    for (int64_t chunk = 0; chunk * kChunk < tail.c; ++chunk) {
      const int64_t left = tail.c - chunk * kChunk, columns = left < kChunk ? left : kChunk;
      multiply(rows, static_cast<const E*>(p.packed) + packed_chunk(plan, chunk), z + chunk * kChunk, tail.c, columns,
               bias + chunk * kChunk);
    }
    epilogue<T>(tail, {z, row, col, pixels});
  }
}

// Products[pixel][tap][column] of a rectangle with a ring of one pixel around it, then the sums of nine neighbours.
constexpr int64_t kTapsHeight = 14, kTapsWidth = 40;  // 16 * 42 pixels with the ring: a multiple of kRowMultiple

template <class T, class E>
void taps_blocks(const Conv& p, int64_t begin, int64_t end) {
  const Epilogue tail = resolved_tail<T>(p);
  const ConvPlan& plan = p.plan;
  const int64_t h = tail.h, w = tail.w, c_out = tail.c, rows = plan.block_rows, wide = kTapsWidth + 2;
  const int64_t down = (h + kTapsHeight - 1) / kTapsHeight, across = (w + kTapsWidth - 1) / kTapsWidth;
  const int64_t y_row = vectors_of(plan.columns) * Vec::kWidth;
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
    const T* image = static_cast<const T*>(p.x) + n * h * w * p.c_in;
    for (int64_t y = 0; y < height + 2; ++y) {
      E* line = a + y * wide * plan.k;
      copy_pixels(p, image, top + y - 1, left - 1, width + 2, line);
      clear(line + (width + 2) * plan.k, (wide - width - 2) * plan.k);
    }
    const int64_t used = (height + 2) * wide;
    clear(a + used * plan.k, (used + kRowMultiple < rows ? kRowMultiple : rows - used) * plan.k);
    for (int64_t chunk = 0; chunk * kChunk < plan.columns; ++chunk) {
      const int64_t rest = plan.columns - chunk * kChunk, columns = rest < kChunk ? rest : kChunk;
      multiply(Rows<E>{a, used, plan.k, plan.k}, static_cast<const E*>(p.packed) + packed_chunk(plan, chunk),
               products + chunk * kChunk, y_row, vectors_of(columns) * Vec::kWidth, nullptr);
    }
    for (int64_t y = 0; y < height; ++y) {
      for (int64_t x = 0; x < width; ++x) {
        Vec sum = bias;
        for (int tap = 0; tap < 9; ++tap)
          sum = add(sum, Vec::load(products + ((y + tap / 3) * wide + x + tap % 3) * y_row + tap * c_out));
        sum.store(z + x * c_out, static_cast<int>(c_out));
      }
      epilogue<T>(tail, {z, n * h + top + y, left, width});
    }
  }
}
