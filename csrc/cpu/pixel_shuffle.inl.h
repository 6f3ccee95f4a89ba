// Pixel shuffle and its inverse: moves of elements by size, for any dtype. Included once per instruction set, inside
// its namespace and target pragma.
//
// Plan. Of a pixel on the packed side, every r^2-th channel belongs to the same pixel on the other side: r^2 streams,
// zipped. For r = 2 and 4 whole vectors are split into streams (or zipped) inside registers, a factor of two at a time;
// each stream is then one contiguous piece of a shuffled pixel. The last vector of a pixel reaches back over the one
// before, so that no count of channels has a tail; fewer channels than a vector has elements, and other factors, move
// element by element. Planes: r lines of one channel are zipped into one line, in the same way.

// What order a list of 2^k things is left in by splitting it into even and odd, and those again, k times.
constexpr int reversed(int i, int count) {
  int r = 0;
  for (int bit = 1; bit < count; bit *= 2) r = 2 * r + (i & bit ? 1 : 0);
  return r;
}

// kCount vectors, one after the other: into kCount streams, stream reversed(i) in v[i], and back.
template <class T, int kCount>
inline void split_all(Bits* v) {
  if constexpr (kCount > 1) {
    Bits even[kCount / 2], odd[kCount / 2];
#pragma GCC unroll 8
    for (int i = 0; i < kCount / 2; ++i) split<T>(v[2 * i], v[2 * i + 1], even[i], odd[i]);
    split_all<T, kCount / 2>(even);
    split_all<T, kCount / 2>(odd);
#pragma GCC unroll 8
    for (int i = 0; i < kCount / 2; ++i) v[i] = even[i], v[kCount / 2 + i] = odd[i];
  }
}
template <class T, int kCount>
inline void zip_all(Bits* v) {
  if constexpr (kCount > 1) {
    Bits even[kCount / 2], odd[kCount / 2];
#pragma GCC unroll 8
    for (int i = 0; i < kCount / 2; ++i) even[i] = v[i], odd[i] = v[kCount / 2 + i];
    zip_all<T, kCount / 2>(even);
    zip_all<T, kCount / 2>(odd);
#pragma GCC unroll 8
    for (int i = 0; i < kCount / 2; ++i) zip<T>(even[i], odd[i], v[2 * i], v[2 * i + 1]);
  }
}

// kStreams streams of `count` elements, and the same zipped. Stream i begins at stream(i).
template <class T, int kStreams, class F>
inline void unzip_streams(const T* zipped, int64_t count, F stream) {
  constexpr int64_t kElements = Bits::kBytes / sizeof(T);
  for (int64_t c = 0; c < count; c += kElements) {
    const int64_t at = c + kElements <= count ? c : count - kElements;
    Bits v[kStreams];
#pragma GCC unroll 16
    for (int i = 0; i < kStreams; ++i) v[i] = Bits::load(zipped + at * kStreams + i * kElements);
    split_all<T, kStreams>(v);
#pragma GCC unroll 16
    for (int i = 0; i < kStreams; ++i) v[i].store(stream(reversed(i, kStreams)) + at);
  }
}
template <class T, int kStreams, class F>
inline void zip_streams(T* zipped, int64_t count, F stream) {
  constexpr int64_t kElements = Bits::kBytes / sizeof(T);
  for (int64_t c = 0; c < count; c += kElements) {
    const int64_t at = c + kElements <= count ? c : count - kElements;
    Bits v[kStreams];
#pragma GCC unroll 16
    for (int i = 0; i < kStreams; ++i) v[i] = Bits::load(stream(reversed(i, kStreams)) + at);
    zip_all<T, kStreams>(v);
#pragma GCC unroll 16
    for (int i = 0; i < kStreams; ++i) v[i].store(zipped + at * kStreams + i * kElements);
  }
}

template <class T>
inline bool fills_vectors(int64_t count) {
  return count >= Bits::kBytes / static_cast<int64_t>(sizeof(T));
}

