// Copies from global to shared memory behind the back of the computing threads (cp.async), 16 bytes at a time.
//
// Before sm_80 a copy is a load and a store, done when the call returns; groups and waits then mean nothing.
#pragma once

#include "core/platform.h"
#include "cuda/memory.cuh"

namespace vsr::cuda {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// 16 bytes to `to` + kTo: from `from` + kFrom where kIndex < limit; else zeros, and `from` may point anywhere.
template <int kTo, int kFrom, int kIndex>
__device__ __forceinline__ void copy16_below(uint32_t to, const char* from, int limit) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "{.reg .pred p; .reg .b32 bytes; setp.gt.s32 p, %2, %3; selp.b32 bytes, 16, 0, p; "
      "cp.async.cg.shared.global [%0 + %4], [%1 + %5], 16, bytes;}" ::"r"(to),
      "l"(__cvta_generic_to_global(from)), "r"(limit), "n"(kIndex), "n"(kTo), "n"(kFrom)
      : "memory");
#else
  uint32_t words[4];
  load_global_below<kIndex>(words, from + kFrom, limit);
  store_shared<kTo>(to, words);
#endif
}

// The same without the condition.
template <int kTo, int kFrom>
__device__ __forceinline__ void copy16(uint32_t to, const char* from) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0 + %2], [%1 + %3], 16;" ::"r"(to), "l"(__cvta_generic_to_global(from)),
               "n"(kTo), "n"(kFrom)
               : "memory");
#else
  copy16_below<kTo, kFrom, 0>(to, from, 1);
#endif
}

// The same where kIndex < limit; elsewhere nothing happens.
template <int kTo, int kFrom, int kIndex>
__device__ __forceinline__ void copy16_if_below(uint32_t to, const char* from, int limit) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "{.reg .pred p; setp.gt.s32 p, %2, %3; @p cp.async.cg.shared.global [%0 + %4], [%1 + %5], 16;}" ::"r"(to),
      "l"(__cvta_generic_to_global(from)), "r"(limit), "n"(kIndex), "n"(kTo), "n"(kFrom)
      : "memory");
#else
  if (kIndex < limit) copy16<kTo, kFrom>(to, from);
#endif
}

// Closes a group: the copies of this thread since the last one.
__device__ __forceinline__ void close_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most kPending of this thread's groups are under way.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

}  // namespace vsr::cuda
