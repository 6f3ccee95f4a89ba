// Description of a pixel shuffle: shuffled[n, c, r h + i, r w + j] = packed[n, c r^2 + i r + j, h, w].
#pragma once

#include "core/platform.h"

namespace vsr {

// Both tensors are dense and of the same memory format. The inverse swaps source and destination.
struct PixelShuffle {
  const void* source;
  void* destination;
  int64_t n, c, h, w;  // of the packed side: C counts the channels after the shuffle, H and W the pixels before it
  int64_t r;
  int64_t element_size;
  bool channels_last;
  bool inverse;
};

// Offsets in elements within the whole tensor. Device and host use the same maps.
VSR_HOST_DEVICE inline int64_t packed_offset(const PixelShuffle& p, int64_t n, int64_t c, int64_t i, int64_t j,
                                             int64_t h, int64_t w) {
  const int64_t channel = (c * p.r + i) * p.r + j;
  const int64_t channels = p.c * p.r * p.r;
  return p.channels_last ? ((n * p.h + h) * p.w + w) * channels + channel
                         : ((n * channels + channel) * p.h + h) * p.w + w;
}

VSR_HOST_DEVICE inline int64_t shuffled_offset(const PixelShuffle& p, int64_t n, int64_t c, int64_t i, int64_t j,
                                               int64_t h, int64_t w) {
  const int64_t row = h * p.r + i, col = w * p.r + j;
  return p.channels_last ? ((n * p.h * p.r + row) * (p.w * p.r) + col) * p.c + c
                         : ((n * p.c + c) * p.h * p.r + row) * (p.w * p.r) + col;
}

}  // namespace vsr
