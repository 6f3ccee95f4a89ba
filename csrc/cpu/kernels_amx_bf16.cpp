#include "cpu/amx_compiler.h"
#include "cpu/kernels.h"
#include "cpu/scratch.h"

#if defined(VSR_HAS_AMX)

// Everything below is compiled for this instruction set, whatever the flags of the build; nothing that other files
// share may be included here, since the linker could keep this copy of it for all of them.
#if defined(__clang__)
#pragma clang attribute push(                                                                                        \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c,prfchw,amx-tile,amx-bf16"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c,prfchw,amx-tile,amx-bf16")
#endif

#define VSR_ISA amx_bf16
#define VSR_BF16_DOT
#include "cpu/vec_avx512.h"
//
#include "cpu/vec_avx512_bf16.h"
//
#include "cpu/amx.h"

// Only the convolutions of bfloat16 differ from those of kernels_avx512_bf16.cpp.
namespace vsr::cpu::amx_bf16 {
namespace {

#include "cpu/vec.inl.h"
//
#include "cpu/types.inl.h"
//
#include "cpu/epilogue.inl.h"
//
#include "cpu/conv_gemm.inl.h"
//
#include "cpu/conv_pack.inl.h"
//
#include "cpu/conv_direct.inl.h"

using TileValue = bfloat16;
using TileSum = float;

#include "cpu/conv_tiles.inl.h"
//
#include "cpu/conv_amx.inl.h"

// By the counts of instructions, tiles do less work than vectors for all channels, one of each included; without input
// channels there is none to do. 7x7 kernels are left to vectors.
bool on_tiles(const Conv& p) { return p.size == 3 && p.tail.dtype == DType::bf16 && p.c_in > 0; }

ConvPlan conv_plan(const Conv& p) { return on_tiles(p) ? tile_plan(p) : kernels_avx512_bf16().conv_plan(p); }

void conv_pack(const Conv& p, void* packed, int64_t begin, int64_t end) {
  on_tiles(p) ? pack_tiles(p, packed, begin, end) : kernels_avx512_bf16().conv_pack(p, packed, begin, end);
}

void conv3x3(const Conv& p, int64_t begin, int64_t end) {
  if (!on_tiles(p)) return kernels_avx512_bf16().conv3x3(p, begin, end);
  gathers_taps(p.c_in) ? tile_blocks<1>(p, begin, end) : tile_blocks<3>(p, begin, end);
}

}  // namespace
}  // namespace vsr::cpu::amx_bf16

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif

namespace vsr::cpu {

const Kernels& kernels_amx_bf16() {
#if defined(VSR_HAS_AMX)
  static const Kernels table = [] {
    Kernels t = kernels_avx512_bf16();
    t.isa = "amx_bf16";
    t.conv_plan = amx_bf16::conv_plan;
    t.conv_pack = amx_bf16::conv_pack;
    t.conv3x3 = amx_bf16::conv3x3;
    return t;
  }();
  return table;
#else
  return kernels_avx512_bf16();
#endif
}

}  // namespace vsr::cpu
