// The launcher of the CUDA pixel shuffle as a C function, for hosts that build a problem from plain numbers.
#include "cuda/pixel_shuffle.cu"

extern "C" int pixel_shuffle(const void* source, void* destination, int64_t n, int64_t c, int64_t h, int64_t w,
                             int64_t r, int64_t element_size, int channels_last, int inverse) {
  const vsr::PixelShuffle problem{source, destination, n, c, h, w, r, element_size, channels_last != 0, inverse != 0};
  return vsr::cuda::launch_pixel_shuffle(problem, nullptr);
}
