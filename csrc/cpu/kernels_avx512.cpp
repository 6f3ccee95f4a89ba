#include "cpu/kernels.h"
#include "cpu/scratch.h"

#if defined(__x86_64__)

// Everything below is compiled for this instruction set, whatever the flags of the build; nothing that other files
// share may be included here, since the linker could keep this copy of it for all of them.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")
#endif

#define VSR_ISA avx512
#include "cpu/vec_avx512.h"
//
#include "cpu/kernels.inl.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif

namespace vsr::cpu {

const Kernels& kernels_avx512() {
#if defined(__x86_64__)
  static const Kernels table{.isa = "avx512",
                             .flow_warp = avx512::flow_warp,
                             .flow_warp_grad_flow = avx512::flow_warp_grad_flow,
                             .flow_warp_grad_x = avx512::flow_warp_grad_x,
                             .conv_plan = avx512::conv_plan,
                             .conv_pack = avx512::conv_pack,
                             .conv3x3 = avx512::conv3x3,
                             .epilogue_backward = avx512::epilogue_backward,
                             .wgrad_plan = avx512::wgrad_plan,
                             .wgrad_parts = avx512::wgrad_parts,
                             .wgrad_sum = avx512::wgrad_sum,
                             .quantized_conv3x3 = avx512::quantized_conv3x3,
                             .pixel_shuffle = avx512::pixel_shuffle};
  return table;
#else
  return kernels_portable();
#endif
}

}  // namespace vsr::cpu
