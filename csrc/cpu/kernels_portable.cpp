#include "cpu/kernels.h"
#include "cpu/scratch.h"
#include "cpu/vec_portable.h"
#define VSR_ISA portable
#include "cpu/kernels.inl.h"

namespace vsr::cpu {

const Kernels& kernels_portable() {
  static const Kernels table{.isa = "portable",
                             .flow_warp = portable::flow_warp,
                             .flow_warp_grad_flow = portable::flow_warp_grad_flow,
                             .flow_warp_grad_x = portable::flow_warp_grad_x,
                             .conv_plan = portable::conv_plan,
                             .conv_pack = portable::conv_pack,
                             .conv3x3 = portable::conv3x3,
                             .epilogue_backward = portable::epilogue_backward,
                             .wgrad_plan = portable::wgrad_plan,
                             .wgrad_parts = portable::wgrad_parts,
                             .wgrad_sum = portable::wgrad_sum,
                             .quantized_conv3x3 = portable::quantized_conv3x3,
                             .pixel_shuffle = portable::pixel_shuffle};
  return table;
}

}  // namespace vsr::cpu
