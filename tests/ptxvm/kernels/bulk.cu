#include <cstdint>
__device__ uint32_t smem(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }
__device__ void init(uint64_t *b, int n) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem(b)), "r"(n));
}
__device__ void expect(uint64_t *b, int n) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem(b)), "r"(n) : "memory");
}
__device__ void arrive(uint64_t *b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(smem(b)) : "memory");
}
__device__ void wait(uint64_t *b, int parity) {
  asm volatile(
      "{\n.reg .pred p;\nLOOP:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra DONE;\nbra "
      "LOOP;\nDONE:\n}" ::"r"(smem(b)),
      "r"(parity)
      : "memory");
}
__global__ void bulk(const float *x, float *y, int n) {
  __shared__ alignas(128) float s[256];
  __shared__ uint64_t b;
  if (threadIdx.x == 0) {
    init(&b, 1);
    asm volatile("fence.mbarrier_init.release.cluster;");
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    expect(&b, n * 4);
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(smem(s)),
        "l"(x), "r"(n * 4), "r"(smem(&b))
        : "memory");
  }
  wait(&b, 0);
  s[threadIdx.x] *= 2;
  asm volatile("fence.proxy.async.shared::cta;");
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(y), "r"(smem(s)), "r"(n * 4)
                 : "memory");
    asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;" ::: "memory");
  }
}
// One producer warp feeds three consumer warps through a ring of two stages.
__global__ void specialised(const float *x, float *y, int steps) {
  __shared__ alignas(128) float s[2][96];
  __shared__ uint64_t full[2], empty[2];
  int warp = threadIdx.x / 32;
  if (threadIdx.x == 0)
    for (int i = 0; i < 2; i++) {
      init(&full[i], 1);
      init(&empty[i], 96);
    }
  __syncthreads();
  if (warp == 3) {
    if (threadIdx.x % 32 == 0)
      for (int k = 0; k < steps; k++) {
        wait(&empty[k % 2], (k / 2 & 1) ^ 1);
        expect(&full[k % 2], 384);
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 384, [%2];" ::"r"(
                         smem(s[k % 2])),
                     "l"(x + 96 * k), "r"(smem(&full[k % 2]))
                     : "memory");
      }
  } else {
    float total = 0;
    for (int k = 0; k < steps; k++) {
      wait(&full[k % 2], k / 2 & 1);
      total += s[k % 2][threadIdx.x];
      arrive(&empty[k % 2]);
    }
    y[threadIdx.x] = total;
  }
}
struct alignas(64) Map {
  char bytes[128];
};
__global__ void tiles(const __grid_constant__ Map in, const __grid_constant__ Map out, float *copy, int cx, int cy) {
  extern __shared__ __align__(1024) float s[];
  __shared__ uint64_t b;
  if (threadIdx.x == 0) init(&b, 1);
  __syncthreads();
  if (threadIdx.x == 0) {
    expect(&b, 8 * 32 * 4);
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
        "[%4];" ::"r"(smem(s)),
        "l"(&in), "r"(cx), "r"(cy), "r"(smem(&b))
        : "memory");
  }
  wait(&b, 0);
  for (int i = threadIdx.x; i < 256; i += 32) copy[i] = s[i];
  __syncthreads();
  if (threadIdx.x == 0)
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&out),
                 "r"(smem(s)), "r"(cx), "r"(cy)
                 : "memory");
}
__global__ void stuck(float *y) {
  __shared__ uint64_t b;
  if (threadIdx.x == 0) init(&b, 2);
  __syncthreads();
  if (threadIdx.x == 0) arrive(&b);
  wait(&b, 0);
  y[0] = 1;
}
__global__ void relay(volatile int *y) {
  __shared__ uint64_t b;
  if (threadIdx.x == 0) init(&b, 1);
  __syncthreads();
  int warp = threadIdx.x / 32;
  if (warp == 0) {
    wait(&b, 0);
    if (threadIdx.x == 0) y[0] = 1;
  }
  if (warp == 1)
    while (y[0] == 0) {
    }
  if (warp == 2 && threadIdx.x % 32 == 0) arrive(&b);
  if (warp == 1 && threadIdx.x % 32 == 0) y[1] = 1;
}
