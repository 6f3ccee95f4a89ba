// The kernels of one instruction set. The including file has defined VSR_ISA, opened the target pragma and included the
// Vec of that instruction set.

namespace vsr::cpu::VSR_ISA {
namespace {

#include "cpu/vec.inl.h"
//
#include "cpu/types.inl.h"
//
#include "cpu/flow_warp.inl.h"
//
#include "cpu/pixel_shuffle.inl.h"
//
#include "cpu/epilogue.inl.h"
//
#include "cpu/conv3x3.inl.h"
//
#include "cpu/conv_wgrad.inl.h"
//
#include "cpu/quantized.inl.h"
//
#include "cpu/conv_quantized.inl.h"

void epilogue_backward(const EpilogueBackward& p, int64_t begin, int64_t end) {
  with_type(p.dtype, [&](auto element) { epilogue_backward_typed<decltype(element)>(p, begin, end); });
}

}  // namespace
}  // namespace vsr::cpu::VSR_ISA
