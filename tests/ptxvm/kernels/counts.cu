#include <cuda_pipeline.h>

namespace tiles {
enum class Kind { first, second };

template <int N, bool kFlag>
__global__ void scale(float *y) {
  y[threadIdx.x] = kFlag ? N : -N;
}
template <unsigned N, Kind kKind>
__global__ void by_kind(float *y) {
  y[threadIdx.x] = kKind == Kind::second ? N : 0;
}
namespace {
template <class T>
__global__ void hidden(T *y) {
  y[threadIdx.x] = T(3);
}
}  // namespace
}  // namespace tiles

template __global__ void tiles::scale<64, false>(float *);
template __global__ void tiles::scale<64, true>(float *);
template __global__ void tiles::scale<6, false>(float *);
template __global__ void tiles::by_kind<3u, tiles::Kind::second>(float *);
void use(float *y) { tiles::hidden<float><<<1, 32>>>(y); }

// Every block reads the same 128 bytes `times` times, and 128 of its own.
__global__ void rereads(const volatile float *x, float *y, int times) {
  float total = 0;
  for (int k = 0; k < times; ++k) total += x[threadIdx.x];
  y[32 * blockIdx.x + threadIdx.x] = total + x[32 * (1 + blockIdx.x) + threadIdx.x];
}
__global__ void copies(const float4 *x, float4 *y) {
  __shared__ float4 s[32];
  __pipeline_memcpy_async(&s[threadIdx.x], &x[threadIdx.x], 16);
  __pipeline_commit();
  __pipeline_wait_prior(0);
  y[threadIdx.x] = s[threadIdx.x];
}

// Blocks overlap by `overlap` elements, where each stores its index (or, if `equal`, the same value).
__global__ void overlapping(int *y, int overlap, int equal) {
  y[blockIdx.x * (blockDim.x - overlap) + threadIdx.x] = equal ? 7 : blockIdx.x;
}
__global__ void halves(short *y, int *z) {
  y[blockIdx.x] = blockIdx.x;
  if (threadIdx.x == 0 && blockIdx.x < 4) z[blockIdx.x / 2] = blockIdx.x;
}
__global__ void last_wins(volatile int *y) { *y = blockIdx.x; }
__global__ void counted(int *y) { atomicAdd(y, 1); }
