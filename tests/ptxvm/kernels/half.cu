#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
__global__ void functions(const half *x, float *y, const __nv_bfloat16 *b, float *z, __nv_fp8_e4m3 *f) {
  int i = threadIdx.x;
  half v = x[i];
  __nv_bfloat16 w = b[i];
  half r[8] = {hexp(v), hsin(v), hlog(v), hsqrt(v), hrcp(v), htrunc(v), __hmax(v, half(0.5)), h2exp(__half2half2(v)).y};
  __nv_bfloat16 s[4] = {hexp(w), hsqrt(w), __hfma_relu(w, w, __hneg(w)), __hmin(w, __nv_bfloat16(0.5f))};
  for (int k = 0; k < 8; k++) y[i * 8 + k] = r[k];
  for (int k = 0; k < 4; k++) z[i * 4 + k] = s[k];
  f[i] = __nv_fp8_e4m3(float(v));
}
