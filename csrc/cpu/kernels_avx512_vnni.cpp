#include "cpu/kernels.h"
#include "cpu/scratch.h"

#if defined(__x86_64__)

// Everything below is compiled for this instruction set, whatever the flags of the build; nothing that other files
// share may be included here, since the linker could keep this copy of it for all of them.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")
#endif

#define VSR_ISA avx512_vnni
#define VSR_INT8_DOT
#include "cpu/vec_avx512.h"

// Only the convolutions of uint8 differ from kernels_avx512.cpp.
namespace vsr::cpu::avx512_vnni {
namespace {

#include "cpu/vec.inl.h"
//
#include "cpu/types.inl.h"
//
#include "cpu/epilogue.inl.h"
//
#include "cpu/quantized.inl.h"
//
#include "cpu/conv_quantized.inl.h"

}  // namespace
}  // namespace vsr::cpu::avx512_vnni

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif

namespace vsr::cpu {

const Kernels& kernels_avx512_vnni() {
#if defined(__x86_64__)
  static const Kernels table = [] {
    Kernels t = kernels_avx512();
    t.isa = "avx512_vnni";
    t.quantized_conv3x3 = avx512_vnni::quantized_conv3x3;
    return t;
  }();
  return table;
#else
  return kernels_portable();
#endif
}

}  // namespace vsr::cpu
