// Pixel shuffle and its inverse: the launches. The plan of the kernels is in pixel_shuffle_kernel.cuh.

#include <cstdint>

#include "cuda/pixel_shuffle.h"
#include "cuda/pixel_shuffle_kernel.cuh"

namespace vsr::cuda {
namespace {

template <class T, int R, bool kInverse>
__global__ void __launch_bounds__(kShuffleThreads, kShuffleVectorBlocks)
    shuffle_channels_last_kernel(PixelShuffle p, int64_t units) {
  shuffle_channels_last<T, R, kInverse>(p, units);
}

template <class T, int R, bool kInverse>
__global__ void __launch_bounds__(kShuffleThreads) shuffle_contiguous_kernel(PixelShuffle p, int64_t units) {
  shuffle_contiguous<T, R, kInverse>(p, units);
}

template <class T, bool kInverse>
__global__ void __launch_bounds__(kShuffleThreads, kShuffleColourBlocks)
    shuffle_colours_kernel(PixelShuffle p, int stretches) {
  shuffle_colours<T, kInverse>(p, stretches);
}

template <class T, bool kVectors, bool kInverse>
__global__ void __launch_bounds__(kShuffleThreads) shuffle_rows_kernel(PixelShuffle p, int pixels, int stretches) {
  shuffle_rows<T, kVectors, kInverse>(p, pixels, stretches);
}

template <class T>
__global__ void __launch_bounds__(kShuffleThreads) shuffle_elements_kernel(PixelShuffle p, int64_t units) {
  shuffle_elements<T>(p, units);
}

constexpr int64_t kMaxBlocks = 0x7fffffff;  // of grid.x

template <class Kernel>
cudaError_t launch(Kernel kernel, const PixelShuffle& p, int64_t units, cudaStream_t stream) {
  const int64_t blocks = (units + kShuffleThreads - 1) / kShuffleThreads;
  if (blocks == 0) return cudaSuccess;
  if (blocks > kMaxBlocks) return cudaErrorInvalidConfiguration;
  kernel<<<static_cast<unsigned>(blocks), kShuffleThreads, 0, stream>>>(p, units);
  return cudaGetLastError();
}

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % kShuffleVectorBytes == 0; }

template <class T, int R>
cudaError_t launch_vectors(const PixelShuffle& p, cudaStream_t stream) {
  constexpr int V = ShuffleVector<T>::kSize;
  if (p.channels_last) {
    const int64_t units = p.n * p.h * p.w * (p.c / V);
    return p.inverse ? launch(shuffle_channels_last_kernel<T, R, true>, p, units, stream)
                     : launch(shuffle_channels_last_kernel<T, R, false>, p, units, stream);
  }
  const int64_t units = p.n * p.c * R * p.h * (p.w / V);
  return p.inverse ? launch(shuffle_contiguous_kernel<T, R, true>, p, units, stream)
                   : launch(shuffle_contiguous_kernel<T, R, false>, p, units, stream);
}

template <class T>
cudaError_t launch_rows(const PixelShuffle& p, ShuffleStretch stretch, cudaStream_t stream) {
  const int64_t pixels = stretch.pixels < p.w ? stretch.pixels : p.w;
  const int64_t stretches = (p.w + pixels - 1) / pixels, blocks = p.n * p.h * stretches;
  if (blocks > kMaxBlocks) return cudaErrorInvalidConfiguration;
  const auto kernel = stretch.vectors
                          ? (p.inverse ? shuffle_rows_kernel<T, true, true> : shuffle_rows_kernel<T, true, false>)
                          : (p.inverse ? shuffle_rows_kernel<T, false, true> : shuffle_rows_kernel<T, false, false>);
  const size_t shared = pixels * p.c * p.r * p.r * sizeof(T);
  kernel<<<static_cast<unsigned>(blocks), kShuffleThreads, shared, stream>>>(p, static_cast<int>(pixels),
                                                                             static_cast<int>(stretches));
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_colours(const PixelShuffle& p, cudaStream_t stream) {
  const int64_t stretches = (p.w + ShuffleColours<T>::kPixels - 1) / ShuffleColours<T>::kPixels,
                blocks = p.n * p.h * stretches;
  if (blocks > kMaxBlocks) return cudaErrorInvalidConfiguration;
  const auto kernel = p.inverse ? shuffle_colours_kernel<T, true> : shuffle_colours_kernel<T, false>;
  kernel<<<static_cast<unsigned>(blocks), kShuffleThreads, 0, stream>>>(p, static_cast<int>(stretches));
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_typed(const PixelShuffle& p, cudaStream_t stream) {
  constexpr int V = ShuffleVector<T>::kSize;
  const bool on_vectors = aligned(p.source) && aligned(p.destination);
  if (on_vectors && (p.channels_last ? p.c : p.w) % V == 0) {
    if (p.r == 2) return launch_vectors<T, 2>(p, stream);
    if (p.r == 3) return launch_vectors<T, 3>(p, stream);
    if (p.r == 4) return launch_vectors<T, 4>(p, stream);
  }
  if constexpr (sizeof(T) <= 4) {
    if (on_vectors && p.channels_last && p.c == ShuffleColours<T>::kC && p.r == ShuffleColours<T>::kR &&
        p.w % ShuffleColours<T>::kGroup == 0 && p.n * p.h * p.w > 0)
      return launch_colours<T>(p, stream);
  }
  const ShuffleStretch stretch = choose_stretch(p.c, p.r, p.element_size, p.w, on_vectors);
  if (p.channels_last && stretch.pixels > 0 && p.n * p.c * p.h * p.w > 0) return launch_rows<T>(p, stretch, stream);
  return launch(shuffle_elements_kernel<T>, p, p.n * p.c * p.r * p.r * p.h * p.w, stream);
}

}  // namespace

cudaError_t launch_pixel_shuffle(const PixelShuffle& problem, cudaStream_t stream) {
  switch (problem.element_size) {
    case 2: return launch_typed<uint16_t>(problem, stream);
    case 4: return launch_typed<uint32_t>(problem, stream);
    case 8: return launch_typed<uint64_t>(problem, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace vsr::cuda
