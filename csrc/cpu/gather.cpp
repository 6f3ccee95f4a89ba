// Channels picked out of pixels: moves of elements by size, for any dtype.

#include "core/epilogue.h"
#include "cpu/kernels.h"

namespace vsr::cpu {
namespace {

template <class T>
void gather(const ChannelGather& p, int64_t begin, int64_t end) {
  const T* from = static_cast<const T*>(p.x) + begin * p.c;
  T* to = static_cast<T*>(p.out) + begin * p.kept;
  for (int64_t pixel = begin; pixel < end; ++pixel, from += p.c, to += p.kept)
    for (int64_t k = 0; k < p.kept; ++k) to[k] = from[p.channels[k]];
}

}  // namespace

void gather_channels(const ChannelGather& p, int64_t begin, int64_t end) {
  switch (p.element_size) {
    case 2: return gather<uint16_t>(p, begin, end);
    case 4: return gather<uint32_t>(p, begin, end);
  }
}

}  // namespace vsr::cpu
