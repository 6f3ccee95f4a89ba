// The CPU kernels: one table per instruction set, chosen at run time by CPUID.
//
// Every kernel works on a range of rows (or other units that it names) and knows nothing of threads: the caller splits
// the range. No result depends on how it is split.
#pragma once

#include "core/epilogue.h"
#include "core/flow_warp.h"
#include "core/pixel_shuffle.h"
#include "cpu/conv3x3.h"
#include "cpu/conv_wgrad.h"
#include "cpu/quantized.h"

namespace vsr::cpu {

struct Kernels {
  const char* isa;
  // Rows [begin, end) of N * H output rows.
  void (*flow_warp)(const FlowWarp&, int64_t begin, int64_t end);
  // Rows [begin, end) of N * H: the gradient by flow.
  void (*flow_warp_grad_flow)(const FlowWarpBackward&, int64_t begin, int64_t end);
  // Units [begin, end) of N * grad_x_bands(H): one image and one band of its rows each, so that a destination has one
  // writer and sums are taken in raster order.
  void (*flow_warp_grad_x)(const FlowWarpBackward&, int64_t begin, int64_t end);
  // What to set as plan of a convolution of non-empty output.
  ConvPlan (*conv_plan)(const Conv&);
  // Units [begin, end) of plan.pack_units, into plan.packed_bytes bytes.
  void (*conv_pack)(const Conv&, void* packed, int64_t begin, int64_t end);
  // Blocks [begin, end) of plan.blocks.
  void (*conv3x3)(const Conv&, int64_t begin, int64_t end);
  // Rows [begin, end) of N * H rows before the shuffle.
  void (*epilogue_backward)(const EpilogueBackward&, int64_t begin, int64_t end);
  // What to set as plan of the gradient by a weight that is not empty.
  WeightGradPlan (*wgrad_plan)(const WeightGrad&);
  // Parts [begin, end) of plan.parts; then, from all of them, rows [begin, end) of plan.rows.
  void (*wgrad_parts)(const WeightGrad&, int64_t begin, int64_t end);
  void (*wgrad_sum)(const WeightGrad&, int64_t begin, int64_t end);
  // Rows [begin, end) of N * H rows before the shuffle.
  void (*quantized_conv3x3)(const QuantizedConv&, int64_t begin, int64_t end);
  // Units [begin, end) of shuffle_units().
  void (*pixel_shuffle)(const PixelShuffle&, int64_t begin, int64_t end);
};

// Every unit looks at the flow of the whole image: bands are few.
inline int64_t grad_x_bands(int64_t h) { return h < 16 ? h : 16; }

// Rows before the shuffle: of the batch, or of all planes after the shuffle.
inline int64_t shuffle_units(const PixelShuffle& p) { return p.n * p.h * (p.channels_last ? 1 : p.c); }

const Kernels& kernels_portable();
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
const Kernels& kernels_avx512_vnni();
const Kernels& kernels_avx512_bf16();
const Kernels& kernels_amx_bf16();
const Kernels& kernels_amx_int8();

// The best table for this CPU, or the one that VSR_KERNELS_CPU_ISA names (read once). Throws std::runtime_error for an
// unknown name or one that this CPU cannot run.
const Kernels& kernels();

// Moves of elements, which gain nothing from wider instructions. Pixels [begin, end).
void gather_channels(const ChannelGather&, int64_t begin, int64_t end);

}  // namespace vsr::cpu
