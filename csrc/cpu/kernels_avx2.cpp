#include "cpu/kernels.h"
#include "cpu/scratch.h"

#if defined(__x86_64__)

// Everything below is compiled for this instruction set, whatever the flags of the build; nothing that other files
// share may be included here, since the linker could keep this copy of it for all of them.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#include "cpu/vec_avx2.h"
#define VSR_ISA avx2
#include "cpu/kernels.inl.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif

namespace vsr::cpu {

const Kernels& kernels_avx2() {
#if defined(__x86_64__)
  static const Kernels table{.isa = "avx2",
                             .flow_warp = avx2::flow_warp,
                             .flow_warp_grad_flow = avx2::flow_warp_grad_flow,
                             .flow_warp_grad_x = avx2::flow_warp_grad_x,
                             .conv_plan = avx2::conv_plan,
                             .conv_pack = avx2::conv_pack,
                             .conv3x3 = avx2::conv3x3,
                             .epilogue_backward = avx2::epilogue_backward,
                             .wgrad_plan = avx2::wgrad_plan,
                             .wgrad_parts = avx2::wgrad_parts,
                             .wgrad_sum = avx2::wgrad_sum,
                             .quantized_conv3x3 = avx2::quantized_conv3x3,
                             .pixel_shuffle = avx2::pixel_shuffle};
  return table;
#else
  return kernels_portable();
#endif
}

}  // namespace vsr::cpu
