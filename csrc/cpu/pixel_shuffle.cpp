// Pixel shuffle, its inverse, and channel gathers: moves of elements by size, for any dtype.
//
// Plan. A unit of work is one image row on the packed side, i.e. r rows on the other. Both sides are walked so that
// writes are contiguous; the reads stay within one pixel (channels_last) or r rows (contiguous), which the L1 holds.

#include <cstring>

#include "core/epilogue.h"
#include "cpu/kernels.h"

namespace vsr::cpu {
namespace {

template <class T, int R>  // R = 0: any factor
void shuffle_row(const PixelShuffle& p, int64_t n, int64_t h) {
  const int64_t r = R ? R : p.r;
  const T* packed = static_cast<const T*>(p.source);
  T* shuffled = static_cast<T*>(p.destination);
  if (p.channels_last) {
    for (int64_t i = 0; i < r; ++i) {
      T* to = shuffled + shuffled_offset(p, n, 0, i, 0, h, 0);
      for (int64_t w = 0; w < p.w; ++w) {
        const T* from = packed + packed_offset(p, n, 0, i, 0, h, w);
        for (int64_t j = 0; j < r; ++j)
          for (int64_t c = 0; c < p.c; ++c) *to++ = from[c * r * r + j];
      }
    }
    return;
  }
  for (int64_t c = 0; c < p.c; ++c) {
    for (int64_t i = 0; i < r; ++i) {
      T* to = shuffled + shuffled_offset(p, n, c, i, 0, h, 0);
      const T* from = packed + packed_offset(p, n, c, i, 0, h, 0);
      for (int64_t w = 0; w < p.w; ++w)
        for (int64_t j = 0; j < r; ++j) to[w * r + j] = from[j * p.h * p.w + w];
    }
  }
}

template <class T, int R>
void unshuffle_row(const PixelShuffle& p, int64_t n, int64_t h) {
  const int64_t r = R ? R : p.r;
  const T* shuffled = static_cast<const T*>(p.source);
  T* packed = static_cast<T*>(p.destination);
  if (p.channels_last) {
    for (int64_t w = 0; w < p.w; ++w) {
      T* to = packed + packed_offset(p, n, 0, 0, 0, h, w);
      for (int64_t i = 0; i < r; ++i) {
        const T* from = shuffled + shuffled_offset(p, n, 0, i, 0, h, w);
        for (int64_t j = 0; j < r; ++j)
          for (int64_t c = 0; c < p.c; ++c) to[c * r * r + i * r + j] = *from++;
      }
    }
    return;
  }
  for (int64_t c = 0; c < p.c; ++c) {
    for (int64_t i = 0; i < r; ++i) {
      const T* from = shuffled + shuffled_offset(p, n, c, i, 0, h, 0);
      T* to = packed + packed_offset(p, n, c, i, 0, h, 0);
      for (int64_t w = 0; w < p.w; ++w)
        for (int64_t j = 0; j < r; ++j) to[j * p.h * p.w + w] = from[w * r + j];
    }
  }
}

template <class T, int R>
void rows(const PixelShuffle& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t n = row / p.h, h = row % p.h;
    p.inverse ? unshuffle_row<T, R>(p, n, h) : shuffle_row<T, R>(p, n, h);
  }
}

template <class T>
void by_factor(const PixelShuffle& p, int64_t begin, int64_t end) {
  switch (p.r) {
    case 2: return rows<T, 2>(p, begin, end);
    case 3: return rows<T, 3>(p, begin, end);
    case 4: return rows<T, 4>(p, begin, end);
    default: return rows<T, 0>(p, begin, end);
  }
}

template <class T>
void gather(const ChannelGather& p, int64_t begin, int64_t end) {
  const T* from = static_cast<const T*>(p.x) + begin * p.c;
  T* to = static_cast<T*>(p.out) + begin * p.kept;
  for (int64_t pixel = begin; pixel < end; ++pixel, from += p.c, to += p.kept)
    for (int64_t k = 0; k < p.kept; ++k) to[k] = from[p.channels[k]];
}

}  // namespace

void pixel_shuffle(const PixelShuffle& p, int64_t begin, int64_t end) {
  switch (p.element_size) {
    case 2: return by_factor<uint16_t>(p, begin, end);
    case 4: return by_factor<uint32_t>(p, begin, end);
    case 8: return by_factor<uint64_t>(p, begin, end);
  }
}

void gather_channels(const ChannelGather& p, int64_t begin, int64_t end) {
  switch (p.element_size) {
    case 2: return gather<uint16_t>(p, begin, end);
    case 4: return gather<uint32_t>(p, begin, end);
  }
}

}  // namespace vsr::cpu
