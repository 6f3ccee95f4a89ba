// What host and device compilers spell differently, and the run-time compiler (NVRTC), which has no host headers.
#pragma once

#if defined(__CUDACC_RTC__)
using int64_t = long long;
using uint32_t = unsigned int;
using uint16_t = unsigned short;
using uint64_t = unsigned long long;
using uintptr_t = unsigned long;
#else
#include <cstdint>
#endif

#if defined(__CUDACC__)
#define VSR_HOST_DEVICE __host__ __device__
#else
#define VSR_HOST_DEVICE
#endif
