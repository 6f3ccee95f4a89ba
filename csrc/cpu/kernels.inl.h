// The kernels of one instruction set. The including file has defined VSR_ISA, opened the target pragma and included the
// Vec of that instruction set.

namespace vsr::cpu::VSR_ISA {
namespace {

#include "cpu/vec.inl.h"
//
#include "cpu/flow_warp.inl.h"
//
#include "cpu/epilogue.inl.h"
//
#include "cpu/types.inl.h"
//
#include "cpu/conv3x3.inl.h"

// Calls f with a value of the element type and one of the flow field's, which is float32 or the same.
template <class F>
inline void with_types(DType dtype, DType flow_dtype, F f) {
  with_type(dtype, [&](auto element) {
    if (flow_dtype == DType::f32) return f(element, float{});
    return f(element, element);
  });
}

void flow_warp(const FlowWarp& p, int64_t begin, int64_t end) {
  with_types(p.dtype, p.flow_dtype,
             [&](auto element, auto flow) { warp_typed<decltype(element), decltype(flow)>(p, begin, end); });
}

void flow_warp_grad_flow(const FlowWarpBackward& p, int64_t begin, int64_t end) {
  with_types(p.dtype, p.flow_dtype,
             [&](auto element, auto flow) { warp_grad_flow_typed<decltype(element), decltype(flow)>(p, begin, end); });
}

void flow_warp_grad_x(const FlowWarpBackward& p, int64_t begin, int64_t end) {
  with_types(p.dtype, p.flow_dtype,
             [&](auto element, auto flow) { warp_grad_x_typed<decltype(element), decltype(flow)>(p, begin, end); });
}

void epilogue_backward(const EpilogueBackward& p, int64_t begin, int64_t end) {
  with_type(p.dtype, [&](auto element) { epilogue_backward_typed<decltype(element)>(p, begin, end); });
}

}  // namespace
}  // namespace vsr::cpu::VSR_ISA
