// Whether the AMX kernels are compiled: compilers before these have no intrinsics for it, and other systems than Linux
// have other ways to ask for its use.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define VSR_HAS_AMX
#endif
