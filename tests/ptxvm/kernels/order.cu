#include <cstdint>

__device__ void wait_for(int barrier, int threads) {
  asm volatile("barrier.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ void arrive_at(int barrier, int threads) {
  asm volatile("barrier.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// Two groups of 64 threads, each with a barrier of its own; `cross` reads what the other group wrote.
__global__ void groups(int *y, int cross) {
  __shared__ int s[128];
  const int group = threadIdx.x / 64, lane = threadIdx.x % 64;
  s[threadIdx.x] = threadIdx.x;
  wait_for(1 + group, 64);
  y[threadIdx.x] = s[64 * (group ^ cross) + 63 - lane];
}

// Threads 0..63 fill a ring of two stages, threads 64..127 read it. Barriers 1 and 2: full, 3 and 4: empty.
// early_read, early_write: the step at which a group does not wait before its access, but after it.
__global__ void ring(const int *x, int *y, int steps, int early_read, int early_write) {
  __shared__ int s[2][64];
  const int lane = threadIdx.x % 64;
  if (threadIdx.x < 64) {
    for (int k = 0; k < steps; ++k) {
      if (k >= 2 && k != early_write) wait_for(3 + k % 2, 128);
      s[k % 2][lane] = x[64 * k + lane];
      if (k >= 2 && k == early_write) wait_for(3 + k % 2, 128);
      arrive_at(1 + k % 2, 128);
    }
  } else {
    int total = 0;
    for (int k = 0; k < steps; ++k) {
      if (k != early_read) wait_for(1 + k % 2, 128);
      total += s[k % 2][63 - lane];
      if (k == early_read) wait_for(1 + k % 2, 128);
      if (k + 2 < steps) arrive_at(3 + k % 2, 128);
    }
    y[lane] = total;
  }
}

__device__ uint32_t shared_address(const void *p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
__device__ void init(uint64_t *b, int n) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(n) : "memory");
}
__device__ void arrive(uint64_t *b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
__device__ void wait(uint64_t *b, int parity) {
  asm volatile(
      "{\n.reg .pred p;\nLOOP:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra DONE;\nbra "
      "LOOP;\nDONE:\n}" ::"r"(shared_address(b)),
      "r"(parity)
      : "memory");
}

// The same ring with mbarriers; `bulk` lets one thread copy a stage with cp.async.bulk.
__global__ void mbarrier_ring(const int *x, int *y, int steps, int early_read, int early_write, int bulk) {
  __shared__ alignas(128) int s[2][64];
  __shared__ uint64_t full[2], empty[2];
  const int lane = threadIdx.x % 64;
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) init(&full[i], bulk ? 1 : 64), init(&empty[i], 64);
  }
  __syncthreads();
  if (threadIdx.x < 64) {
    for (int k = 0; k < steps; ++k) {
      if (k != early_write) wait(&empty[k % 2], (k / 2 & 1) ^ 1);
      if (!bulk) {
        s[k % 2][lane] = x[64 * k + lane];
        if (k == early_write) wait(&empty[k % 2], (k / 2 & 1) ^ 1);
        arrive(&full[k % 2]);
      } else if (lane == 0) {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 256;" ::"r"(shared_address(&full[k % 2]))
                     : "memory");
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 256, [%2];" ::"r"(
                         shared_address(s[k % 2])),
                     "l"(x + 64 * k), "r"(shared_address(&full[k % 2]))
                     : "memory");
      }
      if (bulk && k == early_write) wait(&empty[k % 2], (k / 2 & 1) ^ 1);
    }
  } else {
    int total = 0;
    for (int k = 0; k < steps; ++k) {
      if (k != early_read) wait(&full[k % 2], k / 2 & 1);
      total += s[k % 2][63 - lane];
      if (k == early_read) wait(&full[k % 2], k / 2 & 1);
      arrive(&empty[k % 2]);
    }
    y[lane] = total;
  }
}
