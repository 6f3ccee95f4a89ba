#include <cstdio>
__global__ void in_double(double *x, double *y) {
  double d = x[threadIdx.x];
  y[threadIdx.x] = sin(d) + exp(d) + log(d + 2) + pow(fabs(d), 1.7) + sqrt(d + 2) + 1.0 / (d + 3) + erf(d) +
                   fmod(d, 0.3) + lgamma(d + 3) + cbrt(d) + sin(d * 1e7);
}
__global__ void in_float(float *x, float *y) {
  float a = x[threadIdx.x];
  y[threadIdx.x] = sinf(a) + tanf(a) + logf(a + 2) + powf(fabsf(a), 1.3f) + erff(a) + atan2f(a, 2.f) + cbrtf(a) +
                   rsqrtf(a + 2) + exp2f(a) + log1pf(a * a) + ldexpf(a, 3) + roundf(a) + floorf(a);
}
struct Base {
  __device__ virtual float f(float) = 0;
};
struct Twice : Base {
  __device__ float f(float x) { return 2 * x; }
};
struct Next : Base {
  __device__ float f(float x) { return x + 1; }
};
__global__ void virtual_call(float *y) {
  Twice a;
  Next b;
  Base *p = threadIdx.x & 1 ? (Base *)&a : (Base *)&b;
  y[threadIdx.x] = p->f(threadIdx.x);
}
__device__ __noinline__ float f1(float x) { return x * 3; }
__device__ __noinline__ float f2(float x) { return x - 3; }
__device__ float (*choice[2])(float) = {f1, f2};
__global__ void through_pointer(float *y) { y[threadIdx.x] = choice[threadIdx.x % 2](threadIdx.x); }
__global__ void print(int *y) {
  if (threadIdx.x < 2) printf("thread %d %s %.2f %lld\n", threadIdx.x, "ok", 1.5 * threadIdx.x, 1ll << 40);
  y[threadIdx.x] = 1;
}