// R: the factor, or 0 for any. kVectors: as vectors, else element by element.
template <class T, int R, bool kVectors>
void shuffle_pixels(const PixelShuffle& p, int64_t row) {
  const int64_t n = row / p.h, h = row % p.h, r = R ? R : p.r, channels = p.c, line = p.w * r * channels;
  const T* source = static_cast<const T*>(p.source);
  T* destination = static_cast<T*>(p.destination);
  for (int64_t w = 0; w < p.w; ++w) {
    const int64_t packed = packed_offset(p, n, 0, 0, 0, h, w), shuffled = shuffled_offset(p, n, 0, 0, 0, h, w);
    if constexpr (kVectors) {
      const auto stream = [&](int q) { return shuffled + q / R * line + q % R * channels; };
      if (p.inverse)
        zip_streams<T, R * R>(destination + packed, channels, [&](int q) { return source + stream(q); });
      else
        unzip_streams<T, R * R>(source + packed, channels, [&](int q) { return destination + stream(q); });
      continue;
    }
    for (int64_t i = 0; i < r; ++i) {
      const int64_t zipped = packed + i * r, stream = shuffled + i * line;
      if (p.inverse) {
        for (int64_t j = 0; j < r; ++j)
          for (int64_t c = 0; c < channels; ++c)
            destination[zipped + c * r * r + j] = source[stream + j * channels + c];
      } else {
        for (int64_t j = 0; j < r; ++j)
          for (int64_t c = 0; c < channels; ++c)
            destination[stream + j * channels + c] = source[zipped + c * r * r + j];
      }
    }
  }
}

template <class T, int R, bool kVectors>
void shuffle_planes(const PixelShuffle& p, int64_t row) {
  const int64_t n = row / p.h / p.c, c = row / p.h % p.c, h = row % p.h, plane = p.h * p.w, r = R ? R : p.r;
  const T* source = static_cast<const T*>(p.source);
  T* destination = static_cast<T*>(p.destination);
  for (int64_t i = 0; i < r; ++i) {
    const int64_t packed = packed_offset(p, n, c, i, 0, h, 0), shuffled = shuffled_offset(p, n, c, i, 0, h, 0);
    if constexpr (kVectors) {
      if (p.inverse)
        unzip_streams<T, R>(source + shuffled, p.w, [&](int j) { return destination + packed + j * plane; });
      else
        zip_streams<T, R>(destination + shuffled, p.w, [&](int j) { return source + packed + j * plane; });
      continue;
    }
    for (int64_t j = 0; j < r; ++j) {
      for (int64_t w = 0; w < p.w; ++w) {
        if (p.inverse)
          destination[packed + j * plane + w] = source[shuffled + w * r + j];
        else
          destination[shuffled + w * r + j] = source[packed + j * plane + w];
      }
    }
  }
}

template <class T, int R, bool kVectors>
void shuffle_rows(const PixelShuffle& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row)
    p.channels_last ? shuffle_pixels<T, R, kVectors>(p, row) : shuffle_planes<T, R, kVectors>(p, row);
}

template <class T>
void shuffle_typed(const PixelShuffle& p, int64_t begin, int64_t end) {
  const bool vectors = fills_vectors<T>(p.channels_last ? p.c : p.w);
  switch (p.r) {
    case 2: return vectors ? shuffle_rows<T, 2, true>(p, begin, end) : shuffle_rows<T, 2, false>(p, begin, end);
    case 3: return shuffle_rows<T, 3, false>(p, begin, end);
    case 4: return vectors ? shuffle_rows<T, 4, true>(p, begin, end) : shuffle_rows<T, 4, false>(p, begin, end);
    default: return shuffle_rows<T, 0, false>(p, begin, end);
  }
}

void pixel_shuffle(const PixelShuffle& p, int64_t begin, int64_t end) {
  switch (p.element_size) {
    case 2: return shuffle_typed<uint16_t>(p, begin, end);
    case 4: return shuffle_typed<uint32_t>(p, begin, end);
    case 8: return shuffle_typed<uint64_t>(p, begin, end);
  }
}
