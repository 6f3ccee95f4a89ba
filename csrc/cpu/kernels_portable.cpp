#include "cpu/kernels.h"
#include "cpu/scratch.h"
#include "cpu/vec_portable.h"
#define VSR_ISA portable
#include "cpu/kernels.inl.h"

namespace vsr::cpu {

const Kernels& kernels_portable() {
  static const Kernels table{
      "portable",         portable::flow_warp,        portable::flow_warp_grad_flow, portable::flow_warp_grad_x,
      portable::epilogue, portable::epilogue_backward};
  return table;
}

}  // namespace vsr::cpu
