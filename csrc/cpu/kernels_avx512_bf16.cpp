#include "cpu/kernels.h"
#include "cpu/scratch.h"

#if defined(__x86_64__)

// Everything below is compiled for this instruction set, whatever the flags of the build; nothing that other files
// share may be included here, since the linker could keep this copy of it for all of them.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")
#endif

#define VSR_ISA avx512_bf16
#define VSR_BF16_DOT
#include "cpu/vec_avx512.h"
//
#include "cpu/vec_avx512_bf16.h"

// Only what rounds much to bfloat16 differs from kernels_avx512.cpp and kernels_avx512_vnni.cpp.
namespace vsr::cpu::avx512_bf16 {
namespace {

#include "cpu/vec.inl.h"
//
#include "cpu/types.inl.h"
//
#include "cpu/flow_warp.inl.h"
//
#include "cpu/epilogue.inl.h"
//
#include "cpu/conv3x3.inl.h"

}  // namespace
}  // namespace vsr::cpu::avx512_bf16

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif

namespace vsr::cpu {

const Kernels& kernels_avx512_bf16() {
#if defined(__x86_64__)
  static const Kernels table = [] {
    Kernels t = kernels_avx512_vnni();
    t.isa = "avx512_bf16";
    t.flow_warp = avx512_bf16::flow_warp;
    t.flow_warp_grad_flow = avx512_bf16::flow_warp_grad_flow;
    t.flow_warp_grad_x = avx512_bf16::flow_warp_grad_x;
    t.conv_plan = avx512_bf16::conv_plan;
    t.conv_pack = avx512_bf16::conv_pack;
    t.conv3x3 = avx512_bf16::conv3x3;
    return t;
  }();
  return table;
#else
  return kernels_portable();
#endif
}

}  // namespace vsr::cpu
