#include <cuda_pipeline.h>
__global__ void copy(float *y, const float *x, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = x[i];
}
__global__ void misaligned(const char *x, float4 *y) { y[threadIdx.x] = *(const float4 *)(x + 16 * threadIdx.x + 4); }
__global__ void shared_bounds(int *y, int k) {
  __shared__ int s[64];
  s[threadIdx.x + k] = 1;
  __syncthreads();
  y[threadIdx.x] = s[0];
}
__global__ void race(int *y, int bar) {
  __shared__ int s[64];
  s[threadIdx.x] = threadIdx.x;
  if (bar) __syncthreads();
  y[threadIdx.x] = s[63 - threadIdx.x];
  if (bar > 1) __syncthreads();
  s[threadIdx.x] = 5;
}
__global__ void broadcast_race(int *y) {
  __shared__ int s;
  if (!threadIdx.x) s = 1;
  __syncthreads();
  y[threadIdx.x] = s;
  if (!threadIdx.x) s = 2;
}
__global__ void write_race(int *y) {
  __shared__ int s[2];
  s[threadIdx.x % 2] = threadIdx.x;
  __syncthreads();
  y[threadIdx.x] = s[0];
}
__global__ void uninitialized(int *y) {
  __shared__ int s[64];
  if (threadIdx.x) s[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}
__global__ void deadlock(int *y) {
  if (threadIdx.x < 32) asm volatile("bar.sync 1, 64;");
  y[threadIdx.x] = 1;
}
__global__ void forever(volatile int *y) {
  while (*y == 0) {
  }
}
__global__ void async_copy(const float4 *x, float4 *y, int wait, int bar) {
  __shared__ float4 s[64];
  __pipeline_memcpy_async(&s[threadIdx.x], &x[threadIdx.x], 16);
  __pipeline_commit();
  if (wait) __pipeline_wait_prior(0);
  if (bar) __syncthreads();
  y[threadIdx.x] = s[bar ? 63 - threadIdx.x : threadIdx.x];
}
__global__ void async_stages(const float4 *x, float4 *y, int n) {
  __shared__ float4 s[3][32];
  for (int k = 0; k < 2; k++) {
    __pipeline_memcpy_async(&s[k][threadIdx.x], &x[k * 32 + threadIdx.x], 16);
    __pipeline_commit();
  }
  for (int k = 0; k < n; k++) {
    int next = k + 2;
    if (next < n) __pipeline_memcpy_async(&s[next % 3][threadIdx.x], &x[next * 32 + threadIdx.x], 16);
    __pipeline_commit();
    __pipeline_wait_prior(2);
    y[k * 32 + threadIdx.x] = s[k % 3][threadIdx.x];
  }
}
__global__ void async_zero_fill(const float4 *x, float4 *y, int n) {
  __shared__ float4 s[32];
  int keep = threadIdx.x < n ? 0 : threadIdx.x == n ? 8 : 16;
  __pipeline_memcpy_async(&s[threadIdx.x], &x[threadIdx.x], 16, keep);
  __pipeline_commit();
  __pipeline_wait_prior(0);
  y[threadIdx.x] = s[threadIdx.x];
}
__global__ void conflicts(float *y, int stride) {
  __shared__ float s[32 * 33];
  s[threadIdx.x * stride] = 1;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x * stride];
}
__global__ void shuffle_absent(int *y) {
  int v = threadIdx.x;
  y[threadIdx.x] = __shfl_down_sync(0xffffffffu, v, 8);
}
__global__ void trapped(int *y) {
  if (threadIdx.x == 5) __trap();
}
__global__ void mma_divergent(float *y) {
  float c[4] = {};
  if (threadIdx.x != 3)
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%4}, {%4}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(0));
  y[threadIdx.x] = c[0];
}
__global__ void strided(float *y, const float *x, int stride) { y[threadIdx.x] = x[threadIdx.x * stride]; }
__global__ void same_value(int *y) {
  __shared__ int flag;
  if (threadIdx.x % 3 == 0) flag = 7;
  __syncthreads();
  y[threadIdx.x] = flag;
}
