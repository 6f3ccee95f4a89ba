#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
__global__ void scale(float *y, const float *x, int n, float s) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = x[i] * s + expf(x[i]);
}
__global__ void collatz(int *a, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int x = a[i], c = 0;
  while (x != 1) {
    x = x & 1 ? 3 * x + 1 : x / 2;
    c++;
  }
  a[i] = c;
}
__global__ void block_sum(const float *a, float *out, int n) {
  extern __shared__ float part[];
  float v = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += a[i];
  for (int k = 16; k; k >>= 1) v += __shfl_xor_sync(~0u, v, k);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  if (threadIdx.x < 32) {
    v = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0;
    for (int k = 16; k; k >>= 1) v += __shfl_down_sync(~0u, v, k);
    if (threadIdx.x == 0) atomicAdd(out, v);
  }
}
__global__ void transpose(const float *x, float *y, int rows, int cols) {
  __shared__ float tile[32][33];
  int c = blockIdx.x * 32 + threadIdx.x, r = blockIdx.y * 32 + threadIdx.y;
  for (int k = 0; k < 32; k += 8)
    if (c < cols && r + k < rows) tile[threadIdx.y + k][threadIdx.x] = x[(r + k) * cols + c];
  __syncthreads();
  int tr = blockIdx.x * 32 + threadIdx.y, tc = blockIdx.y * 32 + threadIdx.x;
  for (int k = 0; k < 32; k += 8)
    if (tr + k < cols && tc < rows) y[(tr + k) * rows + tc] = tile[threadIdx.x][threadIdx.y + k];
}
__global__ void histogram(const uint8_t *x, unsigned *h, int n) {
  __shared__ unsigned local[256];
  local[threadIdx.x] = 0;
  __syncthreads();
  for (int i = blockIdx.x * 256 + threadIdx.x; i < n; i += gridDim.x * 256) atomicAdd(&local[x[i]], 1u);
  __syncthreads();
  atomicAdd(&h[threadIdx.x], local[threadIdx.x]);
}
__global__ void tickets(unsigned *counter, unsigned *slot, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) slot[i] = atomicAdd(counter, 2u);
}
struct Affine {
  float a[4];
  const float *bias;
  short shift;
  double gain;
};
__global__ void by_value(Affine p, float *y) {
  int i = threadIdx.x;
  y[i] = p.a[i % 4] * (float)p.gain + p.bias[i] + p.shift;
}
__device__ __noinline__ float helper(float x, int k, float *extra) {
  *extra = x + k;
  return k > 3 ? x * k : x - k;
}
__device__ __noinline__ float outer(float x, int k) {
  float e;
  float r = helper(x, k, &e);
  return r + e;
}
__global__ void calls(const float *x, float *y) {
  int i = threadIdx.x;
  float v = x[i];
  if (i % 3)
    v = outer(v, i);
  else {
    float e;
    v = helper(v, 7, &e) * e;
  }
  y[i] = v;
}
__global__ void halves(const __half2 *a, const __half2 *b, __half2 *y, const __nv_bfloat162 *c, const __nv_bfloat162 *d,
                       __nv_bfloat162 *z) {
  int i = threadIdx.x;
  y[i] = __hfma2(a[i], b[i], __hadd2(a[i], __hmul2(b[i], b[i])));
  z[i] = __hfma2(c[i], d[i], __hsub2(c[i], __hmul2(d[i], d[i])));
}
__constant__ float table[5] = {1.5f, -2.0f, 3.25f, 4.0f, 0.5f};
__device__ int counter = 41;
__global__ void constants(float *y, int *old) {
  y[threadIdx.x] = table[threadIdx.x % 5];
  if (threadIdx.x == 0) {
    *old = counter;
    counter = 7;
  }
}
__global__ void locals(const int *index, float *y) {
  float stack[16];
  for (int k = 0; k < 16; k++) stack[k] = k * threadIdx.x;
  stack[index[threadIdx.x]] += 100;
  float s = 0;
  for (int k = 0; k < 16; k++) s += stack[index[(threadIdx.x + k) % 32]];
  y[threadIdx.x] = s;
}
__global__ void choose(const int *x, int *y) {
  int i = threadIdx.x, v = x[i];
  switch (v) {
    case 0: v = i * 3; break;
    case 1: v = i + 7; break;
    case 2: v = i ^ 5; break;
    case 3: v = i << 2; break;
    case 4: v = -i; break;
    case 5: v = i * i; break;
    case 6: v = i / 3; break;
    case 7: v = i % 7; break;
    default: v = 1;
  }
  y[i] = v;
}
__global__ void spin_lock(int *lock, int *value) {
  bool done = false;
  while (!done) {
    if (atomicCAS(lock, 0, 1) == 0) {
      *(volatile int *)value += 1;
      __threadfence();
      atomicExch(lock, 0);
      done = true;
    }
  }
}
__global__ void any_all(const int *x, int *y) {
  int i = threadIdx.x;
  y[i] = __syncthreads_count(x[i] > 0) * 100 + (__syncthreads_or(x[i] > 98) ? 10 : 0) +
         (__syncthreads_and(x[i] >= 0) ? 1 : 0);
}
