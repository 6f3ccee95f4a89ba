#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>

#include <cub/cub.cuh>
#include <cuda/barrier>
#include <cuda/pipeline>
namespace cg = cooperative_groups;
__global__ void block_scan(int *x, int *y) {
  typedef cub::BlockScan<int, 128> S;
  __shared__ typename S::TempStorage t;
  int v;
  S(t).ExclusiveSum(x[threadIdx.x], v);
  y[threadIdx.x] = v;
}
__global__ void block_sort(int *x, int *y) {
  typedef cub::BlockRadixSort<int, 64, 4> S;
  __shared__ typename S::TempStorage t;
  int v[4];
  for (int i = 0; i < 4; i++) v[i] = x[threadIdx.x * 4 + i];
  S(t).Sort(v);
  for (int i = 0; i < 4; i++) y[threadIdx.x * 4 + i] = v[i];
}
__global__ void tiles(int *x, int *y) {
  auto b = cg::this_thread_block();
  auto w = cg::tiled_partition<32>(b);
  auto t8 = cg::tiled_partition<8>(w);
  int v = x[b.thread_rank()];
  int sum = cg::reduce(w, v, cg::plus<int>()), most = cg::reduce(t8, v, cg::greater<int>()),
      scan = cg::inclusive_scan(t8, v);
  b.sync();
  y[b.thread_rank()] = sum * 100 + most + scan;
}
__global__ void coalesced(int *x, int *y, int *count) {
  if (x[threadIdx.x] & 1) {
    auto g = cg::coalesced_threads();
    int base;
    if (g.thread_rank() == 0) base = atomicAdd(count, g.size());
    y[g.shfl(base, 0) + g.thread_rank()] = x[threadIdx.x];
  }
}
__global__ void arrive_wait(float *x, float *y) {
  __shared__ cuda::barrier<cuda::thread_scope_block> b;
  __shared__ float s[128];
  if (threadIdx.x == 0) init(&b, blockDim.x);
  __syncthreads();
  s[threadIdx.x] = x[threadIdx.x];
  b.arrive_and_wait();
  y[threadIdx.x] = s[127 - threadIdx.x];
}
__global__ void pipeline(float *x, float *y, int n) {
  auto g = cg::this_thread_block();
  __shared__ float s[2][128];
  __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, 2> state;
  auto p = cuda::make_pipeline(g, &state);
  float total = 0;
  for (int k = 0, f = 0; k < n; k++) {
    for (; f < n && f < k + 2; f++) {
      p.producer_acquire();
      cuda::memcpy_async(g, s[f % 2], x + 128 * f, 512, p);
      p.producer_commit();
    }
    p.consumer_wait();
    total += s[k % 2][127 - threadIdx.x];
    p.consumer_release();
  }
  y[threadIdx.x] = total;
}
