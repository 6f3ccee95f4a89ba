#include "cpu/amx_compiler.h"
#include "cpu/kernels.h"
#include "cpu/scratch.h"

#if defined(VSR_HAS_AMX)

// Everything below is compiled for this instruction set, whatever the flags of the build; nothing that other files
// share may be included here, since the linker could keep this copy of it for all of them.
#if defined(__clang__)
#pragma clang attribute push(                                                                             \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,prfchw,amx-tile,amx-int8"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,prfchw,amx-tile,amx-int8")
#endif

// The bits are those of every other instruction set: bfloat16 is rounded without the instruction for it, which takes
// subnormal numbers for zero.
#define VSR_ISA amx_int8
#define VSR_INT8_DOT
#include "cpu/vec_avx512.h"
//
#include "cpu/amx.h"

// Only the convolutions of uint8 differ from kernels_amx_bf16.cpp.
namespace vsr::cpu::amx_int8 {
namespace {

#include "cpu/vec.inl.h"
//
#include "cpu/types.inl.h"
//
#include "cpu/epilogue.inl.h"
//
#include "cpu/quantized.inl.h"

using TileValue = uint8_t;
using TileSum = int32_t;

#include "cpu/conv_tiles.inl.h"
//
#include "cpu/conv_quantized_amx.inl.h"

}  // namespace
}  // namespace vsr::cpu::amx_int8

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif

namespace vsr::cpu {

const Kernels& kernels_amx_int8() {
#if defined(VSR_HAS_AMX)
  static const Kernels table = [] {
    Kernels t = kernels_amx_bf16();
    t.isa = "amx_int8";
    t.quantized_conv3x3 = amx_int8::quantized_conv3x3;
    return t;
  }();
  return table;
#else
  return kernels_amx_bf16();
#endif
}

}  // namespace vsr::cpu
