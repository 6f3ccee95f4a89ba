// What the kernels of quantized convolutions share: lines of bytes, what follows the sums. Included once per
// instruction set, inside its namespace and target pragma.

constexpr float kQuantizedMost = 512.0f;  // rounds to a byte no more, whatever the zero point

// The lines of an image around a row, in memory of the thread, with a pixel of the zero point on either side, so that
// no tap has a border to look out for. Each is fetched once (and rounded, where x is not uint8), over one that is no
// longer needed.
template <int kLines>
struct QuantizedLines {
  uint8_t* memory;
  int64_t bytes;  // of a line

  // Line y, from -1 to H.
  uint8_t* at(int64_t y) const { return memory + (y + kLines) % kLines * bytes; }
};

// For lines of which `bytes` may be read.
template <int kLines>
inline QuantizedLines<kLines> quantized_lines(const QuantizedConv& p, int64_t bytes) {
  bytes = (bytes + 63) / 64 * 64;
  QuantizedLines<kLines> lines{static_cast<uint8_t*>(scratch(0, kLines * bytes)), bytes};
  __builtin_memset(lines.memory, p.zero_point, kLines * bytes);
  return lines;
}

#if defined(VSR_INT8_DOT)

// The first `count` values rounded, plus the zero point, clamped. What has no bytes anyway, NaN among it, becomes 255.
inline void store_bytes(__m512 v, __m512i zero_point, uint8_t* to, int count) {
  const __m512i q = _mm512_cvtps_epi32(_mm512_min_ps(v, _mm512_set1_ps(kQuantizedMost)));
  const __m512i positive = _mm512_max_epi32(_mm512_add_epi32(q, zero_point), _mm512_setzero_si512());
  const __m128i bytes = _mm512_cvtusepi32_epi8(positive);
  if (count == Vec::kWidth) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
  } else {
    _mm_mask_storeu_epi8(to, static_cast<__mmask16>((1u << count) - 1u), bytes);
  }
}

template <class T>
inline void round_line(const T* from, uint8_t* to, int64_t count, int32_t zero_point) {
  const __m512i zero = _mm512_set1_epi32(zero_point);
  for (int64_t i = 0; i < count; i += Vec::kWidth) {
    const int rest = count - i < Vec::kWidth ? static_cast<int>(count - i) : Vec::kWidth;
    store_bytes(load_some(from + i, rest).v, zero, to + i, rest);
  }
}

// act(scale * sum + bias).
inline Vec activated_sums(__m512i sum, __m512 scale, __m512 bias, __m512 slope) {
  const Vec z{_mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, bias)};
  return where_positive(z, z, {_mm512_mul_ps(z.v, slope)});
}

#else

// Rounded, plus the zero point, clamped. What has no bytes anyway, NaN among it, becomes 255.
inline uint8_t to_byte(float v, int32_t zero_point) {
  const float below = v < kQuantizedMost ? v : kQuantizedMost;
  const int32_t q = static_cast<int32_t>(__builtin_rintf(below > -kQuantizedMost ? below : -kQuantizedMost));
  const int32_t byte = q + zero_point;
  return static_cast<uint8_t>(byte < 0 ? 0 : byte > 255 ? 255 : byte);
}

template <class T>
inline void round_line(const T* from, uint8_t* to, int64_t count, int32_t zero_point) {
  for (int64_t i = 0; i < count; ++i) to[i] = to_byte(to_float(from[i]), zero_point);
}

#endif

// Lines from `first` to `last` of an image.
template <int kLines>
inline void fetch_quantized_lines(const QuantizedConv& p, const QuantizedLines<kLines>& lines, int64_t image,
                                  int64_t first, int64_t last) {
  const int64_t count = p.tail.w * p.c_in;
  for (int64_t y = first; y <= last; ++y) {
    const int64_t from = (image * p.tail.h + y) * count;
    uint8_t* to = lines.at(y) + p.c_in;
    if (y < 0 || y >= p.tail.h) {
      __builtin_memset(to, p.zero_point, count);
    } else if (!p.rounds) {
      __builtin_memcpy(to, static_cast<const uint8_t*>(p.x) + from, count);
    } else {
      with_type(p.x_dtype, [&](auto element) {
        round_line(static_cast<const decltype(element)*>(p.x) + from, to, count, p.zero_point);
      });
    }
  }
}

// The channel of the base that each column gets, in memory of this thread; none without a base.
inline const int32_t* base_channels(const QuantizedConv& p) {
  if (!p.base) return nullptr;
  const int64_t columns = quantized_layout(p.c_in, p.tail.c).columns, c = p.tail.c / (p.tail.r * p.tail.r);
  int32_t* from = static_cast<int32_t*>(scratch(3, columns * 4));
  for (int64_t j = 0; j < columns; ++j) from[j] = static_cast<int32_t>(j % c);
  return from;
}

// z of a pixel plus its base: column j is of channel from[j].
template <class T>
inline void add_base(const T* base, int64_t c, const int32_t* from, float* z, int64_t columns) {
#if defined(VSR_INT8_DOT)
  if (c <= Vec::kWidth) {
    const Vec values = load_some(base, static_cast<int>(c));
    for (int64_t i = 0; i < columns; i += Vec::kWidth) {
      const int rest = columns - i < Vec::kWidth ? static_cast<int>(columns - i) : Vec::kWidth;
      const Vec some{_mm512_permutexvar_ps(_mm512_load_si512(from + i), values.v)};
      store_some(add(load_some(z + i, rest), some), z + i, rest);
    }
    return;
  }
#endif
  for (int64_t i = 0; i < columns; ++i) z[i] += to_float(base[from[i]]);
}

// Pixels [col, col + count) of a row from z, C values each, to T: plus the base, shuffled, rounded.
template <class T>
inline void finish_floats(const QuantizedConv& p, const int32_t* from, float* z, int64_t row, int64_t col, int count) {
  const Epilogue& tail = p.tail;
  const int64_t shuffled = tail.c / (tail.r * tail.r);
  for (int i = 0; p.base && i < count; ++i)
    add_base(static_cast<const T*>(p.base) + (row * tail.w + col + i) * shuffled, shuffled, from, z + i * tail.c,
             tail.c);
  epilogue<T>(tail, {z, tail.c, row, col, count}, nullptr);
}
