#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>
__global__ void tile(const __grid_constant__ CUtensorMap map, uint16_t *y, int cx, int cy) {
  extern __shared__ __align__(1024) uint16_t s[];
  __shared__ uint64_t b;
  uint32_t bar = (uint32_t)__cvta_generic_to_shared(&b), dst = (uint32_t)__cvta_generic_to_shared(s);
  if (threadIdx.x == 0) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(bar));
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(64 * 16 * 2) : "memory");
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
        "[%4];" ::"r"(dst),
        "l"(&map), "r"(cx), "r"(cy), "r"(bar)
        : "memory");
  }
  __syncthreads();
  asm volatile("{\n.reg .pred p;\nL:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], 0;\n@!p bra L;\n}" ::"r"(bar)
               : "memory");
  for (int i = threadIdx.x; i < 64 * 16; i += blockDim.x)
    y[i] = s[(i / 64) * 64 + (((i % 64) / 8) ^ (i / 64 % 8)) * 8 + i % 8];
}
extern "C" int run_tile(void *x, void *y, long rows, long columns, int cx, int cy) {
  typedef CUresult (*Encode)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                             const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                             CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  void *f = nullptr;
  cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, nullptr);
  CUtensorMap map;
  cuuint64_t shape[2] = {(cuuint64_t)columns, (cuuint64_t)rows}, strides[1] = {(cuuint64_t)columns * 2};
  cuuint32_t box[2] = {64, 16}, steps[2] = {1, 1};
  CUresult r = ((Encode)f)(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, x, shape, strides, box, steps,
                           CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                           CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (r) return -(int)r;
  tile<<<1, 64, 64 * 16 * 2>>>(map, (uint16_t *)y, cx, cy);
  return cudaGetLastError();
}
