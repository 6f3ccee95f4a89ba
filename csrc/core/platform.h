// What host and device compilers spell differently.
#pragma once

#if defined(__CUDACC__)
#define VSR_HOST_DEVICE __host__ __device__
#else
#define VSR_HOST_DEVICE
#endif
