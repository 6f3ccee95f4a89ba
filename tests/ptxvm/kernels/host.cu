#include <cuda_runtime.h>
template <int N>
__global__ void multiply(float *x, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] *= N;
}
namespace {
__global__ void reverse(const int *x, int *y, int n) {
  extern __shared__ int s[];
  for (int i = threadIdx.x; i < n; i += blockDim.x) s[i] = x[i];
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += blockDim.x) y[n - 1 - i] = s[i];
}
}  // namespace
__constant__ float factors[4];
__global__ void scale(float *x) { x[threadIdx.x] *= factors[threadIdx.x % 4]; }
__global__ void __launch_bounds__(128) bounded(float *x) { x[threadIdx.x] = 1; }

extern "C" int run_multiply(float *x, int n, int which, int threads) {
  int blocks = (n + threads - 1) / threads;
  switch (which) {
    case 2: multiply<2><<<blocks, threads>>>(x, n); break;
    case 3: multiply<3><<<dim3(blocks), dim3(threads, 1), 0, cudaStream_t(0)>>>(x, n); break;
    default: return -1;
  }
  return cudaGetLastError();
}
extern "C" int run_reverse(const int *x, int *y, int n, int opt_in) {
  int bytes = n * 4;
  if (opt_in) {
    int most;
    cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
    if (bytes > most && opt_in == 1) return -2;
    cudaError_t e = cudaFuncSetAttribute(reverse, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (e) return e;
  }
  reverse<<<1, 256, bytes>>>(x, y, n);
  return cudaGetLastError();
}
extern "C" int run_scale(const float *host, float *out, const float *f) {
  float *d;
  cudaMalloc(&d, 32 * 4);
  cudaMemcpy(d, host, 32 * 4, cudaMemcpyHostToDevice);
  cudaMemcpyToSymbol(factors, f, 16);
  scale<<<1, 32>>>(d);
  cudaMemcpy(out, d, 32 * 4, cudaMemcpyDeviceToHost);
  cudaError_t e = cudaDeviceSynchronize();
  return e ? e : cudaFree(d);
}
extern "C" int run_extended(float *x, int n) {
  cudaLaunchConfig_t c = {};
  c.gridDim = (n + 63) / 64, c.blockDim = 64;
  return cudaLaunchKernelEx(&c, multiply<5>, x, n);
}
extern "C" int run_bounded(float *x, int threads) {
  bounded<<<1, threads>>>(x);
  return cudaGetLastError();
}
extern "C" int properties() {
  cudaDeviceProp p;
  cudaGetDeviceProperties(&p, 0);
  return p.major * 1000 + p.multiProcessorCount;
}
extern "C" int occupancy(int threads, int shared) {
  int n = 0;
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&n, multiply<2>, threads, shared);
  return n;
}
